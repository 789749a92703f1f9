import { invalidField } from '../core/errors.js';
import type { DescriptorSealer } from '../core/ports/sealer.js';
import { isProofOf, KEY_BYTES, type KeyPair, keyIdOf, PAYLOAD_VERSION, sealDescriptor } from '../descriptor/index.js';

/** Seals descriptors with the controller's key pair: see {@link DescriptorSealer}. */
export function createDescriptorSealer(controllerKey: KeyPair): DescriptorSealer {
  return {
    publicKey: controllerKey.publicKey,

    isFromNode(box, content, nodePublicKey) {
      const nodeKey = Uint8Array.from(Buffer.from(nodePublicKey, 'base64'));
      return isProofOf(box, content, { controllerKey, nodePublicKey: nodeKey });
    },

    seal(payload, nodePublicKey) {
      return sealDescriptor(
        {
          version: PAYLOAD_VERSION,
          export_id: payload.exportId,
          volume_id: payload.volumeId,
          node_id: payload.nodeId,
          size_bytes: payload.sizeBytes,
          read_only: payload.readOnly,
          issued_at: new Date(payload.issueTime).toISOString(),
          expires_at: new Date(payload.expireTime).toISOString(),
          connector: payload.connector,
          pool: parseObject(payload.poolJson, 'pool'),
          image: { name: payload.imageName },
          access: parseObject(payload.accessJson, 'access'),
        },
        { nodePublicKey: Uint8Array.from(Buffer.from(nodePublicKey, 'base64')), controllerKey },
      );
    },

    publicKeyId(nodePublicKey) {
      if (nodePublicKey.length !== KEY_BYTES) {
        throw invalidField(
          'public_key',
          `has ${nodePublicKey.length} bytes; a node's key has ${KEY_BYTES}: what "storage-utils init" prints after "moorage-node-key:", decoded from base64`,
        );
      }
      // A box to this point has a shared key that everybody knows.
      if (nodePublicKey.every((byte) => byte === 0)) {
        throw invalidField('public_key', 'is all zeros; give what "storage-utils init" printed');
      }
      return keyIdOf(nodePublicKey);
    },
  };
}

type JsonObject = Parameters<typeof sealDescriptor>[0]['pool'];

function parseObject(json: Uint8Array, what: string): JsonObject {
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(json.buffer, json.byteOffset, json.byteLength).toString('utf8'));
  } catch {
    // Without the cause: the message of JSON.parse repeats a piece of the text, which may hold a key.
    throw new Error(`The backend's answer for "${what}" is not JSON.`);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new Error(`The backend's answer for "${what}" is not a JSON object.`);
  }
  return value as JsonObject;
}
