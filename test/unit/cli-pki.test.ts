import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { credentials, status } from '@grpc/grpc-js';
import { expect } from 'chai';
import { authorityTools } from '../../src/bin/authority.js';
import { runCommand } from '../../src/cli/index.js';
import { callRaw } from '../helpers/call-raw.js';
import { fakeServices, sampleVolume } from '../helpers/fake-services.js';
import { serve } from '../helpers/server.js';

const storage = '/moorage.v1.StorageControllerService';

describe('moorage pki', () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'moorage-cli-pki-'));
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  async function pki(...argv: string[]) {
    const out: string[] = [];
    const err: string[] = [];
    const code = await runCommand(['pki', ...argv, '--directory', join(folder, 'pki')], {
      stdout: { write: (text: string) => out.push(text) },
      stderr: { write: (text: string) => err.push(text) },
      initialisePool: () => Promise.reject(new Error('not asked for')),
      authority: async () => authorityTools,
    });
    return { code, stdout: out.join(''), stderr: err.join('') };
  }

  const at = (name: string): string => join(folder, 'pki', name);

  it('makes an authority, a server and callers that know each other, with keys that only their owner reads', async () => {
    expect((await pki('init', '--name', 'test')).code).to.equal(0);
    expect((await pki('issue', 'controller', '--server', '--host', 'localhost', '--host', '127.0.0.1')).code).to.equal(
      0,
    );
    for (const role of ['admin', 'node', 'reader']) {
      const { code, stdout } = await pki('issue', `${role}-1`, '--role', role, '--lifetime', '1h');
      expect(code).to.equal(0);
      expect(stdout).to.equal(`${at(`${role}-1.pem`)}\n${at(`${role}-1.key`)}\n`);
    }
    for (const name of readdirSync(join(folder, 'pki'))) {
      expect(statSync(at(name)).mode & 0o777, name).to.equal(name.endsWith('.key') ? 0o600 : 0o644);
    }
    const fake = fakeServices({ 'volumes.get': async () => ({ value: sampleVolume, etag: '' }) });
    const { server } = await serve(fake.services, [
      {
        address: '127.0.0.1:0',
        security: { kind: 'tls', certificate: at('controller.pem'), key: at('controller.key'), clientCa: at('ca.pem') },
      },
    ]);
    const address = server.addresses[0]?.replace('127.0.0.1', 'localhost') ?? '';
    const codeOf = async (name: string): Promise<status> => {
      const [ca, key, certificate] = [at('ca.pem'), at(`${name}.key`), at(`${name}.pem`)].map((path) =>
        readFileSync(path),
      ) as [Buffer, Buffer, Buffer];
      const security = credentials.createSsl(ca, key, certificate);
      return (await callRaw(address, security, `${storage}/GetVolume`, { volumeId: sampleVolume.id })).code;
    };
    try {
      expect(await codeOf('admin-1')).to.equal(status.OK);
      expect(await codeOf('reader-1')).to.equal(status.OK);
      expect(await codeOf('node-1')).to.equal(status.PERMISSION_DENIED);
      // The server's own is good for serving alone.
      expect(await codeOf('controller')).to.equal(status.UNAVAILABLE);
    } finally {
      await server.stop(0);
    }
    expect(fake.seen.map(({ caller }) => [caller.name, caller.role])).to.deep.equal([
      ['admin-1', 'admin'],
      ['reader-1', 'reader'],
    ]);
  });

  it('writes over nothing, and says what is missing', async () => {
    expect((await pki('issue', 'alice', '--role', 'admin')).stderr).to.contain('moorage pki init');
    await pki('init');
    const key = readFileSync(at('ca.key'));
    const again = await pki('init');
    expect(again).to.include({ code: 1 });
    expect(again.stderr).to.contain('already');
    expect(readFileSync(at('ca.key')).equals(key)).to.equal(true);
    expect((await pki('issue', 'alice')).code).to.equal(2);
    expect((await pki('issue', 'alice', '--role', 'root')).code).to.equal(2);
    expect((await pki('issue', '../alice', '--role', 'admin')).code).to.equal(2);
    expect((await pki('issue', 'server', '--server')).code).to.equal(2);
    expect((await pki('issue', 'alice', '--role', 'admin', '--server')).code).to.equal(2);
  });
});
