import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { initialisePool } from '../../src/agents/rbd/pool-init.js';
import { connect, type MoorageClient } from '../../src/client/index.js';
import { createMasterKeyFile } from '../../src/sealing/index.js';
import { cleanUp } from './clean-up.js';
import type { Cluster } from './cluster.js';
import type { NetworkHost } from './private-network.js';
import { ControllerProcess, childrenOf, merge, type Settings, type System } from './system.js';

export interface SeveralOptions {
  /** Name of the Ceph pool; lower-case letters, digits and `-`. */
  readonly name: string;
  readonly cluster: Cluster;
  /** Where each runs. */
  readonly hosts: readonly NetworkHost[];
  /** `store.redis` of the configuration. */
  readonly redis: Settings;
  /** On top of what these tests usually have. */
  readonly settings?: Settings;
  readonly undeleteWindowSeconds?: number;
  /** What Node is told before the controllers' program and, by them, before their agents'. */
  readonly nodeArguments?: readonly string[];
}

/** T of these controllers, in milliseconds: short, and longer than a busy machine keeps a beat waiting. */
export const BEAT_TIMEOUT = 3_000;

const usual = {
  journal: { beat_timeout: `${BEAT_TIMEOUT}ms`, step_timeout: '20s', retry_limit: '200ms' },
  reaper: { interval: '250ms' },
  agents: { osd_timeout: '15s', pool_interval: '2s' },
  log: { level: 'info' },
};

/** `store.redis` for T: a commit may take half of it. */
export const redisTimes = {
  commit_timeout: `${BEAT_TIMEOUT / 2}ms`,
  replica_timeout: `${BEAT_TIMEOUT / 4}ms`,
  call_timeout: `${BEAT_TIMEOUT / 4}ms`,
};

/** One of several controllers: its process, its host, a client that asks only it. */
export class OneController {
  readonly host: NetworkHost;
  readonly process: ControllerProcess;
  readonly endpoint: string;
  readonly client: MoorageClient;

  constructor(host: NetworkHost, process_: ControllerProcess, endpoint: string) {
    this.host = host;
    this.process = process_;
    this.endpoint = endpoint;
    this.client = connect({ endpoints: [endpoint], deadlineMilliseconds: 120_000 });
  }

  /** Its process id and those of its agents. */
  async processIds(): Promise<readonly number[]> {
    return [...(await childrenOf(this.process.pid)), this.process.pid];
  }

  /** How often its log has said this. */
  said(text: string): number {
    return this.process.log.split(text).length - 1;
  }
}

/** Several controllers, each in a network of its own, on one store and one Ceph pool. */
export class SeveralControllers {
  readonly cluster: Cluster;
  readonly cephPool: string;
  readonly directory: string;
  readonly poolId = 'main';
  readonly all: readonly OneController[];
  /** Asks whoever answers. */
  readonly client: MoorageClient;

  private constructor(options: SeveralOptions, directory: string, all: readonly OneController[]) {
    this.cluster = options.cluster;
    this.cephPool = options.name;
    this.directory = directory;
    this.all = all;
    this.client = this.connect();
  }

  static async start(options: SeveralOptions): Promise<SeveralControllers> {
    const { cluster, name } = options;
    const directory = await mkdtemp(join(tmpdir(), `moorage-${name}-`));
    await cluster.ceph('osd', 'pool', 'delete', name, name, '--yes-i-really-really-mean-it');
    await cluster.ceph('osd', 'pool', 'create', name, '8', '8');
    const keyring = (role: string): string => join(directory, `ceph.client.${role}.keyring`);
    await initialisePool({
      configurationFile: cluster.configurationFile,
      adminUser: 'admin',
      adminKeyring: cluster.adminKeyring,
      cephPool: name,
      dataUser: `moorage-data-${name}`,
      dataKeyringFile: keyring('data'),
      fenceUser: `moorage-fence-${name}`,
      fenceKeyringFile: keyring('fence'),
    });
    await createMasterKeyFile(join(directory, 'master.key'));
    await mkdir(join(directory, 'freeze'));
    const all: OneController[] = [];
    for (const [index, host] of options.hosts.entries()) {
      const own = join(directory, String(index + 1));
      await mkdir(join(own, 'run'), { recursive: true, mode: 0o700 });
      await mkdir(join(own, 'state'), { mode: 0o700 });
      await symlink(join(directory, 'freeze'), join(own, 'state', 'freeze'));
      const socket = join(own, 'api.sock');
      const configurationFile = join(own, 'controller.yaml');
      const configuration = merge(
        {
          ...usual,
          listeners: [{ address: `unix:${socket}`, plaintext: { role: 'admin' } }],
          store: { redis: { ...options.redis, prefix: `${name}:` } },
          master_key: { file: join(directory, 'master.key') },
          descriptor_key: join(directory, 'descriptor.key'),
          state_directory: join(own, 'state'),
          run_directory: join(own, 'run'),
          clusters: {
            main: {
              ceph_configuration: cluster.configurationFile,
              data: { user: `moorage-data-${name}`, keyring: keyring('data') },
              fence: { user: `moorage-fence-${name}`, keyring: keyring('fence') },
            },
          },
        },
        options.settings ?? {},
      );
      await writeFile(configurationFile, stringify(configuration), { mode: 0o600 });
      const process_ = new ControllerProcess(
        configurationFile,
        socket,
        options.nodeArguments ?? [],
        host.namespace === '' ? undefined : host.namespace,
      );
      all.push(new OneController(host, process_, `unix:${socket}`));
    }
    const several = new SeveralControllers(options, directory, all);
    try {
      // The first one makes the key of the descriptors, which all share.
      for (const each of all) await each.process.start();
      await several.client.createPool({
        poolId: several.poolId,
        settings: 'rbd',
        rbd: { cluster: 'main', cephPool: name, access: 'RBD_ACCESS_MANAGED', keyringUser: '' },
        undeleteWindowSeconds: options.undeleteWindowSeconds ?? 0,
      });
    } catch (error) {
      const message = `not all came up:\n${all.map((each) => each.process.log.slice(-2000)).join('\n')}`;
      await several.remove().catch((second: unknown) => {
        throw new AggregateError([error, second], message);
      });
      throw new Error(message, { cause: error });
    }
    return several;
  }

  /** A client of its own that asks all of them, beginning with one. */
  connect(first = 0): MoorageClient {
    const endpoints = this.all.map((each) => each.endpoint);
    return connect({
      endpoints: [...endpoints.slice(first), ...endpoints.slice(0, first)],
      deadlineMilliseconds: 120_000,
      silenceMilliseconds: 1_000,
    });
  }

  one(index: number): OneController {
    const found = this.all[index];
    if (found === undefined) throw new Error(`there is no controller ${index}`);
    return found;
  }

  /** As helpers take a system that has one controller: seen through one of them. */
  seenBy(index: number): System {
    const { process: one, client, endpoint } = this.one(index);
    const { cluster, directory, cephPool, poolId } = this;
    const refused = (): never => {
      throw new Error('this is one of several controllers');
    };
    const refuse = async (): Promise<never> => refused();
    return {
      ...{ cluster, directory, cephPool, poolId, endpoint, client },
      ...{ configurationFile: join(directory, String(index + 1), 'controller.yaml'), storeFile: '' },
      get store() {
        return refused();
      },
      get pid() {
        return one.pid;
      },
      get running() {
        return one.running;
      },
      agentPid: (role) => one.agentPid(role),
      log: () => one.log,
      kill: () => one.end('SIGKILL'),
      stop: () => one.end('SIGTERM'),
      start: () => one.start(),
      restore: refuse,
      remove: refuse,
    };
  }

  async remove(): Promise<void> {
    const { cluster, cephPool } = this;
    this.client.close();
    for (const each of this.all) each.client.close();
    await cleanUp(
      ...this.all.map((each) => async () => {
        if (!each.process.running) return;
        for (const pid of await each.processIds()) if (existsSync(`/proc/${pid}`)) process.kill(pid, 'SIGCONT');
        await each.process.end('SIGKILL');
      }),
      () => cluster.ceph('osd', 'pool', 'delete', cephPool, cephPool, '--yes-i-really-really-mean-it'),
      ...['data', 'fence'].map((role) => () => cluster.ceph('auth', 'del', `client.moorage-${role}-${cephPool}`)),
      () => rm(this.directory, { recursive: true, force: true }),
    );
  }
}
