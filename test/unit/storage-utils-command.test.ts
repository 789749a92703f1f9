import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import {
  type DescriptorPayload,
  formatControllerPublicKey,
  formatDescriptor,
  generateKeyPair,
  loadNodeKeyFile,
  sealDescriptor,
} from '../../src/descriptor/index.js';

const KEY = 'AQCOxzNnAAAAABAAqZn2S3b0m0jJ0h5rIxk3qA==';
const command = fileURLToPath(new URL('../../src/bin/storage-utils.ts', import.meta.url));

interface Run {
  status: number;
  stdout: string;
  stderr: string;
}

describe('storage-utils: the command, without libvirt', () => {
  let directory: string;
  let keyFile: string;
  const controllerKey = generateKeyPair();

  function run(parameters: string[], input?: string): Promise<Run> {
    return new Promise((resolve) => {
      const child = execFile(
        process.execPath,
        ['--import', 'tsx', command, ...parameters],
        {
          env: {
            ...process.env,
            MOORAGE_NODE_KEY_FILE: keyFile,
            MOORAGE_LIBVIRT_URI: 'qemu+unix:///system?socket=/nonexistent/socket',
          },
        },
        (error, stdout, stderr) => {
          expect(stdout + stderr).not.to.contain(KEY);
          expect(stderr).not.to.match(/\n\s+at /, 'a stack trace');
          resolve({ status: typeof error?.code === 'number' ? error.code : error === null ? 0 : -1, stdout, stderr });
        },
      );
      child.stdin?.end(input ?? '');
    });
  }

  async function descriptor(changes: Partial<DescriptorPayload> = {}, nodePublicKey?: Uint8Array): Promise<string> {
    const recipient = nodePublicKey ?? (await loadNodeKeyFile(keyFile)).current.publicKey;
    const payload: DescriptorPayload = {
      version: 1,
      export_id: 'exp-0123456789abcdef0',
      volume_id: 'vol-fedcba98765432100',
      node_id: 'nc-a',
      size_bytes: 10 * 2 ** 30,
      read_only: false,
      issued_at: new Date().toISOString(),
      expires_at: new Date(Date.now() + 3_600_000).toISOString(),
      connector: 'rbd',
      pool: { cluster_id: '8c2a3f0e-6a59-4c5e-9d0a-1d3f5c7e9b11', ceph_pool: 'volumes', monitors: ['10.0.0.1:3300'] },
      image: { name: 'vol-fedcba98765432100' },
      access: { mode: 'managed', user: 'nodes', key: KEY },
      ...changes,
    };
    return formatDescriptor(sealDescriptor(payload, { nodePublicKey: recipient, controllerKey }));
  }

  beforeEach(async function () {
    this.timeout(300_000);
    directory = await mkdtemp(join(tmpdir(), 'moorage-command-'));
    keyFile = join(directory, 'keys', 'node.json');
    const made = await run(['init', '--controller-key', formatControllerPublicKey(controllerKey.publicKey)]);
    expect(made.status, made.stderr).to.equal(0);
    expect(made.stdout).to.match(/^moorage-node-key:[A-Za-z0-9+/]{43}=\n$/);
    expect((await stat(keyFile)).mode & 0o777).to.equal(0o600);
  });
  afterEach(() => rm(directory, { recursive: true, force: true }));

  it('init keeps the key that is there, and trust adds a controller', async function () {
    this.timeout(300_000);
    const before = await readFile(keyFile, 'utf8');
    const again = await run(['init', '--json']);
    expect(JSON.parse(again.stdout)).to.have.property('made', false);
    expect(await readFile(keyFile, 'utf8')).to.equal(before);
    const other = generateKeyPair();
    const trusted = await run(['trust', '--json', formatControllerPublicKey(other.publicKey)]);
    expect(JSON.parse(trusted.stdout).trusted).to.deep.equal([controllerKey.keyId, other.keyId]);
    expect((await run(['trust', 'moorage-node-key:AAAA'])).status).to.equal(2);
  });

  it('inspect shows a descriptor, expired or not, from a file and from stdin, without its secrets', async function () {
    this.timeout(300_000);
    const path = join(directory, 'descriptor');
    await writeFile(path, `${await descriptor({ expires_at: '2020-01-01T00:00:00Z' })}\n`);
    const shown = JSON.parse((await run(['inspect', '--json', '--descriptor', path])).stdout);
    expect(shown).to.include({ volume_id: 'vol-fedcba98765432100', expired: true, sender_key_id: controllerKey.keyId });
    expect(shown.access).to.deep.equal({ mode: 'managed', user: 'nodes', key: '(secret)' });
    const fromStdin = await run(['inspect', '--descriptor', '-'], await descriptor());
    expect(fromStdin.status, fromStdin.stderr).to.equal(0);
    expect(fromStdin.stdout).to.contain('"expired": false');
  });

  it('tells failures apart by its exit code, with a sentence on stderr and nothing on stdout', async function () {
    this.timeout(300_000);
    const good = await descriptor();
    const stranger = await descriptor({}, generateKeyPair().publicKey);
    const [at, other] = [400, good[400] === 'A' ? 'B' : 'A'];
    const altered = good.slice(0, at) + other + good.slice(at + 1);
    const cases: [string, string[], string, number, RegExp][] = [
      ['usage', ['connect', '--target', 'vdb'], '', 2, /--descriptor/],
      ['no target', ['connect', '--descriptor', '-'], good, 2, /--target/],
      ['target and bus', ['connect', '--descriptor', '-', '--target', 'sda'], good, 2, /bus virtio/],
      ['bad option', ['connect', '--descriptor', '-', '--target', 'vdb', '--cache', 'fast'], good, 2, /cache/],
      ['cut off', ['connect', '--descriptor', '-', '--target', 'vdb'], good.slice(0, 300), 3, /cut off/],
      ['altered', ['connect', '--descriptor', '-', '--target', 'vdb'], altered, 3, /altered/],
      [
        'newer version',
        ['attach', '--descriptor', '-', '--domain', 'web1'],
        good.replace('-v1:', '-v2:'),
        3,
        /newer|update/,
      ],
      ['other node', ['connect', '--descriptor', '-', '--target', 'vdb'], stranger, 3, /this node has key/],
      [
        'expired',
        ['connect', '--descriptor', '-', '--target', 'vdb'],
        await descriptor({ expires_at: '2020-01-01T00:00:00Z' }),
        3,
        /expired/,
      ],
      [
        'connector',
        ['connect', '--descriptor', '-', '--target', 'vdb', '--lock-directory', directory],
        await descriptor({ connector: 'other' }),
        4,
        /no connector "other"/,
      ],
      [
        'no libvirt',
        ['connect', '--descriptor', '-', '--target', 'vdb', '--lock-directory', directory],
        good,
        5,
        /libvirt is not reached/,
      ],
      ['no file', ['inspect', '--descriptor', join(directory, 'missing')], '', 6, /cannot be read/],
      [
        'no key file',
        ['inspect', '--descriptor', '-', '--key-file', join(directory, 'none')],
        good,
        6,
        /storage-utils init/,
      ],
      ['ids', ['disconnect', '--volume', 'db'], '', 2, /volumeId/],
      ['nothing named', ['disconnect'], '', 2, /--descriptor/],
    ];
    const results = await Promise.all(cases.map(([, parameters, input]) => run(parameters, input)));
    for (const [index, [name, , , status, said]] of cases.entries()) {
      const result = results[index];
      expect(result?.status, `${name}: ${result?.stderr}`).to.equal(status);
      expect(result?.stderr, name).to.match(said);
      expect(result?.stdout, name).to.equal('');
    }
  });

  it('doctor says what to do and ends with 1', async function () {
    this.timeout(300_000);
    const { status, stdout } = await run(['doctor', '--json']);
    expect(status).to.equal(1);
    const { healthy, checks } = JSON.parse(stdout) as { healthy: boolean; checks: { name: string; result: string }[] };
    expect(healthy).to.equal(false);
    expect(checks.find((check) => check.name === 'key-file')?.result).to.equal('ok');
    expect(checks.find((check) => check.name === 'libvirt')?.result).to.equal('wrong');
  });

  it('every verb has help with an example and the exit codes', async function () {
    this.timeout(300_000);
    const verbs = ['init', 'trust', 'inspect', 'connect', 'disconnect', 'attach', 'detach', 'extend', 'doctor'];
    for (const result of await Promise.all(verbs.map((verb) => run([verb, '--help'])))) {
      expect(result.status).to.equal(0);
      expect(result.stdout).to.contain('Example:').and.to.contain('Exit codes:');
    }
  });
});
