import { chmodSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect as connectTls, type TLSSocket } from 'node:tls';
import { expect } from 'chai';
import { connect, type MoorageCallError, type MoorageClient } from '../../src/client/index.js';
import { type CertificateAndKey, createAuthority, issueCertificate } from '../../src/pki/index.js';
import { CertificateFileError, WatchedCertificates } from '../../src/tls/index.js';
import { fakeServices, sampleVolume } from '../helpers/fake-services.js';
import { serve, type TestServer } from '../helpers/server.js';
import { waitFor } from '../helpers/wait.js';

const HOUR = 3_600_000;

describe('certificates that change', () => {
  let folder: string;
  let old: CertificateAndKey;
  let young: CertificateAndKey;
  let running: TestServer;
  const clients: MoorageClient[] = [];

  before(async () => {
    old = await createAuthority('old authority', HOUR);
    young = await createAuthority('young authority', HOUR);
  });
  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), 'moorage-tls-'));
    put('ca.pem', old.certificate);
    await putServer(old);
    const fake = fakeServices({ 'volumes.get': async () => ({ value: sampleVolume, etag: '' }) });
    running = await serve(fake.services, [
      {
        address: '127.0.0.1:0',
        security: { kind: 'tls', certificate: at('server.pem'), key: at('server.key'), clientCa: at('ca.pem') },
      },
    ]);
  });
  afterEach(async () => {
    for (const client of clients.splice(0)) client.close();
    await running.server.stop(0);
    rmSync(folder, { recursive: true, force: true });
  });

  const at = (name: string): string => join(folder, name);

  function put(name: string, text: string): void {
    writeFileSync(at(`${name}.new`), text, { mode: 0o600 });
    renameSync(at(`${name}.new`), at(name));
  }

  async function putServer(authority: CertificateAndKey): Promise<void> {
    const { certificate, key } = await issueCertificate(authority, { kind: 'server', hosts: ['localhost'] }, HOUR);
    put('server.pem', certificate);
    put('server.key', key);
  }

  const endpoint = (): string => (running.server.addresses[0] ?? '').replace('127.0.0.1', 'localhost');

  /** A client that trusts both authorities. */
  async function clientOf(authority: CertificateAndKey, name: string, lifetime = HOUR): Promise<MoorageClient> {
    const issued = await issueCertificate(authority, { kind: 'caller', name, role: 'reader' }, lifetime);
    const client = connect({
      endpoints: [endpoint()],
      tls: { ca: old.certificate + young.certificate, ...issued },
      unreachableMilliseconds: 1,
    });
    clients.push(client);
    return client;
  }

  const call = (client: MoorageClient): Promise<string> =>
    client.getVolume({ volumeId: sampleVolume.id }).then(
      () => 'OK',
      (error: MoorageCallError) => error.code,
    );

  /** Calls without a pause until it is told to end; answers with how the calls ended. */
  function keepCalling(client: MoorageClient): { end(): Promise<readonly string[]>; readonly codes: string[] } {
    const codes: string[] = [];
    let ended = false;
    const done = (async () => {
      while (!ended) codes.push(await call(client));
    })();
    return {
      codes,
      async end() {
        ended = true;
        await done;
        return codes;
      },
    };
  }

  /** Waits until at least so many more calls have ended. */
  const more = async (calls: { readonly codes: readonly string[] }, count = 20): Promise<void> => {
    const before = calls.codes.length;
    await waitFor('more calls', async () => calls.codes.length >= before + count);
  };

  async function handshake(authority: CertificateAndKey, session?: Buffer): Promise<TLSSocket> {
    const issued = await issueCertificate(authority, { kind: 'caller', name: 'raw', role: 'reader' }, HOUR);
    const port = Number(endpoint().split(':').at(-1));
    const socket = connectTls({
      ...{ port, host: 'localhost', servername: 'localhost', ca: [old.certificate, young.certificate] },
      ...{ cert: issued.certificate, key: issued.key, ALPNProtocols: ['h2'] },
      ...(session && { session }),
    });
    socket.on('error', () => undefined);
    return socket;
  }

  it('serves the new one to who connects from then on, and no call of anybody fails', async () => {
    const client = await clientOf(old, 'steady');
    const calls = keepCalling(client);
    await more(calls);
    const before = (await served()).serialNumber;
    await putServer(old);
    running.server.reloadCertificates();
    expect((await served()).serialNumber).not.to.equal(before);
    await more(calls);
    expect(new Set(await calls.end())).to.deep.equal(new Set(['OK']));
    expect(running.certificates).to.deep.equal([{ kind: 'loaded', message: '', authorityWithdrawn: false }]);
  });

  async function served() {
    const socket = await handshake(old);
    try {
      await new Promise<void>((resolve) => socket.once('secureConnect', resolve));
      return socket.getPeerCertificate();
    } finally {
      socket.destroy();
    }
  }

  it('refuses an authority that was taken away, also who is connected already; the others’ calls all succeed', async () => {
    const [former, steady] = [await clientOf(old, 'former'), await clientOf(young, 'steady')];
    put('ca.pem', old.certificate + young.certificate);
    running.server.reloadCertificates();
    expect(await call(former)).to.equal('OK');
    const calls = keepCalling(steady);
    await more(calls);
    put('ca.pem', young.certificate);
    running.server.reloadCertificates();
    expect(running.certificates.at(-1)).to.include({ kind: 'loaded', authorityWithdrawn: true });
    expect(await call(former)).to.equal('UNAUTHENTICATED');
    expect(await call(await clientOf(old, 'late'))).to.equal('UNAVAILABLE');
    await more(calls);
    expect(new Set(await calls.end())).to.deep.equal(new Set(['OK']));
    expect(running.ended.map((each) => each.principal))
      .to.include.members(['former', 'steady'])
      .and.not.include('late');
  });

  it('lets nobody resume a TLS session that an authority made which was taken away', async () => {
    const first = await handshake(old);
    const session = await new Promise<Buffer>((resolve) => first.once('session', resolve));
    first.destroy();
    const again = await handshake(old, session);
    await new Promise<void>((resolve) => again.once('secureConnect', resolve));
    expect(again.isSessionReused(), 'a session can be resumed at all').to.equal(true);
    again.destroy();
    put('ca.pem', young.certificate);
    running.server.reloadCertificates();
    const refused = await handshake(old, session);
    let resumed = false;
    refused.once('secureConnect', () => {
      resumed = refused.isSessionReused();
    });
    await new Promise<void>((resolve) => refused.once('close', () => resolve()));
    expect(resumed).to.equal(false);
  });

  it('stays with what was good while files do not fit each other, and says so once', async () => {
    const client = await clientOf(old, 'steady');
    const { certificate, key } = await issueCertificate(old, { kind: 'server', hosts: ['localhost'] }, HOUR);
    put('server.pem', certificate);
    for (let round = 0; round < 3; round += 1) running.server.reloadCertificates();
    expect(running.certificates.map(({ kind }) => kind)).to.deep.equal(['refused']);
    expect(running.certificates[0]?.message).to.contain('server.pem');
    expect(await call(client)).to.equal('OK');
    expect(await call(await clientOf(old, 'other'))).to.equal('OK');
    put('server.key', key);
    running.server.reloadCertificates();
    put('ca.pem', 'no certificate');
    running.server.reloadCertificates();
    rmSync(at('server.key'));
    running.server.reloadCertificates();
    expect(running.certificates.map(({ kind }) => kind)).to.deep.equal(['refused', 'loaded', 'refused', 'refused']);
    expect(await call(await clientOf(old, 'third'))).to.equal('OK');
  });

  it('finds changes by itself', async () => {
    const seen: string[] = [];
    const watched = new WatchedCertificates({ ca: at('ca.pem') }, ({ kind }) => seen.push(kind), 5);
    const updates: string[] = [];
    const listener = (update: { caCertificate: Buffer } | null): void => {
      updates.push(update?.caCertificate.toString() ?? '');
    };
    watched.addCaCertificateListener(listener);
    await waitFor('the first', async () => updates.length === 1);
    put('ca.pem', young.certificate);
    await waitFor('the change', async () => updates.at(-1) === young.certificate);
    watched.removeCaCertificateListener(listener);
    expect(seen).to.deep.equal(['loaded']);
    expect(() => new WatchedCertificates({ ca: at('none') })).to.throw(CertificateFileError, 'none');
    const pair = { certificate: at('server.pem'), key: at('server.key') };
    expect(() => new WatchedCertificates({ ...pair, key: at('none') })).to.throw('none');
    chmodSync(pair.key, 0o644);
    expect(() => new WatchedCertificates(pair)).to.throw('chmod 0600');
    chmodSync(pair.key, 0o640);
    expect(new WatchedCertificates(pair)).to.be.an('object');
  });

  it('a client that reads its own from files shows the new one when it connects again', async () => {
    const write = async (name: string): Promise<void> => {
      const issued = await issueCertificate(old, { kind: 'caller', name, role: 'reader' }, HOUR);
      put('client.pem', issued.certificate);
      put('client.key', issued.key);
    };
    await write('first');
    const changes: string[] = [];
    const client = connect({
      endpoints: [endpoint()],
      tls: {
        ...{ caFile: at('ca.pem'), certificateFile: at('client.pem'), keyFile: at('client.key') },
        onChange: ({ kind }) => changes.push(kind),
      },
    });
    clients.push(client);
    expect(await call(client)).to.equal('OK');
    // Of calls that run meanwhile none fails.
    const calls = keepCalling(client);
    await more(calls);
    await write('second');
    await waitFor('the change', async () => changes.includes('loaded'), { timeoutMilliseconds: 60_000 });
    await more(calls);
    expect(new Set(await calls.end())).to.deep.equal(new Set(['OK']));
    const principals = running.ended.map((each) => each.principal);
    expect(principals[0]).to.equal('first');
    expect(principals.at(-1)).to.equal('second');
  });

  it('refuses one that has expired, also on a connection that was made before', async () => {
    const client = await clientOf(old, 'short', 3_000);
    expect(await call(client)).to.equal('OK');
    await waitFor('its end', async () => (await call(client)) === 'UNAUTHENTICATED', { timeoutMilliseconds: 60_000 });
    expect(running.ended.at(-1)).to.include({ audited: true });
    expect(await call(await clientOf(old, 'late', 1_000).then(expired))).to.equal('UNAVAILABLE');
  });

  /** Waits until a certificate of one second has ended, before its client connects. */
  async function expired(client: MoorageClient): Promise<MoorageClient> {
    const end = Date.now() + 2_000;
    await waitFor('its end', async () => Date.now() > end);
    return client;
  }
});
