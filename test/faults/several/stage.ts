import { existsSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { MoorageClient } from '../../../src/client/index.js';
import type { Cluster } from '../../helpers/cluster.js';
import type { NetworkHost } from '../../helpers/private-network.js';
import { SeveralControllers } from '../../helpers/several-controllers.js';
import type { Settings, System } from '../../helpers/system.js';
import { type Administrator, openAsAdministrator, TestNode } from '../../helpers/test-node.js';
import { waitFor } from '../../helpers/wait.js';
import { type Bench, type BenchKind, SIZE_BYTES } from '../crash-matrix/bench.js';

/** Where a machine freezes: in a step that was sent to an agent, before a function that has an effect, or before any. */
export interface FreezePoint {
  readonly role: string;
  readonly method: string;
  /** Of librbd or librados; empty: before the agent did anything. */
  readonly function: string;
}

/** A machine that froze: its process ids. */
export interface Frozen {
  readonly controller: number;
  readonly agents: readonly number[];
}

type UsedOfBench = Omit<
  Bench,
  'trace' | 'mark' | 'set' | 'unset' | 'reached' | 'dead' | 'loseStore' | 'tidy' | 'remove'
>;

export interface StageOptions {
  readonly name: string;
  readonly kind: BenchKind;
  readonly cluster: Cluster;
  readonly hosts: readonly NetworkHost[];
  readonly redis: Settings;
}

/** Two controllers on one pool, with what the calls of the crash matrix need. */
export class Stage {
  readonly kind: BenchKind;
  readonly several: SeveralControllers;
  readonly nodes: readonly TestNode[];
  readonly snapshotId: string;
  readonly sparePools: string[] = [];
  readonly administrator: Administrator;
  /** The controller that tests see the system through: one that is not frozen. */
  seenThrough = 0;
  readonly #folder: string;
  readonly #takenOver = new Set<number>();

  private constructor(
    kind: BenchKind,
    several: SeveralControllers,
    nodes: readonly TestNode[],
    snapshotId: string,
    administrator: Administrator,
  ) {
    this.kind = kind;
    this.several = several;
    this.nodes = nodes;
    this.snapshotId = snapshotId;
    this.administrator = administrator;
    this.#folder = join(several.directory, 'freeze');
  }

  static async start({ kind, ...options }: StageOptions): Promise<Stage> {
    const several = await SeveralControllers.start({
      ...options,
      undeleteWindowSeconds: kind === 'purges' ? 0 : 3600,
      // A snapshot of a volume that was made from one is flattened, so that this is among the calls.
      // What a late step leaves is swept up.
      settings: { limits: { flatten_depth: 3 }, reaper: { sweep_interval: '1s' } },
      nodeArguments: ['--import', fileURLToPath(new URL('freeze.mjs', import.meta.url))],
    });
    const system = several.seenBy(0);
    const nodes = await Promise.all(['node-a', 'node-b'].map((id) => TestNode.register(system, id)));
    const { volume } = await several.client.createVolume({ poolId: 'main', sizeBytes: SIZE_BYTES });
    const { snapshot } = await several.client.createSnapshot({ volumeId: volume?.id ?? '' });
    return new Stage(kind, several, nodes, snapshot?.id ?? '', await openAsAdministrator(system));
  }

  get system(): System {
    return this.several.seenBy(this.seenThrough);
  }

  get client(): MoorageClient {
    return this.system.client;
  }

  node(index: number): TestNode {
    const node = this.nodes[index];
    if (node === undefined) throw new Error(`there is no node ${index}`);
    return node;
  }

  /** As the calls of the crash matrix take it: this is what they use of it. */
  get bench(): Bench {
    return this satisfies UsedOfBench as unknown as Bench;
  }

  /** Addresses in Ceph of the data agents of machines that froze, as they told them to the log: they must be cut off. */
  deadAddresses(): readonly string[] {
    const addresses: string[] = [];
    for (const line of this.several.all.flatMap((each) => each.process.log.split('\n'))) {
      if (!line.includes('\\"addresses\\"')) continue;
      const { role, line: own } = JSON.parse(line) as { role: string; line: string };
      const said = JSON.parse(own) as { pid: number; addresses: string[] };
      // A late request of a dead fence agent harms nothing: it stays connected.
      if (role === 'data' && this.#takenOver.has(said.pid)) addresses.push(...said.addresses);
    }
    return addresses;
  }

  /** To be told once another controller has taken over. */
  takenOver({ agents }: Frozen): void {
    for (const id of agents) this.#takenOver.add(id);
  }

  /** Where the trace ends now. */
  mark(): number {
    const file = join(this.#folder, 'trace.log');
    return existsSync(file) ? statSync(file).size : 0;
  }

  /** The points that were passed since a mark, each once: of every method the agent's first and each effect. */
  passed(mark: number): readonly FreezePoint[] {
    const points = new Map<string, FreezePoint>();
    const file = join(this.#folder, 'trace.log');
    const text = existsSync(file) ? readFileSync(file, 'utf8').slice(mark) : '';
    for (const line of text.split('\n').filter(Boolean)) {
      const [role = '', method = '', functions = ''] = line.split(' ');
      for (const each of ['', ...functions.split(',').filter(Boolean)]) {
        points.set(`${role} ${method} ${each}`, { role, method, function: each });
      }
    }
    return [...points.values()];
  }

  arm(point: FreezePoint): void {
    this.disarm();
    writeFileSync(join(this.#folder, 'trap.json'), JSON.stringify(point));
  }

  disarm(): void {
    for (const name of ['trap.json', 'reached.json', 'returned', 'late'])
      rmSync(join(this.#folder, name), { force: true });
  }

  frozen(): Frozen | undefined {
    const file = join(this.#folder, 'reached.json');
    return existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as Frozen) : undefined;
  }

  /** Whether the step that was stopped has succeeded after all. */
  get succeededLate(): boolean {
    return existsSync(join(this.#folder, 'late'));
  }

  /** Continues what froze, the agents a little before their controller: so that what they hold gets its chance. */
  async thaw({ controller, agents }: Frozen): Promise<void> {
    for (const id of agents) continueProcess(id);
    await waitFor('the late step to be over', () => existsSync(join(this.#folder, 'returned')) || this.succeededLate, {
      timeoutMilliseconds: 1_500,
      intervalMilliseconds: 10,
    }).catch(() => undefined);
    continueProcess(controller);
  }

  async remove(): Promise<void> {
    this.administrator.pool.close();
    await this.administrator.cluster.close();
    await this.several.remove();
    for (const pool of this.sparePools) {
      await this.several.cluster.ceph('osd', 'pool', 'delete', pool, pool, '--yes-i-really-really-mean-it');
    }
  }
}

function continueProcess(id: number): void {
  try {
    process.kill(id, 'SIGCONT');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/** Whether a process is stopped by a signal. */
export function isStopped(id: number): boolean {
  return /^\d+ \(.*\) T/.test(readFileSync(`/proc/${id}/stat`, 'utf8'));
}
