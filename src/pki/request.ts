import { createPrivateKey, createPublicKey, type webcrypto } from 'node:crypto';
import { Pkcs10CertificateRequest, Pkcs10CertificateRequestGenerator } from '@peculiar/x509';
import { type CertificateAndKey, certify, keyIdOf } from './authority.js';
import { CertificateError } from './errors.js';
import { ALGORITHM, newKeyPair, privateKeyPem, signingKey, verifyingKey } from './library.js';

/** Makes a key. @returns PEM, a secret */
export async function createKey(): Promise<string> {
  return privateKeyPem((await newKeyPair()).privateKey);
}

/**
 * Asks for a certificate for a key (PKCS #10, DER); proves that whoever asks has the key, and says nothing else: who it is for
 * is for the authority to know.
 * @param key PEM
 * @throws {CertificateError} when it is no key of the kind that is used here
 */
export async function createRequest(key: string): Promise<Uint8Array> {
  let keys: webcrypto.CryptoKeyPair;
  try {
    const secret = createPrivateKey(key);
    keys = { privateKey: await signingKey(secret), publicKey: await verifyingKey(createPublicKey(secret)) };
  } catch {
    // Without the cause: a library may repeat a piece of what it was given.
    throw new CertificateError('the key is not PEM of an ECDSA key on P-256');
  }
  const request = await Pkcs10CertificateRequestGenerator.create({ keys, signingAlgorithm: ALGORITHM });
  return new Uint8Array(request.rawData);
}

/**
 * Short name of the key that a request is for, as keyIdOf has it.
 * @throws {CertificateError} when it is no request, or whoever asks has not the key
 */
export async function keyIdOfRequest(request: Uint8Array): Promise<string> {
  return keyIdOf((await openRequest(request)).publicKey.rawData);
}

/** Signs what was asked for. Throws as {@link keyIdOfRequest} and when the authority cannot be used. */
export async function certifyRequest(
  authority: CertificateAndKey,
  request: Uint8Array,
  name: string,
  lifetimeMilliseconds: number,
): Promise<string> {
  const { publicKey } = await openRequest(request);
  return certify(authority, publicKey, { kind: 'caller', name, role: 'node' }, lifetimeMilliseconds);
}

async function openRequest(bytes: Uint8Array): Promise<Pkcs10CertificateRequest> {
  let request: Pkcs10CertificateRequest;
  let signed: boolean;
  try {
    request = new Pkcs10CertificateRequest(Uint8Array.from(bytes));
    signed = await request.verify();
  } catch (cause) {
    throw new CertificateError('it is no certificate request (PKCS #10, DER)', { cause });
  }
  if (!signed) throw new CertificateError('it is not signed with the key that it is for');
  return request;
}
