import { createHash } from 'node:crypto';
import nacl from 'tweetnacl';
import { KeyError } from './errors.js';

/** Length of an X25519 public or secret key in bytes. */
export const KEY_BYTES = 32;

/** Length of a key id in bytes, as it stands in a descriptor's header. Written out it has twice as many hex digits. */
export const KEY_ID_BYTES = 8;

/** An X25519 key pair: a node's, or the controller's for sealing. */
export interface KeyPair {
  /** 16 hex digits, from {@link keyIdOf}. */
  readonly keyId: string;
  /** 32 bytes. */
  readonly publicKey: Uint8Array;
  /** 32 bytes; never leaves the machine that made it. */
  readonly secretKey: Uint8Array;
}

/** The first 16 hex digits of SHA-256 of a public key: short enough to compare by eye, and it names a key in messages. */
export function keyIdOf(publicKey: Uint8Array): string {
  return createHash('sha256')
    .update(publicKey)
    .digest('hex')
    .slice(0, KEY_ID_BYTES * 2);
}

/** Makes a key pair from the operating system's randomness. */
export function generateKeyPair(): KeyPair {
  return keyPairFromSecret(nacl.box.keyPair().secretKey);
}

/**
 * Completes a key pair from its secret half.
 * @throws {KeyError} when it is not 32 bytes long.
 */
export function keyPairFromSecret(secretKey: Uint8Array): KeyPair {
  if (secretKey.length !== KEY_BYTES) {
    throw new KeyError('malformed', `a secret key has ${KEY_BYTES} bytes; this one has ${secretKey.length}`);
  }
  const { publicKey } = nacl.box.keyPair.fromSecretKey(secretKey);
  return { keyId: keyIdOf(publicKey), publicKey, secretKey };
}

const NODE_PREFIX = 'moorage-node-key:';
const CONTROLLER_PREFIX = 'moorage-controller-key:';

/** The form in which `storage-utils init` prints a node's public key, for `moorage node register`. */
export function formatNodePublicKey(publicKey: Uint8Array): string {
  return NODE_PREFIX + Buffer.from(publicKey).toString('base64');
}

/** The form in which the controller's public sealing key is printed, for `storage-utils trust`. */
export function formatControllerPublicKey(publicKey: Uint8Array): string {
  return CONTROLLER_PREFIX + Buffer.from(publicKey).toString('base64');
}

/**
 * Reads what {@link formatNodePublicKey} printed.
 * @throws {KeyError} that says what is wrong; a controller's key is named as such.
 */
export function parseNodePublicKey(text: string): Uint8Array {
  return parsePublicKey(text, NODE_PREFIX, "a node's public key");
}

/**
 * Reads what {@link formatControllerPublicKey} printed.
 * @throws {KeyError} that says what is wrong; a node's key is named as such.
 */
export function parseControllerPublicKey(text: string): Uint8Array {
  return parsePublicKey(text, CONTROLLER_PREFIX, "a controller's public key");
}

function parsePublicKey(text: string, prefix: string, what: string): Uint8Array {
  const trimmed = text.trim();
  if (!trimmed.startsWith(prefix)) {
    const other = prefix === NODE_PREFIX ? CONTROLLER_PREFIX : NODE_PREFIX;
    const hint = trimmed.startsWith(other) ? `, and this begins with "${other}"` : '';
    throw new KeyError('malformed', `${what} begins with "${prefix}"${hint}`);
  }
  return decodeKey(trimmed.slice(prefix.length), what);
}

/**
 * Decodes one key from base64.
 * @param what names the key in the error.
 * @throws {KeyError} when it is not the base64 of 32 bytes. The text itself is not repeated: it may be a secret.
 */
export function decodeKey(base64: string, what: string): Uint8Array {
  const bytes = Buffer.from(base64, 'base64');
  if (bytes.length !== KEY_BYTES || bytes.toString('base64') !== base64) {
    throw new KeyError('malformed', `${what} is the base64 of ${KEY_BYTES} bytes (44 characters that end in "=")`);
  }
  // A copy: Buffers share their pool's memory, and tweetnacl's callers may zero a key.
  return Uint8Array.from(bytes);
}
