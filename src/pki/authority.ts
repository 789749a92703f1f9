import {
  createHash,
  createPrivateKey,
  X509Certificate as NodeCertificate,
  randomBytes,
  type webcrypto,
} from 'node:crypto';
import { isIP } from 'node:net';
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  type PublicKey,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
} from '@peculiar/x509';
import { CertificateError } from './errors.js';
import { ALGORITHM, newKeyPair, privateKeyPem, signingKey } from './library.js';

/** A certificate and its key, as PEM. The key is a secret. */
export interface CertificateAndKey {
  readonly certificate: string;
  readonly key: string;
}

/** Whom a certificate is for. */
export type Holder =
  /** A server: its names and addresses. */
  | { readonly kind: 'server'; readonly hosts: readonly string[] }
  /** A caller of the API: subject CN = name, OU = role. */
  | { readonly kind: 'caller'; readonly name: string; readonly role: 'admin' | 'node' | 'reader' };

/** Clocks of two machines differ. */
const BACKDATED_MILLISECONDS = 5 * 60 * 1000;

/** Makes a certificate authority that signs servers and callers. @param lifetimeMilliseconds of its certificate */
export async function createAuthority(name: string, lifetimeMilliseconds: number): Promise<CertificateAndKey> {
  const keys = await newKeyPair();
  const now = Date.now();
  const certificate = await X509CertificateGenerator.createSelfSigned({
    serialNumber: newSerialNumber(),
    name: [{ CN: [name] }],
    notBefore: new Date(now - BACKDATED_MILLISECONDS),
    notAfter: new Date(now + lifetimeMilliseconds),
    signingAlgorithm: ALGORITHM,
    keys,
    extensions: [
      // Signs no other authority: what it signs is a server or a caller.
      new BasicConstraintsExtension(true, 0, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return { certificate: `${certificate.toString('pem')}\n`, key: await privateKeyPem(keys.privateKey) };
}

/**
 * Makes a key and a certificate for it.
 * @param lifetimeMilliseconds at most as long as the authority's
 * @throws {CertificateError} when the authority cannot be used
 */
export async function issueCertificate(
  authority: CertificateAndKey,
  holder: Holder,
  lifetimeMilliseconds: number,
): Promise<CertificateAndKey> {
  const keys = await newKeyPair();
  const certificate = await certify(authority, keys.publicKey, holder, lifetimeMilliseconds);
  return { certificate, key: await privateKeyPem(keys.privateKey) };
}

/** Signs a certificate for a public key. @throws {CertificateError} when the authority cannot be used */
export async function certify(
  authority: CertificateAndKey,
  publicKey: webcrypto.CryptoKey | PublicKey,
  holder: Holder,
  lifetimeMilliseconds: number,
): Promise<string> {
  const { issuer, key } = await openAuthority(authority);
  const now = Date.now();
  const end = Math.min(now + lifetimeMilliseconds, issuer.notAfter.getTime());
  if (end <= now) throw new CertificateError('the certificate of the authority has expired');
  const isServer = holder.kind === 'server';
  const usage = isServer ? ExtendedKeyUsage.serverAuth : ExtendedKeyUsage.clientAuth;
  const certificate = await X509CertificateGenerator.create({
    serialNumber: newSerialNumber(),
    issuer: issuer.subjectName,
    subject: isServer ? [{ CN: [holder.hosts[0] ?? ''] }] : [{ OU: [holder.role] }, { CN: [holder.name] }],
    notBefore: new Date(now - BACKDATED_MILLISECONDS),
    notAfter: new Date(end),
    signingAlgorithm: ALGORITHM,
    publicKey,
    signingKey: key,
    extensions: [
      new BasicConstraintsExtension(false, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
      new ExtendedKeyUsageExtension([usage]),
      await AuthorityKeyIdentifierExtension.create(issuer.publicKey),
      ...(isServer ? [new SubjectAlternativeNameExtension(holder.hosts.map(alternativeName))] : []),
    ],
  });
  return `${certificate.toString('pem')}\n`;
}

function alternativeName(host: string): { readonly type: 'ip' | 'dns'; readonly value: string } {
  return { type: isIP(host) === 0 ? 'dns' : 'ip', value: host };
}

async function openAuthority(authority: CertificateAndKey) {
  try {
    const key = createPrivateKey(authority.key);
    if (!new NodeCertificate(authority.certificate).checkPrivateKey(key)) {
      throw new CertificateError('the key of the authority does not belong to its certificate');
    }
    return { issuer: new X509Certificate(authority.certificate), key: await signingKey(key) };
  } catch (cause) {
    if (cause instanceof CertificateError) throw cause;
    // Without the cause: a library may repeat a piece of what it was given.
    throw new CertificateError('the certificate and the key of the authority cannot be read (PEM; ECDSA on P-256)');
  }
}

/** Positive, and 127 random bits: nobody can foresee it. */
function newSerialNumber(): string {
  const bytes = randomBytes(16);
  bytes[0] = (bytes[0] ?? 0) & 0x7f;
  return bytes.toString('hex');
}

/** Short name of a certificate's key: SHA-256 of its public half (SubjectPublicKeyInfo), in hexadecimal digits. */
export function keyIdOf(subjectPublicKeyInfo: ArrayBuffer | Uint8Array): string {
  return createHash('sha256').update(new Uint8Array(subjectPublicKeyInfo)).digest('hex');
}
