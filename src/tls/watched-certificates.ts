import { X509Certificate } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { createSecureContext } from 'node:tls';
import type { experimental } from '@grpc/grpc-js';

/*
 * Certificates that are read again when their files change, for a server and for a client: connections that are made from then
 * on use the new ones, and those that there are go on. A leaf.
 *
 * Not grpc-js's own provider: that one takes what it finds, and a key that does not fit its certificate yet (the two files are
 * never replaced in one instant), or a file that is gone for a moment, would turn every caller away. Here what was good stays
 * until all of it is good again.
 */

/** Paths of PEM files. */
export interface CertificatePaths {
  /** Own certificate chain and its key: both or neither. */
  readonly certificate?: string | undefined;
  readonly key?: string | undefined;
  /** Authorities that sign the other side. */
  readonly ca?: string | undefined;
}

/** What became of a change of the files. */
export interface CertificateEvent {
  readonly kind: 'loaded' | 'refused';
  /** Why it was refused: a sentence. */
  readonly message: string;
  /** Whether an authority that was trusted before no longer is. */
  readonly authorityWithdrawn: boolean;
}

/** A file that cannot be used: names it, and never holds what is in it. */
export class CertificateFileError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'CertificateFileError';
  }
}

/** How often files are looked at, in milliseconds. */
export const CERTIFICATE_INTERVAL_MILLISECONDS = 5_000;

/** Certificates of callers that are kept in mind. */
const MOST_KNOWN = 10_000;

interface Material {
  readonly certificate: Buffer | undefined;
  readonly key: Buffer | undefined;
  readonly ca: Buffer | undefined;
  readonly authorities: readonly X509Certificate[];
}

type CaListener = Parameters<experimental.CertificateProvider['addCaCertificateListener']>[0];
type IdentityListener = Parameters<experimental.CertificateProvider['addIdentityCertificateListener']>[0];

/** Certificates of files; looks at them for as long as somebody uses them. */
export class WatchedCertificates implements experimental.CertificateProvider {
  readonly #paths: CertificatePaths;
  readonly #intervalMilliseconds: number;
  readonly #onEvent: (event: CertificateEvent) => void;
  readonly #caListeners = new Set<CaListener>();
  readonly #identityListeners = new Set<IdentityListener>();
  #material: Material;
  #timer: NodeJS.Timeout | undefined;
  #refused = '';
  /** By fingerprint, what was found out already. */
  readonly #issued = new Map<string, boolean>();

  /** @throws {CertificateFileError} when they cannot be used now */
  constructor(
    paths: CertificatePaths,
    onEvent: (event: CertificateEvent) => void = () => undefined,
    intervalMilliseconds = CERTIFICATE_INTERVAL_MILLISECONDS,
  ) {
    this.#paths = paths;
    this.#onEvent = onEvent;
    this.#intervalMilliseconds = intervalMilliseconds;
    this.#material = materialOf(readFiles(paths), paths);
  }

  /** Looks at the files now. What cannot be used is told once, and what was good before stays. */
  reload(): void {
    const before = this.#material;
    let next: Material;
    try {
      const files = readFiles(this.#paths);
      if (same(before.certificate, files.certificate) && same(before.key, files.key) && same(before.ca, files.ca)) {
        // What was refused in between is undone.
        this.#refused = '';
        return;
      }
      next = materialOf(files, this.#paths);
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      if (message !== this.#refused) this.#onEvent({ kind: 'refused', message, authorityWithdrawn: false });
      this.#refused = message;
      return;
    }
    this.#refused = '';
    this.#material = next;
    for (const listener of this.#identityListeners) listener(this.#identity);
    for (const listener of this.#caListeners) listener(this.#ca);
    this.#issued.clear();
    const kept = new Set(next.authorities.map((each) => each.fingerprint256));
    const authorityWithdrawn = before.authorities.some((each) => !kept.has(each.fingerprint256));
    this.#onEvent({ kind: 'loaded', message: '', authorityWithdrawn });
  }

  /**
   * Whether one of the authorities that are trusted now has signed the certificate itself: a connection may have been made
   * when others were. @param fingerprint SHA-256 of the certificate
   */
  hasIssued(certificate: Buffer, fingerprint: string): boolean {
    const known = this.#issued.get(fingerprint);
    if (known !== undefined) return known;
    const leaf = new X509Certificate(certificate);
    const issued = this.#material.authorities.some((each) => leaf.checkIssued(each) && leaf.verify(each.publicKey));
    if (this.#issued.size >= MOST_KNOWN) this.#issued.clear();
    this.#issued.set(fingerprint, issued);
    return issued;
  }

  addCaCertificateListener(listener: CaListener): void {
    this.#caListeners.add(listener);
    // Later, because whoever adds it is not ready to be told yet.
    process.nextTick(() => listener(this.#ca));
    this.#watch();
  }

  removeCaCertificateListener(listener: CaListener): void {
    this.#caListeners.delete(listener);
    this.#watch();
  }

  addIdentityCertificateListener(listener: IdentityListener): void {
    this.#identityListeners.add(listener);
    process.nextTick(() => listener(this.#identity));
    this.#watch();
  }

  removeIdentityCertificateListener(listener: IdentityListener): void {
    this.#identityListeners.delete(listener);
    this.#watch();
  }

  get #ca(): { caCertificate: Buffer } | null {
    const { ca } = this.#material;
    return ca === undefined ? null : { caCertificate: ca };
  }

  get #identity(): { certificate: Buffer; privateKey: Buffer } | null {
    const { certificate, key } = this.#material;
    return certificate === undefined || key === undefined ? null : { certificate, privateKey: key };
  }

  #watch(): void {
    const wanted = this.#caListeners.size + this.#identityListeners.size > 0;
    if (wanted) this.#timer ??= setInterval(() => this.reload(), this.#intervalMilliseconds).unref();
    else {
      clearInterval(this.#timer);
      this.#timer = undefined;
    }
  }
}

function same(a: Buffer | undefined, b: Buffer | undefined): boolean {
  return a === undefined || b === undefined ? a === b : a.equals(b);
}

type Files = Omit<Material, 'authorities'>;

function readFiles({ certificate, key, ca }: CertificatePaths): Files {
  if (key !== undefined) requirePrivate(key);
  return {
    certificate: certificate === undefined ? undefined : read('certificate', certificate),
    key: key === undefined ? undefined : read('key', key),
    ca: ca === undefined ? undefined : read('certificate authority', ca),
  };
}

function materialOf(material: Files, { certificate, key, ca }: CertificatePaths): Material {
  try {
    // The same check as when a connection is made: that they are PEM, and that the key fits.
    createSecureContext({
      ...(material.certificate !== undefined && { cert: material.certificate, key: material.key }),
      ...(material.ca !== undefined && { ca: material.ca }),
    });
  } catch (cause) {
    throw new CertificateFileError(
      `certificate and key do not work together (${[certificate, key].filter((each) => each !== undefined).join(', ')}): ${(cause as Error).message}`,
      { cause },
    );
  }
  return { ...material, authorities: material.ca === undefined ? [] : authoritiesOf(material.ca, ca ?? '') };
}

/** Others must not read it; a group may, as of a keyring. */
function requirePrivate(path: string): void {
  const mode = statSync(path, { throwIfNoEntry: false })?.mode ?? 0;
  if ((mode & 0o027) === 0) return;
  const shown = (mode & 0o7777).toString(8).padStart(4, '0');
  throw new CertificateFileError(
    `the key ${path} has mode ${shown}, so others may read or change it; run "chmod 0600 ${path}"`,
  );
}

function read(what: string, path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (cause) {
    throw new CertificateFileError(`the ${what} ${path} cannot be read: ${(cause as Error).message}`, { cause });
  }
}

const PEM_CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g;

function authoritiesOf(pem: Buffer, path: string): readonly X509Certificate[] {
  const found = pem.toString('latin1').match(PEM_CERTIFICATE) ?? [];
  try {
    if (found.length === 0) throw new Error('there is none in it');
    return found.map((text) => new X509Certificate(text));
  } catch (cause) {
    throw new CertificateFileError(`${path} holds no certificates that can be read (PEM)`, { cause });
  }
}
