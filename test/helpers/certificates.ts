import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Paths of a certificate and its key. */
export interface CertificatePair {
  readonly certificate: string;
  readonly key: string;
}

/** A certificate authority for a test, made with openssl in a folder of the test's. */
export class TestAuthority {
  readonly certificate: string;
  readonly #key: string;
  readonly #folder: string;

  constructor(folder: string, name = 'ca') {
    this.#folder = folder;
    this.certificate = join(folder, `${name}.pem`);
    this.#key = join(folder, `${name}.key`);
    const subject = `/CN=moorage test ${name}`;
    openssl('req', '-x509', ...newKey(this.#key), '-subj', subject, '-days', '2', '-out', this.certificate);
  }

  /** A certificate for a server on loopback. */
  server(name = 'server'): CertificatePair {
    return this.#issue(name, '/CN=localhost', 'subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1');
  }

  /** A client certificate. @param subject in openssl's form, as "/OU=admin/CN=alice" */
  client(name: string, subject: string): CertificatePair {
    return this.#issue(name, subject, 'extendedKeyUsage=clientAuth');
  }

  #issue(name: string, subject: string, extension: string): CertificatePair {
    const pair = { certificate: join(this.#folder, `${name}.pem`), key: join(this.#folder, `${name}.key`) };
    const request = join(this.#folder, `${name}.csr`);
    const extensions = join(this.#folder, `${name}.ext`);
    writeFileSync(extensions, `${extension}\n`);
    openssl('req', '-new', ...newKey(pair.key), '-subj', subject, '-out', request);
    openssl(
      ...['x509', '-req', '-in', request, '-CA', this.certificate, '-CAkey', this.#key, '-CAcreateserial'],
      ...['-days', '2', '-extfile', extensions, '-out', pair.certificate],
    );
    return pair;
  }
}

function newKey(path: string): string[] {
  return ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', path];
}

function openssl(...parameters: string[]): void {
  execFileSync('openssl', parameters, { stdio: ['ignore', 'ignore', 'pipe'] });
}
