import { timingSafeEqual } from 'node:crypto';
import nacl from 'tweetnacl';
import type { KeyPair } from './keys.js';

/*
 * A node's proof that it has its key: what it says in a box for the controller, which nobody can make who has neither that key
 * nor the controller's. Layout: nonce (24 bytes), box. What is said begins with words of its own, so that no descriptor, which
 * is a box between the same two keys, is ever taken for one.
 */

/** Makes the proof. @param content at most a few hundred bytes; not secret */
export function proveKey(content: Uint8Array, nodeKey: KeyPair, controllerPublicKey: Uint8Array): Uint8Array {
  const nonce = nacl.randomBytes(nacl.box.nonceLength);
  const box = nacl.box(Uint8Array.from(content), nonce, controllerPublicKey, nodeKey.secretKey);
  return Uint8Array.from(Buffer.concat([nonce, box]));
}

/** Whether it says this, and the node of that key made it for this controller. Takes any bytes. */
export function isProofOf(
  proof: Uint8Array,
  content: Uint8Array,
  keys: { readonly controllerKey: KeyPair; readonly nodePublicKey: Uint8Array },
): boolean {
  const length = nacl.box.nonceLength + nacl.box.overheadLength + content.length;
  if (proof.length !== length) return false;
  const nonce = Uint8Array.from(proof.subarray(0, nacl.box.nonceLength));
  const box = Uint8Array.from(proof.subarray(nacl.box.nonceLength));
  const said = nacl.box.open(box, nonce, keys.nodePublicKey, keys.controllerKey.secretKey);
  return said !== null && said.length === content.length && timingSafeEqual(said, content);
}
