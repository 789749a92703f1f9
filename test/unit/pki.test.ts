import { X509Certificate } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import {
  type CertificateAndKey,
  CertificateError,
  certifyRequest,
  createAuthority,
  createKey,
  createRequest,
  issueCertificate,
  keyIdOf,
  keyIdOfRequest,
  readKey,
  writeWhole,
} from '../../src/pki/index.js';

const DAY = 24 * 3_600_000;

async function failureOf(promise: Promise<unknown>): Promise<string> {
  const error: unknown = await promise.then(
    () => new Error('it did not fail'),
    (caught: unknown) => caught,
  );
  expect(error).to.be.instanceOf(CertificateError);
  return (error as Error).message;
}

describe('the certificate authority', () => {
  let authority: CertificateAndKey;
  before(async () => {
    authority = await createAuthority('test authority', 30 * DAY);
  });

  it('signs servers and callers, and nothing that signs others', async () => {
    const root = new X509Certificate(authority.certificate);
    expect(root.ca).to.equal(true);
    const server = await issueCertificate(authority, { kind: 'server', hosts: ['localhost', '127.0.0.1', '::1'] }, DAY);
    const seen = new X509Certificate(server.certificate);
    expect(seen.checkIssued(root) && seen.verify(root.publicKey) && !seen.ca).to.equal(true);
    expect(seen.checkHost('localhost')).to.equal('localhost');
    for (const address of ['127.0.0.1', '::1']) expect(seen.checkIP(address)).to.not.equal(undefined);
    expect(seen.keyUsage).to.deep.equal(['1.3.6.1.5.5.7.3.1']);
    const caller = await issueCertificate(authority, { kind: 'caller', name: 'nc-a', role: 'node' }, DAY);
    const node = new X509Certificate(caller.certificate);
    expect(node.subject.split('\n')).to.have.members(['OU=node', 'CN=nc-a']);
    expect(node.keyUsage).to.deep.equal(['1.3.6.1.5.5.7.3.2']);
    expect(node.serialNumber).not.to.equal(seen.serialNumber);
    expect(Date.parse(node.validTo) - Date.now()).to.be.within(DAY - 60_000, DAY);
  });

  it('gives nothing that outlives it, and nothing once it has expired', async () => {
    const holder = { kind: 'caller', name: 'a', role: 'reader' } as const;
    const { certificate } = await issueCertificate(authority, holder, 999 * DAY);
    const root = new X509Certificate(authority.certificate);
    expect(Date.parse(new X509Certificate(certificate).validTo)).to.equal(Date.parse(root.validTo));
    const expired = await createAuthority('short', -1000);
    expect(await failureOf(issueCertificate(expired, holder, DAY))).to.contain('expired');
    const mixed = { certificate: authority.certificate, key: expired.key };
    expect(await failureOf(issueCertificate(mixed, holder, DAY))).to.contain('does not belong');
    const unreadable = await failureOf(issueCertificate({ ...authority, key: 'secret' }, holder, DAY));
    expect(unreadable).to.contain('cannot be read').and.not.to.contain('secret');
  });

  it('signs a request for the name that it knows, whatever the request says', async () => {
    const key = await createKey();
    const request = await createRequest(key);
    const certificate = new X509Certificate(await certifyRequest(authority, request, 'nc-b', DAY));
    expect(certificate.subject.split('\n')).to.have.members(['OU=node', 'CN=nc-b']);
    const spki = certificate.publicKey.export({ format: 'der', type: 'spki' });
    expect(await keyIdOfRequest(request)).to.equal(keyIdOf(spki));
    expect(await keyIdOfRequest(await createRequest(key))).to.equal(keyIdOf(spki));
  });

  it('signs no request of somebody who has not the key, and nothing that is no request', async () => {
    const request = await createRequest(await createKey());
    const forged = Uint8Array.from(request);
    forged[forged.length - 3] = (forged[forged.length - 3] ?? 0) ^ 1;
    await failureOf(certifyRequest(authority, forged, 'nc-b', DAY));
    for (const bytes of [new Uint8Array(), Buffer.from('no request'), request.subarray(0, 40)]) {
      expect(await failureOf(keyIdOfRequest(bytes))).to.contain('no certificate request');
    }
    expect(
      await failureOf(createRequest('-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----')),
    ).not.to.contain('AAAA');
  });

  it('keeps keys to their owner and writes over nothing', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'moorage-pki-'));
    const umask = process.umask(0);
    try {
      const path = join(folder, 'a', 'key');
      await writeWhole(path, authority.key, 0o600, 'new');
      expect(statSync(path).mode & 0o777).to.equal(0o600);
      expect(await readKey(path)).to.equal(authority.key);
      expect(await failureOf(writeWhole(path, 'other', 0o600, 'new'))).to.contain('already');
      expect(readFileSync(path, 'utf8')).to.equal(authority.key);
      await writeWhole(path, 'other', 0o600, 'replace');
      expect(await readKey(path)).to.equal('other');
      const loose = join(folder, 'loose');
      writeFileSync(loose, 'x', { mode: 0o640 });
      expect(await failureOf(readKey(loose))).to.contain('chmod 0600');
      expect(await readKey(join(folder, 'none'))).to.equal(undefined);
    } finally {
      process.umask(umask);
      rmSync(folder, { recursive: true, force: true });
    }
  });
});
