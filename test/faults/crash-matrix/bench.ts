import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { initialisePool } from '../../../src/agents/rbd/pool-init.js';
import type { MoorageClient } from '../../../src/client/index.js';
import { cleanUp } from '../../helpers/clean-up.js';
import { type System, startSystem } from '../../helpers/system.js';
import { type Administrator, openAsAdministrator, TestNode } from '../../helpers/test-node.js';
import { waitFor } from '../../helpers/wait.js';

/**
 * What kind of system a call needs: its pool keeps what is deleted, purges it at once, or gives out no users of its own; or
 * its store is lost and rebuilt, with everything that is in the pool.
 */
export type BenchKind = 'keeps' | 'purges' | 'keyring' | 'rebuilds';

/** Where a trap closes: the side of the process that passes the point. */
export type Site = 'controller' | 'agent';
export type Moment = 'before' | 'after';
export type Victims = 'controller' | 'agent' | 'both';

/** A trap: at this point, on this side of it, these processes end. */
export interface Trap {
  readonly point: string;
  readonly site: Site;
  readonly moment: Moment;
  readonly victims: Victims;
}

/** A trap that closed. */
export interface Reached {
  /** Process ids. */
  readonly victims: readonly number[];
  /** The agents that the controller had then. */
  readonly agents: readonly { readonly id: number; readonly role: string }[];
}

/** A point that was passed. */
export interface Passed {
  readonly point: string;
  readonly site: Site;
  readonly moment: Moment;
}

/** What a trace says. */
export interface Trace {
  readonly passed: readonly Passed[];
  /** Revisions of the commits that passed their points. */
  readonly revisions: readonly number[];
  /** Methods of the backend protocol, as "data CreateImage": those that the controller's points saw, and the agents'. */
  readonly sent: ReadonlySet<string>;
  readonly served: ReadonlySet<string>;
}

/** How soon things come to rest, so that a point takes seconds; nothing is measured by it. */
const SETTINGS = {
  journal: { retry_limit: '100ms' },
  reaper: { interval: '150ms' },
  agents: { pool_interval: '30s' },
  // What is made from a volume that is made from a snapshot is flattened.
  limits: { flatten_depth: 3 },
  log: { level: 'info' },
};

/** Size of the volumes here: a few objects, none of which is written. */
export const SIZE_BYTES = 16 * 2 ** 20;

/** A system whose processes note the points that they pass, and end where they are told to. */
export class Bench {
  readonly system: System;
  readonly kind: BenchKind;
  readonly nodes: readonly TestNode[];
  /** A completed snapshot to make volumes from. Its volume has it open for nobody. */
  readonly snapshotId: string;
  /** Ceph pools that the agents may use and that are nobody's pool yet. */
  readonly sparePools: string[];
  /** Looks at its Ceph pool from outside, from its start to its end. */
  readonly administrator: Administrator;
  readonly #allSparePools: readonly string[];
  readonly #folder: string;
  readonly #deadAddresses: string[] = [];

  private constructor(
    system: System,
    kind: BenchKind,
    nodes: readonly TestNode[],
    snapshotId: string,
    folder: string,
    sparePools: readonly string[],
    administrator: Administrator,
  ) {
    this.system = system;
    this.kind = kind;
    this.nodes = nodes;
    this.snapshotId = snapshotId;
    this.#folder = folder;
    this.sparePools = [...sparePools];
    this.#allSparePools = sparePools;
    this.administrator = administrator;
  }

  static async start(
    name: string,
    kind: BenchKind,
    options: { readonly planted?: object; readonly settings?: object } = {},
  ): Promise<Bench> {
    const here = (file: string): string => fileURLToPath(new URL(file, import.meta.url));
    const system = await startSystem({
      name,
      settings: { ...SETTINGS, ...options.settings },
      undeleteWindowSeconds: kind === 'purges' ? 0 : 3600,
      ...(kind === 'keyring' ? { keyringUser: 'nobody' } : {}),
      nodeArguments: ['--import', here('points.mjs'), ...(options.planted ? ['--import', here('planted.mjs')] : [])],
      // Of those that end by SIGKILL nobody learns what they covered.
      coverage: false,
    });
    const folder = join(system.directory, 'points');
    if (options.planted) writeFileSync(join(folder, 'planted.json'), JSON.stringify(options.planted));
    const administrator = await openAsAdministrator(system);
    const sparePools = kind === 'purges' ? await makeSparePools(system, administrator) : [];
    if (options.planted || sparePools.length > 0) {
      // The planted bug, and what the agents' users may do, count from the next start.
      await system.kill();
      await system.start();
    }
    const nodes = await Promise.all(['node-a', 'node-b'].map((id) => TestNode.register(system, id)));
    const { client } = system;
    const { volume } = await client.createVolume({ poolId: 'main', sizeBytes: SIZE_BYTES });
    const { snapshot } = await client.createSnapshot({ volumeId: volume?.id ?? '' });
    return new Bench(system, kind, nodes, snapshot?.id ?? '', folder, sparePools, administrator);
  }

  get client(): MoorageClient {
    return this.system.client;
  }

  node(index: number): TestNode {
    const node = this.nodes[index];
    if (node === undefined) throw new Error(`there is no node ${index}`);
    return node;
  }

  /** The trace from a mark on. */
  trace(mark = 0): Trace {
    const lines = this.#traceText().slice(mark).split('\n').filter(Boolean);
    const rows = lines.map((line) => line.split('\t'));
    const of = (kind: string): string[][] => rows.filter(([first]) => first === kind).map((row) => row.slice(1));
    return {
      passed: of('point').map(([site, moment, point]) => ({ site, moment, point }) as Passed),
      revisions: of('committed').map(([revision]) => Number(revision)),
      sent: new Set(of('sent').map(([what]) => what ?? '')),
      served: new Set(of('served').map(([what]) => what ?? '')),
    };
  }

  /** Where the trace ends now. */
  mark(): number {
    return this.#traceText().length;
  }

  #traceText(): string {
    const file = join(this.#folder, 'trace.log');
    return existsSync(file) ? readFileSync(file, 'utf8') : '';
  }

  /** Sets a trap; it closes once. Another one of the same name goes. */
  set(trap: Trap, name = 'trap'): void {
    rmSync(join(this.#folder, 'reached', name), { force: true });
    writeFileSync(join(this.#folder, 'traps', name), JSON.stringify(trap));
  }

  /** Takes away what traps did not close. */
  unset(): void {
    for (const name of readdirSync(join(this.#folder, 'traps')))
      rmSync(join(this.#folder, 'traps', name), { force: true });
  }

  /** The trap that closed; undefined while it has not. */
  reached(name = 'trap'): Reached | undefined {
    const file = join(this.#folder, 'reached', name);
    return existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as Reached) : undefined;
  }

  /** Waits until those who were to end have ended; with a controller its agents too. @returns whether it was among them */
  async dead({ victims, agents }: Reached): Promise<boolean> {
    const isController = victims.includes(this.system.pid);
    const all = isController ? [...victims, ...agents.map((agent) => agent.id)] : victims;
    await waitFor(
      'the processes are gone',
      () => all.every((id) => !isAlive(id)) && !(isController && this.system.running),
      { intervalMilliseconds: 5 },
    );
    for (const { id, role } of agents) {
      if (role === 'data' && all.includes(id)) this.#deadAddresses.push(...this.#addressesOf(id));
    }
    return isController;
  }

  /** Addresses in Ceph of the data agents that traps have ended. */
  deadAddresses(): readonly string[] {
    return this.#deadAddresses;
  }

  /** As it told them to the log. The last who did: process ids come again. */
  #addressesOf(processId: number): readonly string[] {
    const lines = this.system.log().split('\n');
    const line = lines.findLast((one) => one.includes('\\"addresses\\"') && one.includes(`\\"pid\\":${processId},`));
    if (line === undefined) return [];
    return (JSON.parse((JSON.parse(line) as { line: string }).line) as { addresses: string[] }).addresses;
  }

  /** Stops it, takes its store away, and starts it with an empty one that knows its pool and its nodes. */
  async loseStore(): Promise<void> {
    const { client, poolId } = this.system;
    const { pool } = await client.getPool({ poolId });
    if (pool?.rbd === undefined || pool.rbd === null) throw new Error(`${poolId} is no pool of RBD`);
    await this.system.stop();
    await this.system.store.lose();
    await this.system.start();
    const { rbd, undeleteWindowSeconds } = pool;
    await client.createPool({ poolId, settings: 'rbd', rbd, undeleteWindowSeconds });
    for (const { id, keys } of this.nodes)
      await client.registerNode({ nodeId: id, publicKey: Buffer.from(keys.publicKey) });
  }

  /** Ends the exports that former calls have left: each is looked up in Ceph whenever everything is compared. */
  async tidy(): Promise<void> {
    const { exports } = await this.client.listExports({ pageSize: 1000 });
    await Promise.allSettled(exports.map(({ id }) => this.client.unexport({ exportId: id })));
  }

  async remove(): Promise<void> {
    const { cluster, pool } = this.administrator;
    await cleanUp(
      () => this.system.remove(),
      ...this.#allSparePools.map((name) => () => deletePool(cluster, name)),
      () => pool.close(),
      () => cluster.close(),
    );
  }
}

/** As many as there are calls made ready at once. */
const SPARE_POOLS = 8;

/** Ceph pools that the system's users may reach and that no pool of Moorage is on. */
async function makeSparePools(system: System, administrator: Administrator): Promise<readonly string[]> {
  const { cluster, directory, cephPool } = system;
  const names = Array.from({ length: SPARE_POOLS }, (_, index) => `${cephPool}-spare-${index + 1}`);
  for (const name of names) {
    await deletePool(administrator.cluster, name);
    await administrator.cluster.monCommand({ prefix: 'osd pool create', pool: name, pg_num: 1 });
    const keyring = (role: string): string => join(directory, `${name}-${role}.keyring`);
    await initialisePool({
      configurationFile: cluster.configurationFile,
      adminUser: 'admin',
      adminKeyring: cluster.adminKeyring,
      cephPool: name,
      dataUser: `moorage-data-${cephPool}`,
      dataKeyringFile: keyring('data'),
      fenceUser: `moorage-fence-${cephPool}`,
      fenceKeyringFile: keyring('fence'),
    });
    // The users have their keys already.
    for (const role of ['data', 'fence']) rmSync(keyring(role));
  }
  return names;
}

/** Deletes a Ceph pool, if it is there. */
async function deletePool(cluster: Administrator['cluster'], name: string): Promise<void> {
  await cluster.monCommand({
    prefix: 'osd pool delete',
    ...{ pool: name, pool2: name, yes_i_really_really_mean_it: true },
  });
}

/** A zombie is dead, once its last thread is: until then it holds its files. */
function isAlive(id: number): boolean {
  try {
    if (!/^\d+ \(.*\) [ZX]/.test(readFileSync(`/proc/${id}/stat`, 'utf8'))) return true;
    return readdirSync(`/proc/${id}/task`).length > 1;
  } catch {
    return false;
  }
}
