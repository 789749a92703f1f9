import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { stringify } from 'yaml';
import { CommandError, type CommandResult, execute } from '../helpers/exec.js';
import { waitFor } from '../helpers/wait.js';

const repository = fileURLToPath(new URL('../..', import.meta.url));

/*
 * Identities with the programs as they are shipped: an authority, a controller with a listener for enrollment, a node that
 * becomes one, and the files that they leave. No storage is needed for that.
 */
describe('identities, with the programs', function () {
  this.timeout(300_000);
  let folder: string;
  let controller: ChildProcess | undefined;
  const log: Record<string, unknown>[] = [];
  let ports: readonly [number, number];

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'moorage-identity-'));
    ports = [await freePort(), await freePort()];
    await moorage('pki', 'init', '--directory', at('pki'));
    const hosts = ['--host', 'localhost', '--host', '127.0.0.1'];
    await moorage('pki', 'issue', 'controller', '--server', ...hosts, '--directory', at('pki'));
    await moorage('pki', 'issue', 'alice', '--role', 'admin', '--directory', at('pki'));
    await run('moorage-controller', ['init-master-key', at('master.key')]);
    const pair = { certificate: at('pki/controller.pem'), key: at('pki/controller.key') };
    const configuration = {
      listeners: [
        { address: `localhost:${ports[0]}`, tls: { ...pair, client_ca: at('pki/ca.pem') } },
        { address: `localhost:${ports[1]}`, enrollment: pair },
      ],
      enrollment: { authority: { certificate: at('pki/ca.pem'), key: at('pki/ca.key') } },
      store: { sqlite: { path: at('state/store.db') } },
      master_key: { file: at('master.key') },
      descriptor_key: at('state/descriptor.key'),
      state_directory: at('state'),
      run_directory: at('run'),
      audit: { file: at('audit.log') },
    };
    writeFileSync(at('controller.yaml'), stringify(configuration));
    controller = await start();
  });
  after(async () => {
    if (controller !== undefined && controller.exitCode === null) {
      const ended = new Promise((resolve) => controller?.once('exit', resolve));
      controller.kill('SIGTERM');
      await ended;
    }
    rmSync(folder, { recursive: true, force: true });
  });

  const at = (name: string): string => join(folder, name);

  function run(program: string, parameters: readonly string[], input = ''): Promise<CommandResult> {
    const script = join(repository, 'src/bin', `${program}.ts`);
    return execute(process.execPath, ['--import', 'tsx', script, ...parameters], {
      workingDirectory: repository,
      input,
    });
  }

  const moorage = (...parameters: string[]) => run('moorage', parameters);

  const asAlice = (...parameters: string[]) =>
    moorage(
      ...parameters,
      ...['--endpoint', `localhost:${ports[0]}`, '--ca', at('pki/ca.pem')],
      ...['--cert', at('pki/alice.pem'), '--key', at('pki/alice.key')],
    );

  const ofNode = (verb: string, port: number, ...parameters: string[]): string[] => [
    ...[verb, '--endpoint', `localhost:${port}`, '--ca', at('pki/ca.pem')],
    ...['--key-file', at('node/keys.json'), '--cert', at('node/node.pem'), '--key', at('node/node.key')],
    ...parameters,
  ];

  async function start(): Promise<ChildProcess> {
    const script = join(repository, 'src/bin/moorage-controller.ts');
    const child = spawn(process.execPath, ['--import', 'tsx', script, '--config', at('controller.yaml')], {
      cwd: repository,
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    await new Promise<void>((resolve, reject) => {
      createInterface({ input: child.stdout }).on('line', (line) => {
        const entry = JSON.parse(line) as Record<string, unknown>;
        log.push(entry);
        if (entry.msg === 'serving') resolve();
      });
      child.once('exit', (code) =>
        reject(new Error(`the controller ended (${code}): ${JSON.stringify(log.slice(-5))}`)),
      );
    });
    return child;
  }

  function freePort(): Promise<number> {
    return new Promise((resolve) => {
      const server = createServer();
      server.listen(0, '127.0.0.1', () => {
        const address = server.address();
        server.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0));
      });
    });
  }

  const audit = (file = 'audit.log'): Record<string, unknown>[] =>
    readFileSync(at(file), 'utf8')
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as Record<string, unknown>);

  const codeOf = (promise: Promise<CommandResult>): Promise<number | undefined> =>
    promise.then(
      () => 0,
      (error: unknown) => (error instanceof CommandError ? error.exitCode : undefined),
    );

  let token: string;

  it('a machine becomes a node, gives itself another key and certificate, and is nothing once it is removed', async () => {
    token = (await asAlice('node', 'enroll', 'nc-a', '--address', '127.0.0.1')).stdout;
    expect(token).to.match(/^moorage-enrollment:[A-Za-z0-9_-]+\n$/);
    const { stdout } = await run('storage-utils', ofNode('enroll', ports[1], '--token', '-'), token);
    expect(stdout).to.contain('nc-a');
    for (const secret of ['node/keys.json', 'node/node.key', 'pki/ca.key', 'audit.log']) {
      expect(statSync(at(secret)).mode & 0o077, secret).to.equal(0);
    }
    const shown = JSON.parse((await asAlice('node', 'get', 'nc-a', '--json')).stdout) as Record<string, unknown>;
    expect(shown).to.deep.include({ id: 'nc-a', storageAddresses: ['127.0.0.1'] });
    const before = readFileSync(at('node/node.pem'), 'utf8');
    await run('storage-utils', ofNode('rotate-key', ports[0], '--what', 'both'));
    expect(readFileSync(at('node/node.pem'), 'utf8')).not.to.equal(before);
    const rotated = JSON.parse((await asAlice('node', 'get', 'nc-a', '--json')).stdout) as Record<string, unknown>;
    expect(rotated.publicKeyId).not.to.equal(shown.publicKeyId);
    const asNode = ['--endpoint', `localhost:${ports[0]}`, '--ca', at('pki/ca.pem')];
    const withCertificate = ['--cert', at('node/node.pem'), '--key', at('node/node.key')];
    expect(await codeOf(moorage('exports', 'list', ...asNode, ...withCertificate))).to.equal(0);
    expect(await codeOf(moorage('volume', 'list', ...asNode, ...withCertificate))).to.equal(6);
    await asAlice('node', 'remove', 'nc-a');
    expect(await codeOf(moorage('exports', 'list', ...asNode, ...withCertificate))).to.equal(6);
    expect(await codeOf(run('storage-utils', ofNode('enroll', ports[1], '--token', '-'), token))).to.equal(4);
  });

  it('the audit log has it all, goes on after it was renamed, and neither it nor the log has the token', async () => {
    const told = audit().map(({ method, principal, role, code }) =>
      [String(method).split('/')[1], principal, role, code].join(' '),
    );
    expect(told).to.deep.equal([
      'CreateEnrollmentToken alice admin OK',
      'Enroll  none OK',
      'RotateNodeKey nc-a node OK',
      'ListVolumes nc-a node PERMISSION_DENIED',
      'RemoveNode alice admin OK',
      'ListExports nc-a node PERMISSION_DENIED',
      'Enroll  none UNAUTHENTICATED',
    ]);
    expect(audit().every((line) => typeof line.request_id === 'string' && line.peer !== '')).to.equal(true);
    expect(audit()[1]).to.include({ node_id: 'nc-a' });
    const secret = token.trim().slice('moorage-enrollment:'.length);
    expect(JSON.stringify(log) + readFileSync(at('audit.log'), 'utf8')).not.to.contain(secret);
    expect(readFileSync(at('state/store.db')).includes(secret)).to.equal(false);
    renameSync(at('audit.log'), at('audit.log.1'));
    controller?.kill('SIGHUP');
    await waitFor('the new file', () => statSync(at('audit.log'), { throwIfNoEntry: false }) !== undefined);
    await asAlice('node', 'enroll', 'nc-b');
    expect(audit().map(({ node_id }) => node_id)).to.deep.equal(['nc-b']);
    expect(audit('audit.log.1')).to.have.length(7);
  });

  it('the controller takes a new certificate on SIGHUP', async () => {
    rmSync(at('pki/controller.pem'));
    rmSync(at('pki/controller.key'));
    await moorage('pki', 'issue', 'controller', '--server', '--host', 'localhost', '--directory', at('pki'));
    controller?.kill('SIGHUP');
    const isUsed = ({ msg, address }: Record<string, unknown>) =>
      msg === 'new certificates are used' && address === `localhost:${ports[0]}`;
    await waitFor('the new certificate', () => log.some(isUsed));
    expect(await codeOf(asAlice('node', 'list'))).to.equal(0);
  });
});
