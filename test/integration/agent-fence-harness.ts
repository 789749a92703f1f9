import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { Cluster as Connection, timeoutOverrides } from '../../src/agents/rbd/librbd/cluster.js';
import { initialisePool, type PoolInitialisationResult } from '../../src/agents/rbd/pool-init.js';
import type { Image, Image__Output } from '../../src/generated/moorage/backend/v1/Image.js';
import type { TakePointResponse__Output } from '../../src/generated/moorage/backend/v1/TakePointResponse.js';
import { cleanUp } from '../helpers/clean-up.js';
import { type Cluster, startCluster } from '../helpers/cluster.js';
import { waitFor } from '../helpers/wait.js';
import { TestAgent } from './agent-rbd-harness.js';

/** Digits that no other run of a test uses: names on the cluster are never used twice. */
export function unique(): string {
  return randomBytes(9).toString('hex').slice(0, 17);
}

/** What a node is told of an export. */
export interface Access {
  readonly mode: string;
  readonly user: string;
  readonly key: string;
}

/** A cluster with the controller's two users, and an agent of each role. */
export interface FenceFixture {
  readonly cluster: Cluster;
  readonly directory: string;
  readonly initialised: PoolInitialisationResult;
  readonly dataUser: string;
  readonly fenceUser: string;
  readonly data: TestAgent;
  readonly fence: TestAgent;
  /** A step of the role fence. Rejects with a StepFailure. */
  step<Response>(method: string, request: object, seconds?: number): Promise<Response>;
  grant(
    exportId: string,
    image: Image__Output,
    more?: { readonly ancestors?: readonly Image__Output[]; readonly readOnly?: boolean },
  ): Promise<Access>;
  /** Connects with an export's key; closed at the end. */
  connect(access: Access, overrides?: Readonly<Record<string, string>>): Promise<Connection>;
  /** Runs the `rbd` command as that user. */
  rbdAs(access: Access, ...parameters: string[]): Promise<string>;
  end(): Promise<void>;
}

export async function fenceFixture(options: { name?: string; osds?: number } = {}): Promise<FenceFixture> {
  const cluster = await startCluster(options);
  const directory = await mkdtemp(join(tmpdir(), 'moorage-fence-'));
  const suffix = unique();
  const [dataUser, fenceUser] = [`test-data-${suffix}`, `test-fence-${suffix}`];
  const keyrings = { data: join(directory, 'data.keyring'), fence: join(directory, 'fence.keyring') };
  const initialised = await initialisePool({
    configurationFile: cluster.configurationFile,
    adminUser: 'admin',
    adminKeyring: cluster.adminKeyring,
    cephPool: 'moorage',
    dataUser,
    dataKeyringFile: keyrings.data,
    fenceUser,
    fenceKeyringFile: keyrings.fence,
  });
  const data = new TestAgent(cluster, { user: dataUser, keyring: keyrings.data });
  const fence = new TestAgent(cluster, {
    role: 'fence',
    user: fenceUser,
    keyring: keyrings.fence,
    arguments: ['--osd-timeout-seconds', '10'],
  });
  await Promise.all([data.ready(), fence.ready()]);
  const connections: Connection[] = [];
  const exports = new Set<string>();
  const fixture: FenceFixture = {
    cluster,
    directory,
    initialised,
    dataUser,
    fenceUser,
    data,
    fence,
    step: (method, request, seconds = 60) =>
      fence.call('FenceService', method, { step: fence.stepOf(method), ...request }, seconds),
    async grant(exportId, image, more = {}) {
      exports.add(exportId);
      const { accessJson } = await fixture.step<{ accessJson: Buffer }>('GrantAccess', {
        exportId,
        image,
        ancestors: more.ancestors ?? [],
        readOnly: more.readOnly ?? false,
      });
      return JSON.parse(accessJson.toString('utf8')) as Access;
    },
    async connect(access, overrides = {}) {
      const connection = await Connection.connect({
        configurationFile: cluster.configurationFile,
        user: access.user,
        key: access.key,
        overrides: { ...timeoutOverrides(60), ...overrides },
      });
      connections.push(connection);
      return connection;
    },
    async rbdAs(access, ...parameters) {
      const keyring = join(directory, `${access.user}.keyring`);
      await writeFile(keyring, `[client.${access.user}]\n\tkey = ${access.key}\n`, { mode: 0o600 });
      return (await cluster.rbd('--id', access.user, '--keyring', keyring, ...parameters)).stdout;
    },
    async end() {
      await cleanUp(
        ...connections.map((connection) => () => connection.close()),
        ...[...exports].map((exportId) => () => fixture.step('RevokeAccess', { exportId })),
        () => data.kill(),
        () => fence.kill(),
        ...[dataUser, fenceUser].map((user) => () => cluster.ceph('auth', 'del', `client.${user}`)),
        () => rm(directory, { recursive: true, force: true }),
      );
    },
  };
  return fixture;
}

/** A chain as volumes make it: a volume, a snapshot's image below another volume. The last is on top. */
export async function cloneChain(
  data: TestAgent,
  prepare: (volume: Image__Output) => Promise<void>,
): Promise<{ readonly origin: Image__Output; readonly snapshot: Image__Output; readonly volume: Image__Output }> {
  const origin = await data.create(`vol-${unique()}`, 64 * 2 ** 20);
  await prepare(origin);
  const point = await data.withConnection(async (connectionId) => {
    const request = { connectionId, image: origin, pointName: `pt-${unique()}` };
    return (await data.step<TakePointResponse__Output>('TakePoint', request)).point;
  });
  const parentOf = (image: Image): object => ({
    name: image.name,
    backendId: image.backendId,
    point: image.points?.[0] ?? point,
  });
  const snapshot = await data.create(`snap-${unique()}`, 64 * 2 ** 20, {
    parent: parentOf({ ...origin, points: [] }),
    pointName: 'base',
  });
  const volume = await data.create(`vol-${unique()}`, 64 * 2 ** 20, { parent: parentOf(snapshot) });
  return { origin: { ...origin, points: point ? [point] : [] }, snapshot, volume };
}

/** A node's client that writes all the time, in a process of its own. */
export class Writer {
  readonly process: ChildProcess;
  /** "ok" and "failed …", one for each write that was answered. */
  readonly answers: string[] = [];
  address = '';

  private constructor(task: object) {
    this.process = spawn(
      process.execPath,
      ['--import', 'tsx', fileURLToPath(new URL('agent-fence-writer.ts', import.meta.url))],
      { stdio: ['pipe', 'pipe', 'inherit'] },
    );
    this.process.stdin?.write(`${JSON.stringify(task)}\n`);
    if (this.process.stdout === null) throw new Error('no standard output');
    createInterface({ input: this.process.stdout }).on('line', (line) => {
      if (line.startsWith('open ')) this.address = line.slice('open '.length);
      else this.answers.push(line);
    });
  }

  /** Starts one and waits until it writes. */
  static async start(
    cluster: Cluster,
    access: Access,
    image: string,
    letter: string,
    pool = 'moorage',
  ): Promise<Writer> {
    const { configurationFile } = cluster;
    const { user, key } = access;
    const writer = new Writer({ configurationFile, user, key, pool, image, letter });
    await waitFor('the client writes', () => writer.answers.includes('ok'));
    return writer;
  }

  freeze(): void {
    this.process.kill('SIGSTOP');
  }

  wake(): void {
    this.process.kill('SIGCONT');
  }

  async end(): Promise<void> {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    const ended = new Promise((resolve) => this.process.once('exit', resolve));
    this.process.kill('SIGKILL');
    await ended;
  }
}
