import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { initialisePool } from '../../src/agents/rbd/pool-init.js';
import { connect, type MoorageClient } from '../../src/client/index.js';
import { createMasterKeyFile } from '../../src/sealing/index.js';
import { cleanUp } from './clean-up.js';
import { type Cluster, repositoryDirectory, startCluster } from './cluster.js';
import { execute } from './exec.js';
import { beatTimeoutOf, makeTestStore, type TestStore } from './store.js';
import { waitFor } from './wait.js';

const controllerProgram = join(repositoryDirectory, 'dist/bin/moorage-controller.js');

/** What a test may set of its controller, as the configuration file has it. */
export type Settings = Readonly<Record<string, unknown>>;

export interface SystemOptions {
  /** Name of the system and of its Ceph pool; lower-case letters, digits and `-`. */
  readonly name: string;
  /** Default: the shared cluster. */
  readonly cluster?: Cluster;
  /** On top of what tests usually have. */
  readonly settings?: Settings;
  /** How long what was deleted can be undeleted; default 0. */
  readonly undeleteWindowSeconds?: number;
  /** Where the store lies; default: the system's folder for temporary files, which may be in memory. */
  readonly storeDirectory?: string;
  /** Default: the one that the variable STORE names, or sqlite. */
  readonly store?: 'sqlite' | 'redis';
  /** Default: managed access. */
  readonly keyringUser?: string;
  /** What Node is told before the controller's program, and the controller tells its agents' Node, as ["--import", …]. */
  readonly nodeArguments?: readonly string[];
  /** Whether its processes note what they cover where a run asks for that; default true. It makes each start dearer by half. */
  readonly coverage?: boolean;
}

/** A real controller process, with its agents, on a pool of its own. */
export interface System {
  readonly cluster: Cluster;
  readonly directory: string;
  readonly cephPool: string;
  /** The pool's id in Moorage. */
  readonly poolId: string;
  /** As `moorage --endpoint` takes it. */
  readonly endpoint: string;
  readonly client: MoorageClient;
  readonly configurationFile: string;
  readonly store: TestStore;
  /** The store's file, when it is embedded. */
  readonly storeFile: string;
  /** The process that runs now, or ran last. */
  readonly pid: number;
  /** Whether it runs: not after `kill` and `stop`, nor when it ended by itself or by another's hand. */
  readonly running: boolean;
  /** Process ids of its agents: found in the kernel's own lists, by the role in their command line. */
  agentPid(role: 'data' | 'fence'): Promise<number>;
  /** Everything that the controller has logged, of all its starts. */
  log(): string;
  /** Ends the controller with SIGKILL, and waits until it and its agents are gone. */
  kill(): Promise<void>;
  /** SIGTERM, and waits for a clean end. */
  stop(): Promise<void>;
  /** Starts it again after `kill` or `stop`. */
  start(): Promise<void>;
  /** Stops it, makes its store of a copy as an administrator does, and starts it. */
  restore(copy: string): Promise<void>;
  /** Stops it and removes its pool and folder. */
  remove(): Promise<void>;
}

const usual = {
  journal: { beat_timeout: '10s', step_timeout: '20s', retry_limit: '500ms' },
  reaper: { interval: '1s' },
  agents: { osd_timeout: '15s', pool_interval: '500ms' },
  log: { level: 'info' },
};

/** Starts a controller on a new pool of a cluster. */
export async function startSystem(options: SystemOptions): Promise<System> {
  const cluster = options.cluster ?? (await startCluster());
  const cephPool = options.name;
  const directory = await mkdtemp(join(tmpdir(), `moorage-${options.name}-`));
  // A run that was ended may have left one.
  await cluster.ceph('osd', 'pool', 'delete', cephPool, cephPool, '--yes-i-really-really-mean-it');
  await cluster.ceph('osd', 'pool', 'create', cephPool, '8', '8');
  const keyring = (role: string): string => join(directory, `ceph.client.${role}.keyring`);
  const users = { data: `moorage-data-${options.name}`, fence: `moorage-fence-${options.name}` };
  await initialisePool({
    configurationFile: cluster.configurationFile,
    adminUser: 'admin',
    adminKeyring: cluster.adminKeyring,
    cephPool,
    dataUser: users.data,
    dataKeyringFile: keyring('data'),
    fenceUser: users.fence,
    fenceKeyringFile: keyring('fence'),
  });
  await createMasterKeyFile(join(directory, 'master.key'));
  await mkdir(join(directory, 'run'), { mode: 0o700 });
  const storeDirectory =
    options.storeDirectory === undefined ? directory : await mkdtemp(join(options.storeDirectory, 'store-'));
  const storeFile = join(storeDirectory, 'store.db');
  const store = await makeTestStore(storeDirectory, beatTimeoutOf(options.settings), options.store, directory);
  const socket = join(directory, 'moorage.sock');
  const configurationFile = join(directory, 'controller.yaml');
  const configuration = merge(
    {
      ...usual,
      listeners: [{ address: `unix:${socket}`, plaintext: { role: 'admin' } }],
      store: store.settings,
      master_key: { file: join(directory, 'master.key') },
      descriptor_key: join(directory, 'descriptor.key'),
      state_directory: directory,
      run_directory: join(directory, 'run'),
      clusters: {
        main: {
          ceph_configuration: cluster.configurationFile,
          data: { user: users.data, keyring: keyring('data') },
          fence: { user: users.fence, keyring: keyring('fence') },
        },
      },
    },
    options.settings ?? {},
  );
  await writeFile(configurationFile, stringify(configuration), { mode: 0o600 });
  const endpoint = `unix:${socket}`;
  const client = connect({ endpoints: [endpoint], deadlineMilliseconds: 60_000 });
  const process_ = new ControllerProcess(
    configurationFile,
    socket,
    options.nodeArguments ?? [],
    undefined,
    options.coverage,
  );
  const remove = async (signal: NodeJS.Signals): Promise<void> => {
    client.close();
    await cleanUp(
      () => process_.end(signal),
      () => cluster.ceph('osd', 'pool', 'delete', cephPool, cephPool, '--yes-i-really-really-mean-it'),
      () => store.remove(),
      ...Object.values(users).map((user) => () => cluster.ceph('auth', 'del', `client.${user}`)),
      () => rm(directory, { recursive: true, force: true }),
      () => rm(storeDirectory, { recursive: true, force: true }),
    );
  };
  try {
    await process_.start();
    await client.createPool({
      poolId: 'main',
      settings: 'rbd',
      rbd: {
        cluster: 'main',
        cephPool,
        access: options.keyringUser === undefined ? 'RBD_ACCESS_MANAGED' : 'RBD_ACCESS_KEYRING',
        keyringUser: options.keyringUser ?? '',
      },
      undeleteWindowSeconds: options.undeleteWindowSeconds ?? 0,
    });
  } catch (error) {
    const message = `no system came up; the end of its log:\n${process_.log.slice(-2000)}`;
    await remove('SIGKILL').catch((second: unknown) => {
      throw new AggregateError([error, second], message);
    });
    throw new Error(message, { cause: error });
  }
  return {
    cluster,
    directory,
    cephPool,
    poolId: 'main',
    endpoint,
    client,
    configurationFile,
    store,
    storeFile,
    get pid() {
      return process_.pid;
    },
    get running() {
      return process_.running;
    },
    agentPid: (role) => process_.agentPid(role),
    log: () => process_.log,
    kill: () => process_.end('SIGKILL'),
    stop: () => process_.end('SIGTERM'),
    start: () => process_.start(),
    restore: async (copy) => {
      await process_.end('SIGTERM');
      await store.lose();
      await execute(process.execPath, [controllerProgram, '--config', configurationFile, 'restore-store', copy]);
      await process_.start();
    },
    remove: () => remove('SIGTERM'),
  };
}

/** A controller's process, in a network namespace of its own if one is named. */
export class ControllerProcess {
  /** All that it wrote, of all its starts. */
  log = '';
  readonly #configurationFile: string;
  readonly #socket: string;
  readonly #nodeArguments: readonly string[];
  readonly #namespace: string | undefined;
  readonly #coverage: boolean;
  #child: ChildProcess | undefined;

  constructor(
    configurationFile: string,
    socket: string,
    nodeArguments: readonly string[],
    namespace?: string,
    coverage = true,
  ) {
    this.#configurationFile = configurationFile;
    this.#socket = socket;
    this.#nodeArguments = nodeArguments;
    this.#namespace = namespace;
    this.#coverage = coverage;
  }

  get pid(): number {
    const pid = this.#child?.pid;
    if (pid === undefined) throw new Error('The controller does not run.');
    return pid;
  }

  get running(): boolean {
    const child = this.#child;
    return child !== undefined && child.exitCode === null && child.signalCode === null;
  }

  async start(): Promise<void> {
    // `ip netns exec` becomes the program: the process id is the controller's.
    const inside = this.#namespace === undefined ? [] : ['ip', 'netns', 'exec', this.#namespace];
    const [first = '', ...others] = [
      ...inside,
      process.execPath,
      ...this.#nodeArguments,
      controllerProgram,
      ...['--config', this.#configurationFile],
    ];
    const { NODE_V8_COVERAGE, ...without } = process.env;
    const env = this.#coverage ? process.env : without;
    const child = spawn(first, others, { stdio: ['ignore', 'pipe', 'pipe'], env });
    this.#child = child;
    const former = this.log.length;
    const collect = (chunk: Buffer): void => {
      this.log += chunk.toString();
    };
    child.stdout.on('data', collect);
    child.stderr.on('data', collect);
    const ended = (): boolean => child.exitCode !== null || child.signalCode !== null;
    const isServing = (): boolean => existsSync(this.#socket) && this.log.includes('"serving"', former);
    await waitFor('the controller serves', () => ended() || isServing());
    if (ended()) throw new Error(`the controller ended:\n${this.log.slice(Math.max(former, this.log.length - 4000))}`);
  }

  async end(signal: NodeJS.Signals): Promise<void> {
    const child = this.#child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const agents = await childrenOf(this.pid);
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill(signal);
    await ended;
    await waitFor('the agents are gone', () => agents.every((pid) => !existsSync(`/proc/${pid}`)));
  }

  async agentPid(role: 'data' | 'fence'): Promise<number> {
    return waitFor(`the agent "${role}" runs`, async () => {
      for (const pid of await childrenOf(this.pid)) {
        const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8');
        if (commandLine.includes(`--role\0${role}`)) return pid;
      }
      return undefined;
    });
  }
}

/** Process ids of a process's children, from the kernel's own list. */
export async function childrenOf(pid: number): Promise<readonly number[]> {
  const text = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8');
  return text.split(' ').filter(Boolean).map(Number);
}

/** Settings over others, section by section. */
export function merge(base: Readonly<Record<string, unknown>>, over: Settings): Record<string, unknown> {
  const merged: Record<string, unknown> = { ...base };
  for (const [name, value] of Object.entries(over)) {
    const below = merged[name];
    const isSection = (item: unknown): item is Settings =>
      typeof item === 'object' && item !== null && !Array.isArray(item);
    merged[name] = isSection(below) && isSection(value) ? merge(below, value) : value;
  }
  return merged;
}
