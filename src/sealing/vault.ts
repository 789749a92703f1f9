import { createHmac, hkdfSync, timingSafeEqual } from 'node:crypto';
import nacl from 'tweetnacl';
import type { Vault } from '../core/ports/sealer.js';
import { KEY_ID_BYTES, type MasterKey, type MasterKeys } from './master-key.js';

/*
 * Layout of what rests sealed: version (1 byte), key id (8), nonce (24), secretbox.
 * Layout of what is authenticated: version (1), key id (8), HMAC-SHA-256 (32), the bytes themselves.
 *
 * tweetnacl's secretbox knows no associated data, so the context goes into the key: each context has a key of its own by
 * HKDF, and what was sealed for one does not open for another. The keys of a purpose are also their own.
 */
const VERSION = 1;
const HEADER_BYTES = 1 + KEY_ID_BYTES;
const TAG_BYTES = 32;

/** What rests sealed cannot be opened: altered, of another context, or under a key that is not in the key file. */
export class VaultError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'VaultError';
  }
}

/** The master key at work: see {@link Vault}. */
export function createVault(keys: MasterKeys): Vault {
  const byId = new Map(keys.all.map((key) => [key.id, key]));
  const authenticationKeys = new Map<string, Uint8Array>();

  function authenticationKey(key: MasterKey, purpose: string): Uint8Array {
    const name = `${key.id}/${purpose}`;
    let derived = authenticationKeys.get(name);
    if (derived === undefined) {
      derived = derive(key, `moorage authenticate v1\0${purpose}`);
      authenticationKeys.set(name, derived);
    }
    return derived;
  }

  function keyOf(bytes: Uint8Array): MasterKey | undefined {
    if (bytes[0] !== VERSION) return undefined;
    return byId.get(Buffer.from(bytes.subarray(1, HEADER_BYTES)).toString('hex'));
  }

  return {
    seal(plain, context) {
      const nonce = nacl.randomBytes(nacl.secretbox.nonceLength);
      const box = nacl.secretbox(Uint8Array.from(plain), nonce, sealingKey(keys.current, context));
      return Buffer.concat([header(keys.current), nonce, box]).toString('base64');
    },

    open(sealed, context) {
      const bytes = Uint8Array.from(Buffer.from(sealed, 'base64'));
      const key = keyOf(bytes);
      if (key === undefined)
        throw new VaultError(`What is kept for ${context} was sealed with a master key that this controller has not.`);
      const boxStart = HEADER_BYTES + nacl.secretbox.nonceLength;
      const nonce = bytes.subarray(HEADER_BYTES, boxStart);
      const plain =
        nonce.length === nacl.secretbox.nonceLength
          ? nacl.secretbox.open(bytes.subarray(boxStart), nonce, sealingKey(key, context))
          : null;
      if (plain === null) throw new VaultError(`What is kept for ${context} was altered, or is of something else.`);
      return plain;
    },

    authenticate(plain, purpose) {
      const start = header(keys.current);
      return Uint8Array.from(
        Buffer.concat([start, tag(authenticationKey(keys.current, purpose), start, plain), plain]),
      );
    },

    verify(authenticated, purpose) {
      const key = keyOf(authenticated);
      if (key === undefined || authenticated.length < HEADER_BYTES + TAG_BYTES) return undefined;
      const plain = authenticated.slice(HEADER_BYTES + TAG_BYTES);
      const expected = tag(authenticationKey(key, purpose), authenticated.subarray(0, HEADER_BYTES), plain);
      const given = authenticated.subarray(HEADER_BYTES, HEADER_BYTES + TAG_BYTES);
      return timingSafeEqual(expected, given) ? plain : undefined;
    },
  };
}

function header(key: MasterKey): Uint8Array {
  return Buffer.concat([Buffer.of(VERSION), Buffer.from(key.id, 'hex')]);
}

function sealingKey(key: MasterKey, context: string): Uint8Array {
  return derive(key, `moorage seal v1\0${context}`);
}

function derive(key: MasterKey, info: string): Uint8Array {
  // HKDF limits info to 1,024 bytes; contexts are ids and far shorter.
  return new Uint8Array(hkdfSync('sha256', key.secret, '', info, 32));
}

function tag(key: Uint8Array, start: Uint8Array, plain: Uint8Array): Uint8Array {
  return createHmac('sha256', key).update(start).update(plain).digest();
}
