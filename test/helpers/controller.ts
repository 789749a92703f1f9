import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { stringify } from 'yaml';
import { initialisePool } from '../../src/agents/rbd/pool-init.js';
import { connect, type MoorageClient } from '../../src/client/index.js';
import { createMasterKeyFile } from '../../src/sealing/index.js';
import { TestAuthority } from './certificates.js';
import { cleanUp } from './clean-up.js';
import { type Cluster, repositoryDirectory } from './cluster.js';
import { beatTimeoutOf, makeTestStore, type TestStore } from './store.js';

/** What a test may ask of its controller. */
export interface ControllerOptions {
  readonly cluster: Cluster;
  /** Name of the Ceph pool; made with 8 placement groups when it is not there. */
  readonly cephPool: string;
  /** Settings over those of the helper, as the configuration file has them. */
  readonly settings?: Readonly<Record<string, unknown>>;
}

/** A controller of a test's own: its process, its folder, its log. */
export class TestController {
  /** Holds everything of it; removed by `remove`. */
  readonly folder: string;
  readonly configurationFile: string;
  readonly socket: string;
  readonly authority: TestAuthority;
  /** The lines of its log, of all its starts. */
  readonly log: Record<string, unknown>[] = [];
  /** What it wrote that is no log. */
  readonly stderr: string[] = [];
  /** Address of its TLS listener, while it runs. */
  tlsAddress = '';
  metricsAddress = '';
  readonly #cluster: Cluster;
  readonly #cephPool: string;
  #process: ChildProcess | undefined;
  /** Every process that was started, so that none outlives a start that a test gave up. */
  readonly #started: ChildProcess[] = [];
  #store: TestStore | undefined;

  private constructor(folder: string, cluster: Cluster, cephPool: string) {
    this.folder = folder;
    this.#cluster = cluster;
    this.#cephPool = cephPool;
    this.configurationFile = join(folder, 'controller.yaml');
    this.socket = join(folder, 'api.sock');
    this.authority = new TestAuthority(folder);
  }

  /** Makes one ready, with the Ceph users of its own that `moorage pool init` makes. Does not start it. */
  static async make({ cluster, cephPool, settings = {} }: ControllerOptions): Promise<TestController> {
    // A short path: unix sockets have at most 107 bytes.
    const controller = new TestController(mkdtempSync(join(tmpdir(), 'moorage-c-')), cluster, cephPool);
    const { folder } = controller;
    for (const name of ['state', 'run']) mkdirSync(join(folder, name), { mode: 0o700 });
    await createMasterKeyFile(join(folder, 'master.key'));
    await cluster.ceph('osd', 'pool', 'create', cephPool, '8');
    await initialisePool({
      configurationFile: cluster.configurationFile,
      adminUser: 'admin',
      adminKeyring: cluster.adminKeyring,
      cephPool,
      dataUser: `data-${cephPool}`,
      dataKeyringFile: join(folder, 'data.keyring'),
      fenceUser: `fence-${cephPool}`,
      fenceKeyringFile: join(folder, 'fence.keyring'),
    });
    const { certificate, key } = controller.authority.server();
    const store = await makeTestStore(join(folder, 'state'), beatTimeoutOf(settings));
    controller.#store = store;
    const configuration = {
      listeners: [
        { address: `unix:${controller.socket}`, plaintext: { role: 'admin' } },
        { address: 'localhost:0', tls: { certificate, key, client_ca: controller.authority.certificate } },
      ],
      store: store.settings,
      master_key: { file: 'master.key' },
      descriptor_key: 'state/descriptor.key',
      state_directory: 'state',
      run_directory: 'run',
      clusters: {
        main: {
          ceph_configuration: cluster.configurationFile,
          data: { user: `data-${cephPool}`, keyring: 'data.keyring' },
          fence: { user: `fence-${cephPool}`, keyring: 'fence.keyring' },
        },
      },
      metrics: { address: '127.0.0.1:0' },
      log: { level: 'debug' },
      ...settings,
    };
    writeFileSync(controller.configurationFile, stringify(configuration));
    return controller;
  }

  /** Ids of all agents that were ready so far. */
  agentIds(): Set<string> {
    return new Set(this.log.filter((entry) => entry.event === 'ready').map((entry) => String(entry.agent_id)));
  }

  /** The file that its store keeps in its folder: the data itself, or a note of what is kept elsewhere. */
  get storeNote(): string {
    return this.#store?.embedded === false ? 'state/redis-store.json' : 'state/store.db';
  }

  get processId(): number | undefined {
    return this.#process?.pid;
  }

  /**
   * Starts it and waits until it serves. A second start beside one that runs is a test of its own: the first stays known.
   * @throws Error with what it wrote when it ends before that
   */
  async start(): Promise<void> {
    const child = spawn(
      process.execPath,
      [
        '--import',
        'tsx',
        join(repositoryDirectory, 'src/bin/moorage-controller.ts'),
        '--config',
        this.configurationFile,
      ],
      { cwd: repositoryDirectory, stdio: ['ignore', 'pipe', 'pipe'] },
    );
    this.#started.push(child);
    createInterface({ input: child.stderr }).on('line', (line) => this.stderr.push(line));
    const lines = createInterface({ input: child.stdout });
    await new Promise<void>((resolve, reject) => {
      lines.on('line', (line) => {
        const entry = JSON.parse(line) as Record<string, unknown>;
        this.log.push(entry);
        if (entry.msg !== 'serving') return;
        this.tlsAddress = (entry.addresses as string[])[1] ?? '';
        this.metricsAddress = String(entry.metrics);
        this.#process = child;
        resolve();
      });
      child.once('exit', (code, signal) => {
        const last = this.log.slice(-5).map((entry) => JSON.stringify(entry));
        reject(
          new Error(`The controller ended (${signal ?? code}).\n${[...last, ...this.stderr.slice(-20)].join('\n')}`),
        );
      });
    });
  }

  /** Ends it as a service manager would, or at once; resolves with its exit code (null: killed). */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
    const child = this.#process;
    this.#process = undefined;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return child?.exitCode ?? null;
    const ended = new Promise<number | null>((resolve) => child.once('exit', (code) => resolve(code)));
    child.kill(signal);
    return ended;
  }

  /** A client on its unix socket: an administrator. */
  client(): MoorageClient {
    return connect({ endpoints: [`unix:${this.socket}`] });
  }

  /** A client over TLS. @param subject as "/OU=node/CN=nc-a" */
  clientAs(name: string, subject: string): MoorageClient {
    const pair = this.authority.client(name, subject);
    return connect({
      endpoints: [this.tlsAddress],
      tls: {
        ca: readFileSync(this.authority.certificate),
        certificate: readFileSync(pair.certificate),
        key: readFileSync(pair.key),
      },
    });
  }

  /** Ends it and removes its folder, its pool and its Ceph users. */
  async remove(): Promise<void> {
    const pool = this.#cephPool;
    await cleanUp(
      () => this.stop('SIGTERM'),
      ...this.#started.map((child) => () => child.kill('SIGKILL')),
      () => this.#cluster.ceph('osd', 'pool', 'delete', pool, pool, '--yes-i-really-really-mean-it'),
      () => this.#store?.remove(),
      ...['data', 'fence'].map((role) => () => this.#cluster.ceph('auth', 'del', `client.${role}-${pool}`)),
      () => rmSync(this.folder, { recursive: true, force: true }),
    );
  }
}
