import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { type ScanReport, SecretScan } from '../helpers/secret-scan.js';

/** A cephx key: type 1, a time, the length 16, the secret. */
const cephxKey = (): Buffer => Buffer.concat([Buffer.from('0100b168216529e3c40f1000', 'hex'), randomBytes(16)]);

describe('the secret scan finds what is planted', function () {
  this.timeout(300_000);
  const key = cephxKey();
  const passphrase = randomBytes(32);
  let directory: string;
  let scan: SecretScan;
  const children: ChildProcess[] = [];

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'moorage-scan-'));
    scan = await SecretScan.start();
  });
  afterEach(async () => {
    for (const child of children.splice(0)) child.kill('SIGKILL');
    await scan.stop();
    await rm(directory, { recursive: true, force: true });
  });

  /** As in life: what is seen is seen before the secret is known. */
  const judge = (): Promise<ScanReport> => {
    scan.learn('the key', key.toString('base64'));
    scan.learn('the passphrase', passphrase);
    return scan.finish();
  };
  const run = (parameters: readonly string[], environment = {}): ChildProcess => {
    const child = spawn('/bin/sh', ['-c', 'read line', ...parameters], {
      stdio: ['pipe', 'ignore', 'ignore'],
      env: { ...process.env, ...environment },
    });
    children.push(child);
    return child;
  };
  /** One that is over before the scan is asked. */
  const runShortly = async (parameters: readonly string[], environment = {}): Promise<void> => {
    const child = run(parameters, environment);
    const ended = new Promise((resolve) => child.once('close', resolve));
    await scan.lookNow();
    child.stdin?.end();
    await ended;
  };
  const write = async (name: string, content: string | Buffer, mode: number): Promise<string> => {
    const path = join(directory, name);
    await writeFile(path, content);
    await chmod(path, mode);
    return path;
  };

  it('in the arguments of a process, also of one that is over when the secret becomes known', async () => {
    run(['--key', key.toString('base64')]);
    await runShortly([`passphrase=${passphrase.toString('hex')}`]);
    const { found } = await judge();
    expect(found.join('\n')).to.match(/^the key in cmdline of [0-9]+ \(sh\)$/m);
    expect(found.join('\n')).to.match(/^the passphrase in cmdline of [0-9]+/m);
  });

  it('in the environment of a process', async () => {
    await runShortly([], { CEPH_KEY: key.toString('base64') });
    const { found, line } = await judge();
    expect(found.join('\n')).to.match(/^the key in environ of [0-9]+ \(sh\)$/m);
    expect(line).to.match(/^secret scan: 2 secrets, [0-9]+ places, [1-9][0-9]* found/);
  });

  it('in logs and messages, as text, as hex, as bytes, as numbers, and cut in half', async () => {
    const text = key.toString('base64');
    scan.look('text', `connecting with ${text}…`);
    scan.look('half', `connecting with ${text.slice(0, 30)}…`);
    scan.look('hex', passphrase.toString('hex'));
    scan.look('numbers', JSON.stringify({ key: [...key] }));
    scan.look('twice', Buffer.from(passphrase.toString('base64')).toString('base64'));
    scan.look('nothing', 'connecting with ***');
    const { found } = await judge();
    expect(found).to.have.members([
      ...['text', 'half', 'numbers'].map((place) => `the key in ${place}`),
      ...['hex', 'twice'].map((place) => `the passphrase in ${place}`),
    ]);
  });

  it('in a file that others may read, and in no other; in a log whoever may read it', async () => {
    const open = await write('open', `key = ${key.toString('base64')}\n`, 0o644);
    await write('closed', `key = ${key.toString('base64')}\n`, 0o640);
    const log = await write('log', passphrase, 0o600);
    scan.watch(directory);
    scan.watch(log, true);
    const { found } = await judge();
    expect(found).to.have.members([`the key in ${open}`, `the passphrase in ${log}`]);
  });

  it('and says nothing when there is nothing', async () => {
    run(['--key', cephxKey().toString('base64')]);
    scan.look('a log', cephxKey().toString('base64'));
    scan.watch(directory);
    expect((await judge()).found).to.deep.equal([]);
  });
});
