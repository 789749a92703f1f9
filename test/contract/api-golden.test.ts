import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import protobuf from 'protobufjs';
import { protosDirectory } from '../../src/rpc/definitions.js';

/** A message of a released version: what it says and the bytes that it is. */
interface Vector {
  readonly message: string;
  /** As the proto loader has it: camelCase, int64 as text, enumerations by name, bytes as base64. */
  readonly value: object;
  readonly hex: string;
}

/*
 * Bytes that were written once stay what they are: a field that changes its number or its type fails here. A new field adds
 * a vector and changes none. The Python client reads the same vectors.
 */
describe('contract: golden vectors of the API', () => {
  const path = new URL('vectors/api-v1.json', import.meta.url);
  const vectors = JSON.parse(readFileSync(path, 'utf8')) as Vector[];
  const root = new protobuf.Root();
  root.resolvePath = (_origin, target) => (target.startsWith('google/') ? target : join(protosDirectory, target));
  root.loadSync(
    ['storage_controller', 'node', 'pool', 'operation', 'event'].map((name) => `moorage/v1/${name}_service.proto`),
  );
  root.resolveAll();

  it('are there for the request and the response of every method', () => {
    const known = new Set(vectors.map((vector) => vector.message));
    const api = root.lookup('moorage.v1') as protobuf.Namespace;
    const services = api.nestedArray.filter((each) => each instanceof protobuf.Service);
    expect(services).to.have.length(5);
    for (const method of services.flatMap((service) => service.methodsArray)) {
      expect([...known], method.fullName).to.include.members([
        `moorage.v1.${method.requestType}`,
        `moorage.v1.${method.responseType}`,
      ]);
    }
  });

  for (const [index, { message, value, hex }] of vectors.entries()) {
    it(`${index}: ${message} is written to these bytes and read from them`, () => {
      const type = root.lookupType(message);
      expect(Buffer.from(type.encode(type.fromObject(value)).finish()).toString('hex')).to.equal(hex);
      const read = type.toObject(type.decode(Buffer.from(hex, 'hex')), { longs: String, enums: String, bytes: String });
      expect(read).to.deep.equal(value);
    });
  }
});
