import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import type { TestAuthority } from '../../test/helpers/certificates.js';
import { type Cluster, startCluster } from '../../test/helpers/cluster.js';
import { CommandError } from '../../test/helpers/exec.js';
import { type LibvirtHost, startLibvirtHost } from '../../test/helpers/libvirt-host.js';
import { Commands, installCommands } from './commands.js';
import { claimState, configureController, DevelopmentController } from './controller.js';
import type { Narration } from './narration.js';
import {
  CEPH_POOL,
  CLUSTER_NAME,
  clusterDirectory,
  controllerConfiguration,
  controllerLog,
  NODE_ID,
  POOL_ID,
  stateDirectory,
  stateFile,
} from './places.js';

/** As QEMU's limit: it holds its whole guest while it connects, and librados would try for five minutes. */
const CEPH_CONFIGURATION_OF_NODES = '[client]\nclient_mount_timeout = 5\n';

/** A Ceph, a controller and a node with libvirt, on this machine, for people to look at. */
export class Development {
  readonly narration: Narration;
  readonly commands: Commands;
  #cluster: Cluster | undefined;
  #host: LibvirtHost | undefined;
  #controller: DevelopmentController | undefined;
  #authority: TestAuthority | undefined;

  constructor(narration: Narration) {
    this.narration = narration;
    this.commands = new Commands(narration);
  }

  get cluster(): Cluster {
    return present(this.#cluster);
  }

  get host(): LibvirtHost {
    return present(this.#host);
  }

  get controller(): DevelopmentController {
    return present(this.#controller);
  }

  /** Signs callers' certificates for the controller's TLS listener. */
  get authority(): TestAuthority {
    return present(this.#authority);
  }

  /** Starts everything that does not run, and sets up what is not set up. @throws StepError */
  async start(): Promise<void> {
    if (process.getuid?.() !== 0)
      throw new Error('run this as root: libvirt and its guests need namespaces of their own');
    await claimState();
    const { narration } = this;
    const clusterLogs = ['create.log', 'start.log', 'mon.a.log'].map((name) => join(clusterDirectory, 'log', name));
    await narration.step('A Ceph cluster', clusterLogs, () => this.#startCluster());
    await narration.step('The pool and the controller', [controllerLog], () => this.#startController());
    await narration.step(`The node ${NODE_ID}`, [controllerLog], () => this.#enrolNode());
  }

  /**
   * Ends the guests, their host and the controller. The cluster stays: starting it is most of a start.
   * @throws AggregateError when some of it cannot be ended; the rest is
   */
  async stop(): Promise<void> {
    const failures: unknown[] = [];
    await this.#host?.stop().catch((error: unknown) => failures.push(error));
    await this.#controller?.stop().catch((error: unknown) => failures.push(error));
    if (failures.length > 0) throw new AggregateError(failures, 'not everything could be stopped');
  }

  async #startCluster(): Promise<string> {
    this.narration.command(['scripts/ceph-cluster.sh', 'start', CLUSTER_NAME]);
    const existed = existsSync(join(clusterDirectory, 'created'));
    const cluster = await startCluster({ name: CLUSTER_NAME });
    this.#cluster = cluster;
    const { stdout } = await cluster.ceph('status', '-f', 'json');
    const status = JSON.parse(stdout) as {
      health: { status: string };
      osdmap: { num_up_osds: number };
      pgmap: { num_pgs: number };
    };
    const healthy = status.health.status === 'HEALTH_OK' ? 'healthy' : `running (${status.health.status})`;
    const daemons = `${cluster.monitors.length} monitor, a manager, ${status.osdmap.num_up_osds} OSD, ${status.pgmap.num_pgs} placement groups`;
    return `${existed ? 'There already' : 'Made'}, and ${healthy}: ${daemons}.`;
  }

  async #startController(): Promise<string> {
    const { commands, cluster } = this;
    const fromHere = (path: string): string => relative(stateDirectory, path);
    await mkdir(stateDirectory, { recursive: true, mode: 0o700 });
    await installCommands();
    const initialised = await commands.run(
      ...(['moorage', 'pool', 'init', CEPH_POOL, '--ceph-conf', fromHere(cluster.configurationFile)] as const),
      ...['--admin-keyring', fromHere(cluster.adminKeyring)],
      ...['--data-keyring', 'data.keyring', '--fence-keyring', 'fence.keyring'],
    );
    const made = /^users made: *(.+)$/m.exec(initialised.stdout)?.[1];
    if (made !== undefined) this.narration.fact(`users made on Ceph: ${made}`);
    if (!existsSync(stateFile('master.key'))) await commands.run('moorage-controller', 'init-master-key', 'master.key');
    this.#authority = await configureController(cluster);
    this.narration.command(['moorage-controller', '--config', 'controller.yaml'], ' &');
    this.#controller = await DevelopmentController.start();
    if (!(await this.#exists('pool', POOL_ID))) {
      await commands.run(
        ...(['moorage', 'pool', 'create', POOL_ID, '--cluster', 'main', '--ceph-pool', CEPH_POOL] as const),
        ...['--undelete-window', '0s'],
      );
    }
    return `The controller serves the pool "${POOL_ID}" (process ${this.#controller.processId}).`;
  }

  async #enrolNode(): Promise<string> {
    const { commands } = this;
    this.narration.command(['scripts/libvirt-host.sh', 'start', NODE_ID]);
    const host = await startLibvirtHost(NODE_ID);
    this.#host = host;
    await writeFile(join(host.cephDirectory, 'ceph.conf'), CEPH_CONFIGURATION_OF_NODES);
    // What a run left that was cut short.
    for (const name of (await host.virsh('list', '--name')).stdout.split('\n').filter(Boolean)) {
      await host.virsh('destroy', name);
    }
    const known = await this.#exists('node', NODE_ID);
    const publicKey = (await commands.run('storage-utils', 'init')).stdout.trim();
    await commands.run('moorage', 'node', 'register', NODE_ID, '--public-key', publicKey);
    const { stdout: controllerKey } = await commands.quietly(
      ...(['moorage-controller', '--config', controllerConfiguration, 'public-key'] as const),
    );
    await commands.run('storage-utils', 'trust', controllerKey.trim());
    return `A libvirt host of its own runs; ${NODE_ID} ${known ? 'was enrolled before' : 'is enrolled'}: descriptors are sealed to its key.`;
  }

  async #exists(kind: 'pool' | 'node', name: string): Promise<boolean> {
    try {
      await this.commands.quietly('moorage', kind, 'get', name);
      return true;
    } catch (error) {
      if (error instanceof CommandError && error.exitCode === 3) return false;
      throw error;
    }
  }
}

function present<Value>(value: Value | undefined): Value {
  if (value === undefined) throw new Error('not started yet');
  return value;
}
