import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'chai';
import type { MoorageCallError } from '../../src/client/index.js';
import { brief, briefOutcomes, checkAll, repairAll } from '../helpers/admin.js';
import { auditPool, takeInventory } from '../helpers/pool-audit.js';
import { type System, startSystem } from '../helpers/system.js';
import { TestNode } from '../helpers/test-node.js';
import { waitFor } from '../helpers/wait.js';

const SIZE = 4 * 2 ** 20;

describe('AdminService.BackupStore, and a store that was restored', function () {
  this.timeout(300_000);
  let system: System;
  let nodeA: TestNode;
  let nodeB: TestNode;

  before(async () => {
    system = await startSystem({ name: 'admin-backup', undeleteWindowSeconds: 3600 });
    nodeA = await TestNode.register(system, 'n-a');
    nodeB = await TestNode.register(system, 'n-b');
  });
  after(() => system?.remove());

  const volume = async (): Promise<string> => {
    const answer = await system.client.createVolume({ poolId: 'main', sizeBytes: SIZE });
    return answer.volume?.id ?? '';
  };
  const exportsOf = async (id: string): Promise<string[]> =>
    (await system.client.getVolume({ volumeId: id })).volume?.exportIds ?? [];

  it('copies the store while it is written to, readable for nobody else', async () => {
    let ended = false;
    let made = 0;
    const load = async (): Promise<void> => {
      while (!ended) {
        await volume();
        made += 1;
      }
    };
    const work = load();
    await waitFor('it is written to', () => made > 2);
    const { path, sizeBytes } = await system.client.backupStore({});
    ended = true;
    await work;
    const directory = join(system.directory, 'backup');
    expect(path.startsWith(directory)).to.equal(true);
    expect(await readdir(directory), 'one file, whole, without a log').to.have.lengthOf(1);
    const { mode, size } = await stat(path);
    expect(mode & 0o777).to.equal(0o600);
    expect(size).to.equal(Number(sizeBytes));
    expect((await stat(directory)).mode & 0o777).to.equal(0o700);
  });

  it('says of an old copy what differs, holds all changes, and takes in what was made since', async () => {
    const { client } = system;
    const [moved, ended, deleted, undeleted, grown, purged] = [
      await volume(),
      await volume(),
      await volume(),
      await volume(),
      await volume(),
      await volume(),
    ];
    const first = await nodeA.export(moved);
    const second = await nodeA.export(ended);
    await client.deleteVolume({ volumeId: undeleted });
    await client.deleteVolume({ volumeId: purged });
    const { path } = await client.backupStore({});

    // What happens after the copy.
    await client.unexport({ exportId: first.exportId });
    const third = await nodeB.export(moved);
    await client.unexport({ exportId: second.exportId });
    await client.deleteVolume({ volumeId: deleted });
    await client.undeleteVolume({ volumeId: undeleted });
    await client.expandVolume({ volumeId: grown, sizeBytes: 2 * SIZE });
    await client.updateVolume({
      volumeId: grown,
      displayName: 'later',
      tags: { a: 'b' },
      updateMask: { paths: ['display_name', 'tags'] },
    });
    const late = await volume();
    const lateSnapshot = (await client.createSnapshot({ volumeId: late })).snapshot?.id ?? '';
    const clone = (await client.createVolume({ source: { snapshotId: lateSnapshot } })).volume?.id ?? '';
    const fourth = await nodeA.export(clone);
    const before = await takeInventory(system);
    await system.restore(path);

    const refused = await client.export({ volumeId: moved, authority: 'direct', direct: { nodeId: 'n-a' } }).then(
      () => undefined,
      (error: unknown) => error as MoorageCallError,
    );
    expect(refused?.reason, 'it would let a second node at the volume').to.equal('STORE_RESTORED');
    await client.createVolume({ poolId: 'main', sizeBytes: SIZE }).then(
      () => expect.fail('a volume was made'),
      (error: MoorageCallError) => expect(error.reason).to.equal('STORE_RESTORED'),
    );
    const expected = [
      `export-ended ${first.exportId}`,
      `export-not-in-store ${third.exportId}`,
      `export-ended ${second.exportId}`,
      `image-trashed ${deleted}`,
      `entry-differs ${undeleted}`,
      `entry-differs ${grown}`,
      `not-in-store ${late}`,
      `not-in-store ${lateSnapshot}`,
      `not-in-store ${clone}`,
      `export-not-in-store ${fourth.exportId}`,
    ].sort();
    expect(brief(await checkAll(system))).to.deep.equal(expected);
    const partial = await repairAll(system, { resourceIds: [late] });
    expect(partial.stillHeld, 'only a repair of everything lets changes through').to.equal(true);
    const { repaired, stillHeld } = await repairAll(system);
    expect(briefOutcomes(repaired).filter((each) => each !== `mended point-unknown ${late}`)).to.deep.equal(
      expected
        .filter((each) => each !== `not-in-store ${late}`)
        .map((each) => `${each.startsWith('image-trashed') ? 'left' : 'mended'} ${each}`)
        .sort(),
    );
    expect(stillHeld).to.equal(false);
    // Deleting it again finds it done.
    await client.deleteVolume({ volumeId: deleted });
    expect(brief(await checkAll(system))).to.deep.equal([]);

    const after = await takeInventory(system);
    const essence = ({ volumes, snapshots, exports }: typeof before) => ({
      volumes: volumes
        .map(({ id, state, sizeBytes, displayName, tags, exportIds }) => ({
          id,
          state,
          sizeBytes,
          displayName,
          tags,
          exportIds,
        }))
        .sort((a, b) => (a.id < b.id ? -1 : 1)),
      snapshots: snapshots.map(({ id, state, volumeId }) => ({ id, state, volumeId })),
      exports: exports
        .map(({ id, nodeId, volumeId }) => ({ id, nodeId, volumeId }))
        .sort((a, b) => (a.id < b.id ? -1 : 1)),
    });
    expect(essence(after)).to.deep.equal(essence(before));
    expect(await exportsOf(moved)).to.deep.equal([third.exportId]);
    expect((await nodeB.export(moved)).access, 'the same export, the same key').to.deep.equal(third.access);
    // Late ones hit nothing, and what was taken in ends as any other.
    await client.unexport({ exportId: first.exportId });
    expect(await exportsOf(moved)).to.deep.equal([third.exportId]);
    await client.unexport({ exportId: third.exportId });
    await client.unexport({ exportId: fourth.exportId });
    const next = await nodeA.export(moved);
    const used = [first, second, third, fourth].map(({ exportId }) => exportId);
    expect(used).not.to.include(next.exportId);
    await client.unexport({ exportId: next.exportId });
    expect(brief(await checkAll(system))).to.deep.equal([]);
  });

  it('ends what ran when the copy was made, and takes in what came of it', async () => {
    const { client } = system;
    const source = await volume();
    const calls = Array.from({ length: 6 }, () => client.createSnapshot({ volumeId: source }));
    const more = Array.from({ length: 6 }, () => volume());
    const { path } = await client.backupStore({});
    const snapshots = (await Promise.all(calls)).map(({ snapshot }) => snapshot?.id ?? '');
    const volumes = await Promise.all(more);
    await system.restore(path);
    const { repaired, stillHeld } = await repairAll(system);
    const failed = repaired.filter(({ outcome }) => outcome === 'REPAIR_OUTCOME_FAILED');
    expect(failed).to.deep.equal([]);
    expect(stillHeld).to.equal(false);
    for (const volumeId of volumes) {
      expect((await client.getVolume({ volumeId })).volume?.state).to.equal('VOLUME_STATE_AVAILABLE');
    }
    for (const snapshotId of snapshots) {
      expect((await client.getSnapshot({ snapshotId })).snapshot?.state).to.equal('SNAPSHOT_STATE_COMPLETED');
    }
    const { operations } = await client.listOperations({ states: ['OPERATION_STATE_RUNNING'] });
    expect(operations).to.deep.equal([]);
    await waitFor('nothing differs', async () => {
      await repairAll(system);
      const left = await checkAll(system);
      if (left.length > 0) throw new Error(left.map(({ description }) => description).join('\n'));
      return true;
    });
  });

  it('agrees with the audit that shares none of its code', async () => {
    await waitFor('the pool is whole', async () => {
      const { problems } = await auditPool(system);
      if (problems.length > 0) throw new Error(problems.join('\n'));
      return true;
    });
  });
});
