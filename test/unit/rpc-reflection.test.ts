import { Client, credentials, status } from '@grpc/grpc-js';
import { expect } from 'chai';
import protobuf from 'protobufjs';
import descriptorModule from 'protobufjs/ext/descriptor/index.js';
import { fakeServices } from '../helpers/fake-services.js';
import { plainListener, serve, type TestServer } from '../helpers/server.js';

// The wire numbers of the reflection protocol, written down once more: a client in another language has them too.
const wire = protobuf.parse(`
  syntax = "proto3";
  message Request { oneof ask { string file_by_filename = 3; string file_containing_symbol = 4; string types = 6; string list_services = 7; } }
  message Files { repeated bytes file_descriptor_proto = 1; }
  message Service { string name = 1; }
  message Services { repeated Service service = 1; }
  message Failure { int32 error_code = 1; string error_message = 2; }
  message Response { Request original_request = 2; Files files = 4; Services services = 6; Failure failure = 7; }
`).root;

interface Response {
  files?: { fileDescriptorProto: Uint8Array[] };
  services?: { service: { name: string }[] };
  failure?: { errorCode: number; errorMessage: string };
}

describe('server reflection', () => {
  let running: TestServer;
  let client: Client;
  before(async () => {
    running = await serve(fakeServices({}).services, [plainListener]);
    client = new Client(running.server.addresses[0] ?? '', credentials.createInsecure());
  });
  after(async () => {
    client.close();
    await running.server.stop(0);
  });

  function ask(version: string, request: object): Promise<Response> {
    const requestType = wire.lookupType('Request');
    const responseType = wire.lookupType('Response');
    return new Promise((resolve, reject) => {
      const call = client.makeBidiStreamRequest(
        `/grpc.reflection.${version}.ServerReflection/ServerReflectionInfo`,
        (value: object) => Buffer.from(requestType.encode(requestType.fromObject(value)).finish()),
        (bytes: Buffer) => responseType.decode(bytes) as unknown as Response,
        { deadline: Date.now() + 60_000 },
      );
      call.on('data', resolve);
      call.on('error', reject);
      call.write(request);
      call.end();
    });
  }

  for (const version of ['v1', 'v1alpha']) {
    it(`${version} lists every service, and gives files from which all of them can be built`, async () => {
      const { services } = await ask(version, { listServices: '' });
      const names = services?.service.map((service) => service.name) ?? [];
      expect(names).to.include.members([
        'grpc.health.v1.Health',
        'grpc.reflection.v1.ServerReflection',
        'grpc.reflection.v1alpha.ServerReflection',
        'moorage.v1.NodeService',
        'moorage.v1.OperationService',
        'moorage.v1.PoolService',
        'moorage.v1.StorageControllerService',
      ]);
      expect(names.filter((name) => name.startsWith('moorage.backend'))).to.deep.equal([]);
      for (const name of names) {
        const { files } = await ask(version, { fileContainingSymbol: name });
        const set = {
          file: files?.fileDescriptorProto.map((each) => descriptorModule.FileDescriptorProto.decode(each)),
        };
        const given = new Set(set.file?.map((file) => (file as unknown as { name: string }).name));
        for (const file of set.file ?? []) {
          const { dependency = [] } = file as unknown as { dependency?: string[] };
          for (const each of dependency) expect([...given], name).to.include(each);
        }
        const root = (protobuf.Root as unknown as { fromDescriptor(set: object): protobuf.Root }).fromDescriptor(set);
        root.resolveAll();
        expect(root.lookupService(name).methodsArray, name).not.to.deep.equal([]);
      }
    });

    it(`${version} finds a message, a field and a file, and says what it does not know`, async () => {
      for (const request of [
        { fileContainingSymbol: 'moorage.v1.Volume' },
        { fileContainingSymbol: 'moorage.v1.Volume.size_bytes' },
        { fileContainingSymbol: 'moorage.v1.StorageControllerService.CreateVolume' },
        { fileByFilename: 'google/protobuf/timestamp.proto' },
      ]) {
        expect((await ask(version, request)).files?.fileDescriptorProto, JSON.stringify(request)).not.to.be.empty;
      }
      const { failure } = await ask(version, { fileContainingSymbol: 'moorage.v1.Nothing' });
      expect(failure?.errorCode).to.equal(status.NOT_FOUND);
      expect((await ask(version, {})).failure?.errorCode).to.equal(status.UNIMPLEMENTED);
    });
  }

  it('health says SERVING for the whole and for each service', async () => {
    const types = protobuf.parse(
      'syntax = "proto3"; message Check { string service = 1; } message State { int32 status = 1; }',
    ).root;
    for (const service of ['', 'moorage.v1.StorageControllerService', 'moorage.v1.PoolService']) {
      const state = await new Promise<unknown>((resolve, reject) =>
        client.makeUnaryRequest(
          '/grpc.health.v1.Health/Check',
          (value: object) => Buffer.from(types.lookupType('Check').encode(value).finish()),
          (bytes: Buffer) => types.lookupType('State').decode(bytes),
          { service },
          (error, answer) => (error ? reject(error) : resolve(answer)),
        ),
      );
      expect(state).to.include({ status: 1 });
    }
  });
});
