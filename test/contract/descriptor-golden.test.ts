import { readFile } from 'node:fs/promises';
import { expect } from 'chai';
import {
  type DescriptorPayload,
  formatDescriptor,
  keyPairFromSecret,
  openDescriptor,
  sealDescriptor,
} from '../../src/descriptor/index.js';

interface Vector {
  name: string;
  node_secret_key_hex: string;
  controller_secret_key_hex: string;
  nonce_hex: string;
  payload: DescriptorPayload;
  text: string;
}

const bytes = (hex: string) => Uint8Array.from(Buffer.from(hex, 'hex'));

describe('descriptor: golden vectors', () => {
  let vectors: Vector[];
  before(async () => {
    vectors = JSON.parse(await readFile(new URL('./vectors/descriptor-v1.json', import.meta.url), 'utf8'));
  });

  it('seals to the same bytes and opens them: descriptors of a released version stay readable', () => {
    expect(vectors).not.to.have.lengthOf(0);
    for (const vector of vectors) {
      const node = keyPairFromSecret(bytes(vector.node_secret_key_hex));
      const controllerKey = keyPairFromSecret(bytes(vector.controller_secret_key_hex));
      const nonce = bytes(vector.nonce_hex);
      const sealed = sealDescriptor(vector.payload, { nodePublicKey: node.publicKey, controllerKey, nonce });
      expect(formatDescriptor(sealed), vector.name).to.equal(vector.text);
      const opened = openDescriptor(vector.text, {
        nodeKeys: [node],
        controllerPublicKeys: [controllerKey.publicKey],
        now: new Date(vector.payload.issued_at),
      });
      expect(opened.payload, vector.name).to.deep.equal(vector.payload);
    }
  });
});
