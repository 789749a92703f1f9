import { spawn } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { credentials, status } from '@grpc/grpc-js';
import { expect } from 'chai';
import { createIssuer } from '../../src/bin/issuer.js';
import { registrar } from '../../src/bin/registrar.js';
import { connect, type MoorageClient } from '../../src/client/index.js';
import { loadNodeKeyFile, openDescriptor } from '../../src/descriptor/index.js';
import { type CertificateAndKey, createAuthority, issueCertificate, writeWhole } from '../../src/pki/index.js';
import { methodRules } from '../../src/rpc/roles.js';
import { type EnrollOptions, enroll, type RotateOptions, rotate } from '../../src/storage-utils/enroll.js';
import { StorageUtilsError } from '../../src/storage-utils/errors.js';
import type { Registrar } from '../../src/storage-utils/registrar.js';
import { callRaw } from '../helpers/call-raw.js';
import { CoreWorld } from '../helpers/core-world.js';
import { serve, type TestServer } from '../helpers/server.js';
import { waitFor } from '../helpers/wait.js';

const HOUR = 3_600_000;

describe('enrollment over TLS', () => {
  let folder: string;
  let authority: CertificateAndKey;
  let world: CoreWorld;
  let running: TestServer;
  let admin: MoorageClient;
  const clients: MoorageClient[] = [];

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), 'moorage-enrollment-'));
    authority = await createAuthority('site', 24 * HOUR);
    await put('ca', authority);
    await put('server', await issueCertificate(authority, { kind: 'server', hosts: ['localhost'] }, HOUR));
    const issuer = await createIssuer({ certificate: at('ca.pem'), key: at('ca.key') }, HOUR);
    world = await CoreWorld.make({}, issuer);
    const pair = { certificate: at('server.pem'), key: at('server.key') };
    running = await serve(world.core.services, [
      { address: '127.0.0.1:0', security: { kind: 'enrollment', ...pair } },
      { address: '127.0.0.1:0', security: { kind: 'tls', ...pair, clientCa: at('ca.pem') } },
    ]);
    const alice = await issueCertificate(authority, { kind: 'caller', name: 'alice', role: 'admin' }, HOUR);
    admin = as(alice);
  });
  afterEach(async () => {
    for (const client of clients.splice(0)) client.close();
    await running.server.stop(0);
    await world.end();
    rmSync(folder, { recursive: true, force: true });
  });

  const at = (name: string): string => join(folder, name);

  async function put(name: string, { certificate, key }: CertificateAndKey): Promise<void> {
    await writeWhole(at(`${name}.pem`), certificate, 0o644, 'replace');
    await writeWhole(at(`${name}.key`), key, 0o600, 'replace');
  }

  const place = (index: number): string => (running.server.addresses[index] ?? '').replace('127.0.0.1', 'localhost');

  function as(pair: CertificateAndKey): MoorageClient {
    const client = connect({
      endpoints: [place(1)],
      tls: { ca: authority.certificate, ...pair },
      unreachableMilliseconds: 1,
    });
    clients.push(client);
    return client;
  }

  const asNode = (): MoorageClient =>
    as({ certificate: readFileSync(at('node.pem'), 'utf8'), key: readFileSync(at('node.key'), 'utf8') });

  const paths = () => ({ nodeKeyFile: at('keys.json'), certificateFile: at('node.pem'), keyFile: at('node.key') });

  async function enrollOptions(nodeId = 'nc-a'): Promise<EnrollOptions> {
    const { token } = await admin.createEnrollmentToken({ nodeId });
    const access = { endpoint: place(0), authorityFile: at('ca.pem') };
    return { ...paths(), token, access, wantsCertificate: true };
  }

  const rotateOptions = (what: Partial<RotateOptions> = {}): RotateOptions => ({
    ...paths(),
    access: { endpoint: place(1), authorityFile: at('ca.pem') },
    rotatesKey: true,
    renewsCertificate: false,
    ...what,
  });

  async function refusal(promise: Promise<unknown>): Promise<string> {
    const error: unknown = await promise.then(
      () => new Error('it was not refused'),
      (caught: unknown) => caught,
    );
    expect(error).to.be.instanceOf(StorageUtilsError).with.property('kind', 'refused');
    return (error as Error).message;
  }

  /** A registrar whose calls fail in one way, before or after they are made. */
  function spoilt(when: 'before' | 'after'): Registrar {
    const fail = (): never => {
      throw new Error('the line is cut');
    };
    return {
      ...registrar,
      enroll: async (...all) => (when === 'before' ? fail() : registrar.enroll(...all).then(fail)),
      rotate: async (...all) => (when === 'before' ? fail() : registrar.rotate(...all).then(fail)),
    };
  }

  it('makes a machine a node that redeems its grants, opens its descriptors and sees no other’s', async () => {
    const result = await enroll(await enrollOptions(), registrar);
    const keys = await loadNodeKeyFile(at('keys.json'));
    expect(result).to.deep.include({
      nodeId: 'nc-a',
      publicKeyId: keys.current.keyId,
      certificateFile: at('node.pem'),
    });
    expect(keys.controllerPublicKeys).to.deep.equal([world.controllerKeys.publicKey]);
    for (const secret of ['keys.json', 'node.key']) expect(statSync(at(secret)).mode & 0o777).to.equal(0o600);
    const volumeId = (await world.createVolume()).id;
    const { grant } = await admin.grantExport({ volumeId, nodeId: 'nc-a' });
    const { descriptor } = await asNode().export({ volumeId, grantId: grant?.id ?? '' });
    const open = openDescriptor(descriptor, { nodeKeys: keys.all, controllerPublicKeys: keys.controllerPublicKeys });
    expect(open.payload).to.include({ volume_id: volumeId, node_id: 'nc-a' });
  });

  it('serves nothing but Enroll without a certificate, and Enroll to nobody with one but administrators', async () => {
    const security = credentials.createSsl(Buffer.from(authority.certificate));
    for (const path of Object.keys(methodRules)) {
      const { code } = await callRaw(place(0), security, path, {});
      const isEnroll = path.endsWith('/Enroll');
      expect(code, path).to.equal(isEnroll ? status.INVALID_ARGUMENT : status.PERMISSION_DENIED);
    }
    await enroll(await enrollOptions(), registrar);
    const failure = await asNode()
      .enroll({ token: 'x' })
      .catch((error: { code: string }) => error.code);
    expect(failure).to.equal('PERMISSION_DENIED');
    expect(running.ended.filter((each) => each.method.endsWith('/Enroll') && each.audited)).to.have.length(3);
  });

  for (const when of ['before', 'after'] as const) {
    it(`is run again when the line was cut ${when} the controller heard of it, with the same keys`, async () => {
      const options = await enrollOptions();
      const cut = await enroll(options, spoilt(when)).catch((error: Error) => error.message);
      expect(cut).to.equal('the line is cut');
      const { current } = await loadNodeKeyFile(at('keys.json'));
      const key = readFileSync(at('node.key'), 'utf8');
      expect(existsSync(at('node.pem'))).to.equal(false);
      expect((await enroll(options, registrar)).publicKeyId).to.equal(current.keyId);
      expect(readFileSync(at('node.key'), 'utf8')).to.equal(key);
      expect((await asNode().listExports({})).exports).to.deep.equal([]);
      // And once more, when all is done.
      expect((await enroll(options, registrar)).nodeId).to.equal('nc-a');
    });
  }

  it('leaves nothing of its own when it is refused, and what was there before', async () => {
    const options = await enrollOptions();
    expect(await refusal(enroll({ ...options, token: 'moorage-enrollment:AAAA' }, registrar))).to.contain('not valid');
    for (const name of ['keys.json', 'node.key', 'node.pem']) expect(existsSync(at(name)), name).to.equal(false);
    await enroll(options, registrar);
    const before = readFileSync(at('keys.json'), 'utf8');
    expect(await refusal(enroll({ ...options, keyFile: at('other.key') }, registrar))).to.contain('used');
    expect(readFileSync(at('keys.json'), 'utf8')).to.equal(before);
    expect(existsSync(at('other.key'))).to.equal(false);
  });

  it('a removed node’s certificate is good for nothing, and so is its token', async () => {
    const options = await enrollOptions();
    await enroll(options, registrar);
    const former = asNode();
    expect((await former.listExports({})).exports).to.deep.equal([]);
    await admin.removeNode({ nodeId: 'nc-a' });
    const told = (): Promise<string> =>
      former.listExports({}).then(
        () => 'OK',
        (error: { reason: string }) => error.reason,
      );
    expect(await told()).to.equal('NODE_UNKNOWN');
    await refusal(enroll(options, registrar));
    for (const name of ['keys.json', 'node.key', 'node.pem']) renameSync(at(name), at(`${name}.former`));
    await enroll(await enrollOptions(), registrar);
    expect(await told()).to.equal('CERTIFICATE_REPLACED');
    expect((await asNode().listExports({})).exports).to.deep.equal([]);
  });

  it('a watch of a removed node ends, and is told nothing of who has the name then', async () => {
    await enroll(await enrollOptions(), registrar);
    const former = asNode();
    const seen: string[] = [];
    let ended = '';
    const watching = (async () => {
      for await (const event of former.watch({})) seen.push(event.event ?? '');
    })().catch((error: { reason: string }) => {
      ended = error.reason;
    });
    await waitFor('the beginning', () => seen.includes('synced'));
    await admin.removeNode({ nodeId: 'nc-a' });
    for (const name of ['keys.json', 'node.key', 'node.pem']) renameSync(at(name), at(`${name}.former`));
    await enroll(await enrollOptions(), registrar);
    const volumeId = (await world.createVolume()).id;
    await admin.export({ volumeId, direct: { nodeId: 'nc-a' } });
    await watching;
    expect(ended).to.equal('CERTIFICATE_REPLACED');
    expect(seen).to.not.include('export');
  });

  for (const cut of [undefined, 'before', 'after'] as const) {
    it(`rotates key and certificate${cut === undefined ? '' : `, also when the line was cut ${cut} the controller heard of it`}`, async () => {
      await enroll(await enrollOptions(), registrar);
      const volumeId = (await world.createVolume()).id;
      const before = await admin.export({ volumeId, direct: { nodeId: 'nc-a' } });
      const first = await loadNodeKeyFile(at('keys.json'));
      const certificate = new X509Certificate(readFileSync(at('node.pem')));
      const options = rotateOptions({ renewsCertificate: true });
      if (cut !== undefined) await rotate(options, spoilt(cut)).catch(() => undefined);
      const { publicKeyId } = await rotate(options, registrar);
      const second = await loadNodeKeyFile(at('keys.json'));
      expect(second.current.keyId).to.equal(publicKeyId).and.not.equal(first.current.keyId);
      const { node } = await admin.getNode({ nodeId: 'nc-a' });
      expect(node?.publicKeyId).to.equal(publicKeyId);
      const renewed = new X509Certificate(readFileSync(at('node.pem')));
      expect(renewed.fingerprint256).not.to.equal(certificate.fingerprint256);
      expect((await asNode().listExports({})).exports).to.have.length(1);
      const open = (descriptor: Uint8Array) =>
        openDescriptor(descriptor, { nodeKeys: second.all, controllerPublicKeys: second.controllerPublicKeys });
      const after = await admin.export({ volumeId, direct: { nodeId: 'nc-a' } });
      expect(open(after.descriptor).payload.access).to.deep.equal(open(before.descriptor).payload.access);
      for (const name of ['node.pem.new', 'node.key.new']) expect(existsSync(at(name)), name).to.equal(false);
    });
  }

  it('goes on with a renewal that died between its two files', async () => {
    await enroll(await enrollOptions(), registrar);
    await rotate(rotateOptions({ rotatesKey: false, renewsCertificate: true }), registrar);
    // As it lay when the key was in place and the certificate was not.
    const { certificate } = await issueCertificate(authority, { kind: 'caller', name: 'nc-a', role: 'node' }, HOUR);
    renameSync(at('node.pem'), at('node.pem.new'));
    writeFileSync(at('node.pem'), certificate);
    await rotate(rotateOptions(), registrar);
    expect((await asNode().listExports({})).exports).to.deep.equal([]);
  });

  it('is a command that takes the token from a file or stdin, and shows it nowhere', async () => {
    const { token } = await admin.createEnrollmentToken({ nodeId: 'nc-a' });
    const script = fileURLToPath(new URL('../../src/bin/storage-utils.ts', import.meta.url));
    const run = (input: string, ...argv: string[]) =>
      new Promise<{ code: number | null; output: string }>((resolve) => {
        const child = spawn(process.execPath, ['--import', 'tsx', script, ...argv], {
          stdio: ['pipe', 'pipe', 'pipe'],
        });
        let output = '';
        child.stdout.on('data', (text: Buffer) => {
          output += text.toString();
        });
        child.stderr.on('data', (text: Buffer) => {
          output += text.toString();
        });
        child.once('close', (code) => resolve({ code, output }));
        child.stdin.end(input);
      });
    const where = [
      '--key-file',
      at('keys.json'),
      '--cert',
      at('node.pem'),
      '--key',
      at('node.key'),
      '--ca',
      at('ca.pem'),
    ];
    const bad = await run('moorage-enrollment:AAAA', 'enroll', ...where, '--endpoint', place(0), '--token', '-');
    expect(bad.code, bad.output).to.equal(4);
    const done = await run(`${token}\n`, 'enroll', ...where, '--endpoint', place(0), '--token', '-');
    expect(done.code, done.output).to.equal(0);
    expect(done.output).to.contain('nc-a').and.not.to.contain(token.slice(-20));
    const rotated = await run('', 'rotate-key', ...where, '--endpoint', place(1), '--json');
    expect(rotated.code, rotated.output).to.equal(0);
    expect(JSON.parse(rotated.output)).to.include({ nodeId: 'nc-a' });
  });
});
