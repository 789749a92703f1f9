import { expect } from 'chai';
import { RbdImage } from '../../src/agents/rbd/librbd/image.js';
import { type Operation, type Snapshot, waitForOperation } from '../../src/client/index.js';
import { AgentTraps } from '../helpers/agent-traps.js';
import { cleanUp } from '../helpers/clean-up.js';
import { type Audit, auditPool, trimAtOnce } from '../helpers/pool-audit.js';
import { endAtFirstFailure } from '../helpers/steps.js';
import type { System } from '../helpers/system.js';
import { openAsAdministrator } from '../helpers/test-node.js';
import { waitFor } from '../helpers/wait.js';

/*
 * Every snapshot is flattened here, and the volume has so many objects that this takes seconds: enough to look at it, to
 * cancel it, and to kill the agent that does it.
 */

const GIBIBYTE = 2 ** 30;
const SIZE_BYTES = 96 * GIBIBYTE;
const BLOCK = 4096;
/** Blocks that are written, far apart. */
const BLOCKS = Array.from({ length: 48 }, (_, index) => index);
const KILLS = process.env.MOORAGE_TEST_FULL ? 20 : 2;
const PATIENCE = { deadlineMilliseconds: 240_000 };
/** For a call that is to answer with what it has begun. */
const IMPATIENCE = { deadlineMilliseconds: 1_500 };

const placeOf = (block: number): bigint => BigInt(block) * BigInt(SIZE_BYTES / BLOCKS.length) + BigInt(3 * BLOCK);
const pattern = (block: number, round: number): Buffer => Buffer.alloc(BLOCK, `block ${block} of round ${round};`);

describe('snapshots that are flattened, on a real Ceph', function () {
  this.timeout(600_000);
  endAtFirstFailure();
  const traps = new AgentTraps();
  let system: System;
  let volumeId = '';
  let round = 0;
  /** What each snapshot is to hold: the round that was written before it. */
  const rounds = new Map<string, number>();

  before(async () => {
    system = await traps.start('flatten', { limits: { flatten_depth: 1 }, shutdown: { drain: '500ms' } });
    await trimAtOnce(system.cluster);
    const { volume } = await system.client.createVolume({ poolId: system.poolId, sizeBytes: SIZE_BYTES });
    volumeId = volume?.id ?? '';
  });
  after(() => cleanUp(() => system?.remove()));

  const asAdministrator = async (
    which: { readonly name: string } | { readonly id: string },
    how: { readonly readOnly?: boolean; readonly snapshot?: string },
    use: (image: RbdImage) => Promise<void>,
  ): Promise<void> => {
    const { cluster, pool } = await openAsAdministrator(system);
    try {
      await RbdImage.with(pool, which, how, use);
    } finally {
      pool.close();
      await cluster.close();
    }
  };

  const writeRound = async (): Promise<void> => {
    round += 1;
    await asAdministrator({ name: volumeId }, {}, async (image) => {
      for (const block of BLOCKS) await image.write(placeOf(block), pattern(block, round));
    });
  };

  const whole = (): Promise<Audit> =>
    waitFor('store and pool agree', async () => {
      const audit = await auditPool(system);
      if (audit.problems.length > 0) throw new Error(audit.problems.join('\n'));
      return audit;
    });

  /** Checks every snapshot that is there, and answers with what is. */
  const expectRight = async (): Promise<Audit> => {
    const audit = await whole();
    for (const { id } of audit.inventory.snapshots) {
      await asAdministrator(
        { id: audit.images.get(id)?.id ?? '' },
        { readOnly: true, snapshot: 'base' },
        async (image) => {
          for (const block of BLOCKS) {
            const found = await image.read(placeOf(block), BLOCK);
            expect(found.equals(pattern(block, rounds.get(id) ?? -1)), `block ${block} of ${id}`).to.equal(true);
          }
        },
      );
    }
    return audit;
  };

  /** Begins a snapshot; answers once it is being flattened. */
  const begin = async (): Promise<Snapshot> => {
    const { snapshot } = await system.client.createSnapshot({ volumeId }, IMPATIENCE);
    if (snapshot === null) throw new Error('no snapshot');
    rounds.set(snapshot.id, round);
    await waitFor('it is flattened', async () => {
      const { operation } = await system.client.getOperation({ operationId: snapshot.operationId });
      if (operation?.state !== 'OPERATION_STATE_RUNNING') throw new Error('it has ended already');
      return operation.phase === 'flatten' && operation.progressPercent > 0;
    });
    return snapshot;
  };

  const ended = async (snapshotId: string): Promise<Snapshot> => {
    const { snapshot } = await system.client.getSnapshot({ snapshotId });
    if (snapshot === null) throw new Error('no snapshot');
    const { operationId } = snapshot;
    if (operationId === '') return snapshot;
    await waitForOperation(system.client, operationId, { timeoutMilliseconds: 120_000 });
    return ended(snapshotId);
  };

  it('says how far it is, lists it, and completes the snapshot when it is done', async () => {
    await writeRound();
    const { id, operationId } = await begin();
    await writeRound();
    const seen: Operation[] = [];
    const { operations } = await system.client.listOperations({});
    expect(operations.map((each) => each.id)).to.include(operationId);
    await waitForOperation(system.client, operationId, {
      timeoutMilliseconds: 120_000,
      onProgress: (operation) => seen.push(operation),
    });
    const percents = seen.filter(({ phase }) => phase === 'flatten').map((each) => each.progressPercent);
    process.stdout.write(`      seen: ${percents.join(', ')} %\n`);
    expect(percents).to.deep.equal([...percents].sort((a, b) => a - b));
    expect(await ended(id)).to.include({ state: 'SNAPSHOT_STATE_COMPLETED', cloneDepth: 0, statusMessage: '' });
    await expectRight();
  });

  it('cancelled: the snapshot is completed as the clone that it is', async () => {
    const { id, operationId } = await begin();
    const { operation } = await system.client.cancelOperation({ operationId }, PATIENCE);
    expect(operation).to.include({ state: 'OPERATION_STATE_SUCCEEDED', cancelRequested: true });
    const snapshot = await ended(id);
    expect(snapshot).to.include({ state: 'SNAPSHOT_STATE_COMPLETED', cloneDepth: 1 });
    expect(snapshot.statusMessage).to.contain('cancelled');
    await expectRight();
  });

  it('deleted meanwhile: its flattening ends, and it is purged', async () => {
    const { id } = await begin();
    await system.client.deleteSnapshot({ snapshotId: id }, PATIENCE);
    await waitFor('it is purged', async () => !(await whole()).images.has(id));
  });

  it('the controller stops in the middle, in good order, and goes on when it starts again', async () => {
    const { id } = await begin();
    await system.stop();
    await system.start();
    expect(await ended(id)).to.include({ state: 'SNAPSHOT_STATE_COMPLETED', cloneDepth: 0 });
    await expectRight();
  });

  it('several at once: they share their points in time, others are served, one is cancelled, all are right', async () => {
    const { client } = system;
    await writeRound();
    const made = Array.from({ length: 3 }, () => client.createSnapshot({ volumeId }, IMPATIENCE));
    const snapshots = (await Promise.all(made)).flatMap(({ snapshot }) => snapshot ?? []);
    for (const { id } of snapshots) rounds.set(id, round);
    const second = snapshots[1]?.operationId ?? '';
    await waitFor(
      'the flattening',
      async () => (await client.getOperation({ operationId: second })).operation?.phase === 'flatten',
    );
    await client.cancelOperation({ operationId: second }, PATIENCE);
    for (let count = 0; count < 5; count += 1) {
      const { volume } = await client.createVolume({ poolId: system.poolId, sizeBytes: 2 ** 20 }, PATIENCE);
      await client.deleteVolume({ volumeId: volume?.id ?? '' }, PATIENCE);
    }
    const { operations } = await client.listOperations({});
    expect(
      operations.filter(({ phase }) => phase === 'flatten'),
      'still being flattened',
    ).to.not.deep.equal([]);
    const depths = await Promise.all(snapshots.map(async ({ id }) => (await ended(id)).cloneDepth));
    expect(depths).to.deep.equal([0, 1, 0]);
    await expectRight();
  });

  it(`the agent is killed inside, ${KILLS} times: the next one finishes it, and everything is right`, async () => {
    for (let tries = 0; (await traps.count('flatten')).kills < KILLS; tries += 1) {
      if (tries > 3 * KILLS) throw new Error('the traps close too late');
      await traps.set(system, ['flatten']);
      const { snapshot } = await system.client.createSnapshot({ volumeId }, PATIENCE);
      rounds.set(snapshot?.id ?? '', round);
      expect(snapshot).to.include({ state: 'SNAPSHOT_STATE_COMPLETED', cloneDepth: 0 });
    }
    const { kills, missed } = await traps.count('flatten');
    process.stdout.write(`      ${kills} kills, ${missed} too late\n`);
    await expectRight();
  });

  it('the volume is deleted and purged once no clone of it is left; the flattened ones stay', async () => {
    const { client } = system;
    const { snapshots } = (await whole()).inventory;
    const clones = snapshots.filter((snapshot) => snapshot.cloneDepth > 0);
    expect(clones).to.have.length(2);
    await client.deleteVolume({ volumeId }, PATIENCE);
    for (const { id } of clones) await client.deleteSnapshot({ snapshotId: id }, PATIENCE);
    await waitFor('it is purged', async () => !(await whole()).images.has(volumeId));
    expect((await expectRight()).inventory.snapshots).to.have.length(snapshots.length - clones.length);
  });
});
