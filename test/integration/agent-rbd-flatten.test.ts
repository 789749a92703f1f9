import { expect } from 'chai';
import type { Cluster as Connection } from '../../src/agents/rbd/librbd/cluster.js';
import { readHeader, readSnapshot } from '../../src/agents/rbd/librbd/header.js';
import { RbdImage } from '../../src/agents/rbd/librbd/image.js';
import type { Image__Output } from '../../src/generated/moorage/backend/v1/Image.js';
import type { Point__Output } from '../../src/generated/moorage/backend/v1/Point.js';
import { type Cluster, startCluster } from '../helpers/cluster.js';
import { connectAdmin, failure, parentOf, TestAgent, uniqueName } from './agent-rbd-harness.js';

const MEBIBYTE = 2 ** 20;
const OBJECT_BYTES = 4 * MEBIBYTE;
/** Objects with data lie apart: most of the image is holes, which a flattening looks at all the same. */
const OBJECTS = 1500;
const SIZE = OBJECTS * OBJECT_BYTES;
const WRITTEN = Array.from({ length: 60 }, (_, index) => index * 25);
const BLOCK = 4096;

interface Progress {
  readonly flattened: boolean;
  readonly progressPercent: number;
}

/** A source with a point, and a clone of it with the point "base". */
interface Pair {
  readonly source: Image__Output;
  readonly point: Point__Output;
  readonly clone: Image__Output;
}

describe('RBD agent: flattening', function () {
  this.timeout(600_000);
  let cluster: Cluster;
  let admin: Connection;
  let agent: TestAgent;
  const pairs: Pair[] = [];

  before(async () => {
    cluster = await startCluster();
    admin = await connectAdmin(cluster);
    agent = await new TestAgent(cluster).ready();
  });

  after(async () => {
    for (const { source, point, clone } of pairs) {
      await agent.purge(clone, { ...source, points: [point] });
    }
    await agent.kill();
    await admin.close();
  });

  const block = (index: number, round: number): Buffer => Buffer.alloc(BLOCK, `${index}/${round};`);

  const make = async (): Promise<Pair> => {
    const source = await agent.create(uniqueName('vol'), SIZE);
    await write(source, 1);
    const pointName = uniqueName('pt');
    const { point } = await agent.withConnection((connectionId) =>
      agent.step<{ point: Point__Output }>('TakePoint', { connectionId, image: source, pointName }),
    );
    await write(source, 2);
    const clone = await agent.create(uniqueName('snap'), SIZE, { parent: parentOf(source, point), pointName: 'base' });
    pairs.push({ source, point, clone });
    return { source, point, clone };
  };

  const write = (image: Image__Output, round: number): Promise<void> =>
    admin.withPool('moorage', (pool) =>
      RbdImage.with(pool, { id: image.backendId }, {}, async (open) => {
        await Promise.all(
          WRITTEN.map((index) => open.write(BigInt(index * OBJECT_BYTES + 3 * BLOCK), block(index, round))),
        );
      }),
    );

  /** The image, and its point "base", have what the source had at the point, and nothing else. */
  const expectContent = (image: Image__Output): Promise<void> =>
    admin.withPool('moorage', async (pool) => {
      for (const how of [{ readOnly: true }, { readOnly: true, snapshot: 'base' }]) {
        await RbdImage.with(pool, { id: image.backendId }, how, async (open) => {
          for (const index of WRITTEN) {
            const at = BigInt(index * OBJECT_BYTES);
            const area = await open.read(at, 6 * BLOCK);
            expect(area.subarray(3 * BLOCK, 4 * BLOCK).equals(block(index, 1)), `object ${index}`).to.equal(true);
            area.fill(0, 3 * BLOCK, 4 * BLOCK);
            expect(area.equals(Buffer.alloc(6 * BLOCK)), `around the block of object ${index}`).to.equal(true);
          }
        });
      }
    });

  const links = ({ source, point, clone }: Pair): Promise<{ parent: boolean; listed: boolean }> =>
    admin.withPool('moorage', async (pool) => {
      const header = await readHeader(pool, clone.backendId);
      const children = (await readSnapshot(pool, source.backendId, BigInt(point.backendId)))?.children ?? [];
      return {
        parent: header?.parent !== undefined,
        listed: children.some((child) => child.imageId === clone.backendId),
      };
    });

  const flatten = async (by: TestAgent, image: Image__Output): Promise<readonly Progress[]> => {
    const heard: Progress[] = [];
    for (;;) {
      const progress = await by.step<Progress>('FlattenImage', { image });
      heard.push(progress);
      if (progress.flattened) return heard;
    }
  };

  it('makes a clone and its point independent: the source and its point can go', async () => {
    const pair = await make();
    const began = performance.now();
    const heard = await flatten(agent, pair.clone);
    process.stdout.write(
      `      ${OBJECTS} objects in ${Math.round(performance.now() - began)} ms, ${heard.length} calls: ${heard.map((each) => each.progressPercent).join(', ')}\n`,
    );
    expect(heard.at(-1)).to.include({ flattened: true, progressPercent: 100 });
    expect(await links(pair)).to.deep.equal({ parent: false, listed: false });
    await expectContent(pair.clone);
    expect(await flatten(agent, pair.clone), 'again').to.deep.equal([{ flattened: true, progressPercent: 100 }]);
    expect(await agent.step('StopFlatten', { image: pair.clone })).to.deep.equal({ flattened: true });
    await agent.purge({ ...pair.source, points: [pair.point] });
    await expectContent(pair.clone);
  });

  it('that is stopped leaves a whole clone, which can be flattened later', async () => {
    const pair = await make();
    let stopped = false;
    for (let tries = 0; !stopped && tries < 20; tries += 1) {
      // Whoever waits hears that nothing came of it, or that it was done.
      const begun = agent.step<Progress>('FlattenImage', { image: pair.clone }).catch((error: unknown) => error);
      await new Promise((resolve) => setTimeout(resolve, 20 + 10 * tries));
      const { flattened } = await agent.step<{ flattened: boolean }>('StopFlatten', { image: pair.clone });
      const outcome = await begun;
      stopped = !flattened;
      if (stopped) {
        expect(outcome, JSON.stringify(outcome)).to.have.property('code');
        expect(await links(pair)).to.deep.equal({ parent: true, listed: true });
        await expectContent(pair.clone);
      }
    }
    expect(stopped, 'it was stopped before its end').to.equal(true);
    await flatten(agent, pair.clone);
    expect(await links(pair)).to.deep.equal({ parent: false, listed: false });
    await expectContent(pair.clone);
  });

  it('refuses an image whose parent is not the recorded one', async () => {
    const pair = await make();
    const other = await agent.create(uniqueName('vol'), OBJECT_BYTES, { pointName: 'base' });
    for (const parent of [null, parentOf(other)]) {
      const image = { ...pair.clone, parent };
      expect(await failure(agent.step('FlattenImage', { image }))).to.include({ reason: 'OTHER_PARENT' });
      expect(await failure(agent.step('StopFlatten', { image }))).to.include({ reason: 'OTHER_PARENT' });
    }
    expect(await links(pair)).to.deep.equal({ parent: true, listed: true });
    await agent.purge(other);
  });
});
