import { type KeyObject, webcrypto } from 'node:crypto';
import { cryptoProvider } from '@peculiar/x509';

/*
 * What certificates are made with: @peculiar/x509 on Node's own WebCrypto. Keys are ECDSA on P-256, which every TLS library
 * takes.
 */

const { subtle } = webcrypto;
cryptoProvider.set(webcrypto);

/** How keys are made and what they sign with. */
export const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;

/** Makes a key pair whose secret half can be written to a file. */
export function newKeyPair(): Promise<webcrypto.CryptoKeyPair> {
  return subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
}

/** A key of a file, for the library. @throws Error when it is not of that kind */
export function signingKey(key: KeyObject): Promise<webcrypto.CryptoKey> {
  const bytes = Uint8Array.from(key.export({ format: 'der', type: 'pkcs8' }));
  return subtle.importKey('pkcs8', bytes, ALGORITHM, true, ['sign']);
}

/** Its public half, for the library. */
export function verifyingKey(key: KeyObject): Promise<webcrypto.CryptoKey> {
  const bytes = Uint8Array.from(key.export({ format: 'der', type: 'spki' }));
  return subtle.importKey('spki', bytes, ALGORITHM, true, ['verify']);
}

/** A secret key as PEM (PKCS #8). */
export async function privateKeyPem(key: webcrypto.CryptoKey): Promise<string> {
  const bytes = Buffer.from(await subtle.exportKey('pkcs8', key)).toString('base64');
  const lines = bytes.match(/.{1,64}/g) ?? [];
  return `-----BEGIN PRIVATE KEY-----\n${lines.join('\n')}\n-----END PRIVATE KEY-----\n`;
}
