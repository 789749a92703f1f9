import { createHash, randomInt } from 'node:crypto';
import { expect } from 'chai';
import type { Cluster as Connection } from '../../src/agents/rbd/librbd/cluster.js';
import { RbdImage } from '../../src/agents/rbd/librbd/image.js';
import type { PoolContext } from '../../src/agents/rbd/librbd/pool-context.js';
import { MoorageCallError } from '../../src/client/index.js';
import { startCluster } from '../helpers/cluster.js';
import { type Audit, auditPool, trimAtOnce } from '../helpers/pool-audit.js';
import { type System, startSystem } from '../helpers/system.js';
import { openAsAdministrator, TestNode } from '../helpers/test-node.js';
import { waitFor } from '../helpers/wait.js';

/*
 * Random steps, and beside them a model of what should be there: what each volume and snapshot holds, and what was made from
 * what. The reaper passes all the time. MOORAGE_TEST_SEED=<number> does the same steps again.
 */

const SYSTEMS = 3;
const STEPS_PER_SYSTEM = 130;
const OBJECTS = 4;
const OBJECT_BYTES = 4 * 2 ** 20;
const BLOCK_BYTES = 4096;
/** Clones deeper than this are left alone, so that the limit of generations is not met. */
const DEEPEST = 10;

interface Item {
  readonly id: string;
  /** What it was made from, if anything. */
  readonly parentId: string | undefined;
  readonly depth: number;
  /** By object: the mark that was written last; 0 for none. */
  readonly content: number[];
  deleted: boolean;
  exportId?: string;
}

/** Numbers from a seed (mulberry32), so that a run can be repeated. */
function randomFrom(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let value = Math.imul(state ^ (state >>> 15), 1 | state);
    value = (value + Math.imul(value ^ (value >>> 7), 61 | value)) ^ value;
    return Math.floor((((value ^ (value >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}

const blockOf = (mark: number): Buffer =>
  mark === 0 ? Buffer.alloc(BLOCK_BYTES) : Buffer.alloc(BLOCK_BYTES, createHash('sha256').update(`${mark}`).digest());

class Run {
  readonly volumes = new Map<string, Item>();
  readonly snapshots = new Map<string, Item>();
  readonly counts = new Map<string, number>();
  readonly #system: System;
  readonly #node: TestNode;
  readonly #pool: PoolContext;
  readonly #random: (below: number) => number;
  #marks = 0;

  constructor(system: System, node: TestNode, pool: PoolContext, seed: number) {
    this.#system = system;
    this.#node = node;
    this.#pool = pool;
    this.#random = randomFrom(seed);
  }

  /** Takes one random step. */
  async step(): Promise<void> {
    const kinds: readonly (readonly [number, string, () => Promise<boolean>])[] = [
      [10, 'create', () => this.create()],
      [14, 'write', () => this.write()],
      [12, 'snapshot', () => this.snapshot()],
      [16, 'volume from a snapshot', () => this.clone()],
      [10, 'export', () => this.export()],
      [8, 'unexport', () => this.unexport()],
      [12, 'delete volume', () => this.deleteVolume()],
      [8, 'delete snapshot', () => this.deleteSnapshot()],
      [7, 'undelete', () => this.undelete()],
      [3, 'pass of the reaper', () => this.pass()],
    ];
    let left = this.#random(kinds.reduce((sum, [weight]) => sum + weight, 0));
    for (const [weight, name, act] of kinds) {
      left -= weight;
      if (left >= 0) continue;
      const done = await act();
      const label = done ? name : `${name} (nothing to do)`;
      this.counts.set(label, (this.counts.get(label) ?? 0) + 1);
      return;
    }
  }

  #pick(items: Iterable<Item>, fits: (item: Item) => boolean): Item | undefined {
    const fitting = [...items].filter(fits);
    return fitting[this.#random(fitting.length)];
  }

  async create(): Promise<boolean> {
    const { volume } = await this.#system.client.createVolume({ poolId: 'main', sizeBytes: OBJECTS * OBJECT_BYTES });
    const id = volume?.id ?? '';
    this.volumes.set(id, { id, parentId: undefined, depth: 0, content: Array(OBJECTS).fill(0), deleted: false });
    return true;
  }

  async write(): Promise<boolean> {
    const volume = this.#pick(this.volumes.values(), (item) => !item.deleted);
    if (volume === undefined) return false;
    const object = this.#random(OBJECTS);
    this.#marks += 1;
    volume.content[object] = this.#marks;
    await this.#withImage(volume.id, {}, (image) =>
      image.write(BigInt(object * OBJECT_BYTES), blockOf(volume.content[object] ?? 0)),
    );
    return true;
  }

  async snapshot(): Promise<boolean> {
    const volume = this.#pick(this.volumes.values(), (item) => !item.deleted && item.depth < DEEPEST);
    if (volume === undefined) return false;
    const { snapshot } = await this.#system.client.createSnapshot({ volumeId: volume.id });
    expect(snapshot?.state).to.equal('SNAPSHOT_STATE_COMPLETED');
    const id = snapshot?.id ?? '';
    const content = [...volume.content];
    this.snapshots.set(id, { id, parentId: volume.id, depth: volume.depth + 1, content, deleted: false });
    return true;
  }

  async clone(): Promise<boolean> {
    const snapshot = this.#pick(this.snapshots.values(), (item) => !item.deleted);
    if (snapshot === undefined) return false;
    const { volume } = await this.#system.client.createVolume({ source: { snapshotId: snapshot.id } });
    const id = volume?.id ?? '';
    const content = [...snapshot.content];
    this.volumes.set(id, { id, parentId: snapshot.id, depth: snapshot.depth + 1, content, deleted: false });
    return true;
  }

  async export(): Promise<boolean> {
    const volume = this.#pick(this.volumes.values(), (item) => !item.deleted && item.exportId === undefined);
    if (volume === undefined) return false;
    volume.exportId = (await this.#node.export(volume.id)).exportId;
    return true;
  }

  async unexport(): Promise<boolean> {
    const volume = this.#pick(this.volumes.values(), (item) => item.exportId !== undefined);
    if (volume?.exportId === undefined) return false;
    await this.#system.client.unexport({ exportId: volume.exportId });
    delete volume.exportId;
    return true;
  }

  async deleteVolume(): Promise<boolean> {
    const volume = this.#pick(this.volumes.values(), (item) => !item.deleted);
    if (volume === undefined) return false;
    const deleting = this.#system.client.deleteVolume({ volumeId: volume.id });
    if (volume.exportId === undefined) {
      await deleting;
      volume.deleted = true;
    } else {
      const refused = await deleting.then(
        () => undefined,
        (error: unknown) => error,
      );
      expect(refused).to.be.instanceOf(MoorageCallError).and.include({ reason: 'VOLUME_IN_USE' });
    }
    return true;
  }

  async deleteSnapshot(): Promise<boolean> {
    const snapshot = this.#pick(this.snapshots.values(), (item) => !item.deleted);
    if (snapshot === undefined) return false;
    await this.#system.client.deleteSnapshot({ snapshotId: snapshot.id });
    snapshot.deleted = true;
    return true;
  }

  /** Brings something back, unless the reaper was there first. */
  async undelete(): Promise<boolean> {
    const { client } = this.#system;
    const item = this.#pick([...this.volumes.values(), ...this.snapshots.values()], ({ deleted }) => deleted);
    if (item === undefined) return false;
    try {
      if (this.volumes.has(item.id)) await client.undeleteVolume({ volumeId: item.id });
      else await client.undeleteSnapshot({ snapshotId: item.id });
      item.deleted = false;
    } catch (error) {
      if (!(error instanceof MoorageCallError) || !['GONE', 'PURGING'].includes(error.reason)) throw error;
      expect(this.isNeeded(item.id), `${item.id} was purged while something was made from it`).to.equal(false);
      this.#forget(item.id);
      this.counts.set('undelete (too late)', (this.counts.get('undelete (too late)') ?? 0) + 1);
    }
    return true;
  }

  /** Whether something that may be wanted still was made from it, at whatever remove. */
  isNeeded(id: string): boolean {
    const children = [...this.volumes.values(), ...this.snapshots.values()].filter(({ parentId }) => parentId === id);
    return children.some((child) => !child.deleted || this.isNeeded(child.id));
  }

  #forget(id: string): void {
    this.volumes.delete(id);
    this.snapshots.delete(id);
  }

  /** Waits until the reaper has purged all that can be purged, and nothing else. */
  async pass(): Promise<boolean> {
    const purgeable = [...this.volumes.values(), ...this.snapshots.values()].filter(
      ({ id, deleted }) => deleted && !this.isNeeded(id),
    );
    const wanted = [...this.volumes.keys(), ...this.snapshots.keys()].filter(
      (id) => !purgeable.some((item) => item.id === id),
    );
    const audit = await this.settled(wanted);
    expect(audit.images.size).to.equal(wanted.length);
    for (const { id } of purgeable) this.#forget(id);
    return true;
  }

  /** Waits until store and pool agree and hold exactly these. */
  settled(wanted: readonly string[]): Promise<Audit> {
    return waitFor(
      'the reaper has purged what can be purged',
      async () => {
        const audit = await auditPool(this.#system);
        const there = [...audit.inventory.volumes, ...audit.inventory.snapshots].map((item) => item.id);
        for (const id of wanted) if (!there.includes(id)) throw new Error(`${id} is gone, and should be there`);
        const over = there.filter((id) => !wanted.includes(id));
        if (over.length > 0) throw new Error(`still there: ${over.join(', ')}`);
        if (audit.problems.length > 0) throw new Error(audit.problems.join('\n'));
        return audit;
      },
      { timeoutMilliseconds: 120_000, intervalMilliseconds: 200 },
    );
  }

  /** Reads every volume and snapshot that is not deleted. */
  async verify(): Promise<void> {
    for (const item of [...this.volumes.values(), ...this.snapshots.values()]) {
      if (item.deleted) continue;
      const snapshot = this.snapshots.has(item.id) ? { snapshot: 'base' } : {};
      await this.#withImage(item.id, { readOnly: true, ...snapshot }, async (image) => {
        for (const [object, mark] of item.content.entries()) {
          const block = await image.read(BigInt(object * OBJECT_BYTES), BLOCK_BYTES);
          expect(block.equals(blockOf(mark)), `${item.id}, object ${object}`).to.equal(true);
        }
      });
    }
  }

  /** Deletes every second one at random, then all that is left. */
  async deleteAll(): Promise<void> {
    for (const volume of this.volumes.values()) {
      if (volume.exportId !== undefined) await this.#system.client.unexport({ exportId: volume.exportId });
      delete volume.exportId;
    }
    for (const share of [2, 1]) {
      for (const item of [...this.volumes.values(), ...this.snapshots.values()]) {
        if (item.deleted || this.#random(share) > 0) continue;
        if (this.volumes.has(item.id)) await this.#system.client.deleteVolume({ volumeId: item.id });
        else await this.#system.client.deleteSnapshot({ snapshotId: item.id });
        item.deleted = true;
      }
      await this.pass();
      await this.verify();
    }
    expect(this.volumes.size + this.snapshots.size).to.equal(0);
  }

  async #withImage<Result>(
    id: string,
    how: { readonly readOnly?: boolean; readonly snapshot?: string },
    use: (image: RbdImage) => Promise<Result>,
  ): Promise<Result> {
    // An image that was brought back has another name each time.
    for (let number = 1; ; number += 1) {
      const name = number === 1 ? id : `${id}.${number}`;
      try {
        return await RbdImage.with(this.#pool, { name }, how, use);
      } catch (error) {
        if (number > 50 || !(error instanceof Error && 'errnoName' in error && error.errnoName === 'ENOENT'))
          throw error;
      }
    }
  }
}

describe('the reaper beside random steps', function () {
  this.timeout(600_000);
  const systems: System[] = [];
  const connections: Connection[] = [];
  const seed = Number(process.env.MOORAGE_TEST_SEED ?? randomInt(2 ** 31));

  before(async () => trimAtOnce(await startCluster()));
  after(async () => {
    for (const connection of connections) await connection.close();
    await Promise.all(systems.map((system) => system.remove()));
  });

  const runOne = async (index: number): Promise<void> => {
    const system = await startSystem({
      name: `reaper-${index}`,
      undeleteWindowSeconds: 1,
      settings: { reaper: { interval: '100ms' } },
    });
    systems.push(system);
    const node = await TestNode.register(system, 'nc-a');
    const { cluster, pool } = await openAsAdministrator(system);
    connections.push(cluster);
    const run = new Run(system, node, pool, seed + index);
    try {
      for (let step = 0; step < STEPS_PER_SYSTEM; step += 1) await run.step();
      await run.verify();
      await run.pass();
      await run.deleteAll();
    } finally {
      pool.close();
      const counts = [...run.counts].sort().map(([name, count]) => `${name} ${count}`);
      process.stdout.write(`      seed ${seed + index}: ${counts.join(', ')}\n`);
    }
  };

  it('purges what can be purged, and nothing that is wanted', async () => {
    const outcomes = await Promise.allSettled(Array.from({ length: SYSTEMS }, (_, index) => runOne(index)));
    const failures = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason as unknown] : []));
    if (failures.length > 0) throw failures[0];
  });
});
