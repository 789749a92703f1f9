import { expect } from 'chai';
import { Cluster, timeoutOverrides } from '../../src/agents/rbd/librbd/cluster.js';
import { RbdImage } from '../../src/agents/rbd/librbd/image.js';
import type { PoolContext } from '../../src/agents/rbd/librbd/pool-context.js';
import type { Snapshot, Volume } from '../../src/client/index.js';
import { cleanUp } from '../helpers/clean-up.js';
import { auditPool, trimAtOnce } from '../helpers/pool-audit.js';
import { endAtFirstFailure } from '../helpers/steps.js';
import { type System, startSystem } from '../helpers/system.js';
import { type Exported, openAsAdministrator, TestNode } from '../helpers/test-node.js';
import { waitFor } from '../helpers/wait.js';

/*
 * A volume, a snapshot of it, a volume from that, and so on, every volume exported and open with the key of its export all
 * the time. Each generation writes a block of its own, writes over one of its parent's, and over one that all have.
 */

const GENERATIONS = process.env.MOORAGE_TEST_FULL ? 40 : 14;
/** What applies unless set; the deepest volume lies on one of this depth. */
const SOFT_DEPTH = 8;
const MEBIBYTE = 2 ** 20;
const SIZE_BYTES = 16 * MEBIBYTE;
const BLOCK = 4096;
const PATIENCE = { deadlineMilliseconds: 120_000 };

/** A volume that is open as a node has it. */
class OpenVolume {
  readonly volume: Volume;
  readonly exported: Exported;
  /** From the call to the open image, the connection to Ceph made before, in milliseconds. */
  readonly milliseconds: number;
  readonly image: RbdImage;
  readonly #cluster: Cluster;
  readonly #pool: PoolContext;

  private constructor(
    volume: Volume,
    exported: Exported,
    milliseconds: number,
    opened: { image: RbdImage; cluster: Cluster; pool: PoolContext },
  ) {
    this.volume = volume;
    this.exported = exported;
    this.milliseconds = milliseconds;
    this.image = opened.image;
    this.#cluster = opened.cluster;
    this.#pool = opened.pool;
  }

  static async open(system: System, node: TestNode, volume: Volume): Promise<OpenVolume> {
    const exported = await node.export(volume.id);
    const { access } = exported;
    if (access.mode !== 'managed') throw new Error('the export brings no key');
    const cluster = await Cluster.connect({
      configurationFile: system.cluster.configurationFile,
      user: access.user,
      key: access.key,
      overrides: { ...timeoutOverrides(60), rbd_cache: 'false' },
    });
    const pool = await cluster.openPool(system.cephPool);
    const began = performance.now();
    const image = await RbdImage.open(pool, { name: exported.image });
    return new OpenVolume(volume, exported, performance.now() - began, { image, cluster, pool });
  }

  async close(): Promise<void> {
    await this.image.close();
    this.#pool.close();
    await this.#cluster.close();
  }
}

const pattern = (generation: number): Buffer => Buffer.alloc(BLOCK, `generation ${generation};`);
/** Blocks lie in four objects, so that generations share them. */
const placeOf = (block: number): bigint => BigInt((block % 4) * 4 * MEBIBYTE + block * BLOCK);
/** Block 0 is written by all; of each pair the second generation writes over the first one's. */
const SHARED_BLOCK = 0;
const ownBlock = (generation: number): number => generation + 1;

async function writeGeneration(image: RbdImage, generation: number): Promise<void> {
  await image.write(placeOf(SHARED_BLOCK), pattern(generation));
  await image.write(placeOf(ownBlock(generation)), pattern(generation));
  if (generation % 2 === 1) await image.write(placeOf(ownBlock(generation - 1)), pattern(generation));
}

/** Checks that an image holds what was there after a generation had written. */
async function expectGeneration(image: RbdImage, generation: number, what: string): Promise<void> {
  const wrong: string[] = [];
  for (let block = 0; block <= GENERATIONS + 1; block += 1) {
    const writer = block === SHARED_BLOCK ? generation : block - 1;
    const overwritten = writer % 2 === 0 && writer < generation && block !== SHARED_BLOCK;
    const wanted = writer > generation ? Buffer.alloc(BLOCK) : pattern(overwritten ? writer + 1 : writer);
    const found = await image.read(placeOf(block), BLOCK);
    if (!found.equals(wanted)) wrong.push(`block ${block} has ${JSON.stringify(found.toString('latin1', 0, 16))}`);
  }
  expect(wrong, what).to.deep.equal([]);
}

describe(`${GENERATIONS} generations of volumes, all exported and open`, function () {
  this.timeout(600_000);
  endAtFirstFailure();
  let system: System;
  let node: TestNode;
  const volumes: OpenVolume[] = [];
  const snapshots: Snapshot[] = [];

  before(async () => {
    system = await startSystem({ name: 'generations' });
    node = await TestNode.register(system, 'node-generations');
    await trimAtOnce(system.cluster);
  });

  after(async () => {
    await cleanUp(...volumes.map((open) => () => open.close()), () => system?.remove());
  });

  it('nothing fails, and the chain stays short', async () => {
    const { client } = system;
    const waits: number[] = [];
    for (let generation = 0; generation < GENERATIONS; generation += 1) {
      const source = snapshots.at(-1);
      const { volume } = await client.createVolume(
        source === undefined
          ? { poolId: system.poolId, sizeBytes: SIZE_BYTES }
          : { source: { source: 'snapshotId', snapshotId: source.id } },
        PATIENCE,
      );
      if (volume === null) throw new Error('no volume');
      const open = await OpenVolume.open(system, node, volume);
      volumes.push(open);
      await writeGeneration(open.image, generation);
      const began = performance.now();
      const { snapshot } = await client.createSnapshot({ volumeId: volume.id }, PATIENCE);
      waits.push(performance.now() - began);
      if (snapshot === null) throw new Error('no snapshot');
      expect(snapshot.state).to.equal('SNAPSHOT_STATE_COMPLETED');
      expect(snapshot.cloneDepth).to.be.below(SOFT_DEPTH);
      expect(volume.cloneDepth).to.be.at.most(SOFT_DEPTH);
      snapshots.push(snapshot);
    }
    const flattened = snapshots.filter((snapshot) => snapshot.cloneDepth === 0).length;
    expect(flattened).to.be.within(Math.floor(GENERATIONS / SOFT_DEPTH), Math.ceil((2 * GENERATIONS) / SOFT_DEPTH));
    const opened = volumes.map((open) => open.milliseconds);
    const deepest = volumes.filter((open) => open.volume.cloneDepth >= SOFT_DEPTH - 1).map((open) => open.milliseconds);
    process.stdout.write(
      `      ${flattened} flattened; opening ${summary(opened)}, at the greatest depth ${summary(deepest)}, the last one ` +
        `${opened.at(-1)?.toFixed(1)} ms; a snapshot ${summary(waits)}\n`,
    );
  });

  it('every open volume and every snapshot reads right', async () => {
    for (const [generation, { image, volume }] of volumes.entries())
      await expectGeneration(image, generation, volume.id);
    const { cluster, pool } = await openAsAdministrator(system);
    try {
      const { images, problems } = await auditPool(system);
      expect(problems).to.deep.equal([]);
      for (const [generation, { id }] of snapshots.entries()) {
        const which = { id: images.get(id)?.id ?? '' };
        await RbdImage.with(pool, which, { readOnly: true, snapshot: 'base' }, (image) =>
          expectGeneration(image, generation, id),
        );
      }
    } finally {
      pool.close();
      await cluster.close();
    }
  });

  it('what lies below a flattened snapshot can be deleted and is purged, open clones or not; the rest reads right', async () => {
    const { client } = system;
    const last = snapshots.findLastIndex((snapshot) => snapshot.cloneDepth === 0);
    const older = volumes.splice(0, last + 1);
    for (const open of older) {
      await open.close();
      await client.unexport({ exportId: open.exported.exportId }, PATIENCE);
    }
    const gone = [...older.map((open) => open.volume.id), ...snapshots.slice(0, last).map((snapshot) => snapshot.id)];
    for (const id of gone) {
      if (id.startsWith('vol-')) await client.deleteVolume({ volumeId: id }, PATIENCE);
      else await client.deleteSnapshot({ snapshotId: id }, PATIENCE);
    }
    await waitFor('all of it is purged', async () => {
      const { images, problems } = await auditPool(system);
      if (problems.length > 0) throw new Error(problems.join('\n'));
      return gone.every((id) => !images.has(id));
    });
    for (const [index, { image, volume }] of volumes.entries()) {
      await expectGeneration(image, last + 1 + index, volume.id);
    }
    const { volume } = await client.createVolume(
      { source: { source: 'snapshotId', snapshotId: snapshots[last]?.id ?? '' } },
      PATIENCE,
    );
    if (volume === null) throw new Error('no volume');
    const copy = await OpenVolume.open(system, node, volume);
    await expectGeneration(copy.image, last, volume.id);
    await copy.close();
  });
});

function summary(milliseconds: readonly number[]): string {
  const sorted = [...milliseconds].sort((a, b) => a - b);
  return `p50 ${sorted[Math.floor(sorted.length / 2)]?.toFixed(1)} ms, at most ${sorted.at(-1)?.toFixed(1)} ms`;
}
