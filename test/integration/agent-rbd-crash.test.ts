import { expect } from 'chai';
import type { Cluster as Connection } from '../../src/agents/rbd/librbd/cluster.js';
import { readHeader, readSnapshot } from '../../src/agents/rbd/librbd/header.js';
import type { CreateImageResponse__Output } from '../../src/generated/moorage/backend/v1/CreateImageResponse.js';
import type { Image__Output } from '../../src/generated/moorage/backend/v1/Image.js';
import { cleanUp } from '../helpers/clean-up.js';
import { type Cluster, startCluster } from '../helpers/cluster.js';
import { waitFor } from '../helpers/wait.js';
import { connectAdmin, objectsWith, parentOf, TestAgent, uniqueName } from './agent-rbd-harness.js';

const SIZE = 16 * 1024 * 1024;
const KILLS = 12;

describe('RBD agent that is killed inside a call', function () {
  this.timeout(600_000);
  let cluster: Cluster;
  let admin: Connection;
  let survivor: TestAgent;
  let base: Image__Output;

  before(async () => {
    cluster = await startCluster();
    admin = await connectAdmin(cluster);
    survivor = await new TestAgent(cluster).ready();
    base = await survivor.create(uniqueName('snap'), SIZE, { pointName: 'base' });
  });

  after(async () => {
    await cleanUp(
      () => survivor?.purge(base),
      () => survivor?.kill(),
      () => admin?.close(),
    );
  });

  /** Kills an agent at a moment inside a call, asks another for the same step, and says what came of it. */
  const killInside = async (name: string, more: object, milliseconds: number): Promise<CreateImageResponse__Output> => {
    const victim = await new TestAgent(cluster).ready();
    await victim.createOutcome(uniqueName('warm'), SIZE).then((made) => made.image && victim.purge(made.image));
    const call = victim.createOutcome(name, SIZE, more).catch(() => undefined);
    await new Promise((resolve) => setTimeout(resolve, milliseconds));
    const addresses = victim.hello?.addresses ?? [];
    await victim.kill();
    await call;
    // As the role fence does before a successor takes a step: the dead one's watches go.
    for (const address of addresses) {
      await cluster.ceph('osd', 'blocklist', 'add', address, '3600');
    }
    return survivor.createOutcome(name, SIZE, more);
  };

  for (const kind of ['create', 'clone'] as const) {
    it(`leaves an image that is whole, or that is said to be unusable and purges without a trace (${kind})`, async () => {
      const more = kind === 'clone' ? { parent: parentOf(base) } : {};
      const count = { adopted: 0, unusable: 0 };
      for (let kill = 0; kill < KILLS; kill += 1) {
        const name = uniqueName(kind);
        const outcome = await killInside(name, more, 1 + (kill * (kind === 'clone' ? 30 : 15)) / KILLS);
        const image = (outcome.image ?? outcome.unusable?.image) as Image__Output;
        if (outcome.image) {
          count.adopted += 1;
          await admin.withPool('moorage', async (pool) => {
            const header = await readHeader(pool, image.backendId);
            expect(header?.sizeBytes).to.equal(BigInt(SIZE));
            expect(header?.parent?.imageId).to.equal(kind === 'clone' ? base.backendId : undefined);
            if (kind === 'create') return;
            const point = await readSnapshot(pool, base.backendId, BigInt(base.points[0]?.backendId ?? 0));
            expect(point?.children.map((child) => child.imageId)).to.include(image.backendId);
          });
        } else {
          count.unusable += 1;
          expect(outcome.unusable?.reason).to.be.a('string').with.length.greaterThan(5);
          // The name is never used again; the next try takes another.
          const again = await survivor.create(`${name}.2`, SIZE, more);
          await survivor.purge(again);
        }
        await survivor.purge(image);
        await waitFor(`no object of ${name} is left`, async () => {
          const texts = image.backendId === '' ? [name] : [name, `.${image.backendId}`];
          return (await objectsWith(admin, 'moorage', ...texts)).length === 0;
        });
      }
      process.stdout.write(`      ${KILLS} kills inside ${kind}: ${count.adopted} whole, ${count.unusable} unusable\n`);
      const header = await admin.withPool('moorage', (pool) => readHeader(pool, base.backendId));
      expect(header?.hasChildren).to.equal(false);
    });
  }

  it('says what is half made, without opening it', async () => {
    const whole = await survivor.create(uniqueName('vol'), SIZE, { parent: parentOf(base) });
    // As kills in the middle of a clone leave it.
    await admin.withPool('moorage', (pool) => pool.omapRemove(`rbd_header.${whole.backendId}`, ['parent']));
    const orphan = await survivor.createOutcome(whole.name, SIZE, { parent: parentOf(base) });
    expect(orphan.unusable?.reason).to.equal('it has no parent');
    expect(orphan.unusable?.image?.backendId).to.equal(whole.backendId);
    await survivor.purge(whole);

    const headless = await survivor.create(uniqueName('vol'), SIZE);
    await admin.withPool('moorage', (pool) => pool.remove(`rbd_header.${headless.backendId}`));
    const outcome = await survivor.createOutcome(headless.name, SIZE);
    expect(outcome.unusable?.reason).to.equal('it has no header');
    await survivor.purge(headless);

    const named = await survivor.create(uniqueName('vol'), SIZE);
    const other = `${named.backendId}0`;
    await admin.withPool('moorage', (pool) =>
      pool.omapSet('rbd_trash', [{ key: `id_${other}`, value: Buffer.alloc(1) }]),
    );
    const conflict = await survivor.createOutcome(named.name, SIZE);
    expect(conflict.unusable?.reason).to.include(other);
    await admin.withPool('moorage', (pool) => pool.omapRemove('rbd_trash', [`id_${other}`]));
    await survivor.purge(named);
  });
});
