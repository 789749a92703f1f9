import { expect } from 'chai';
import type { Cluster as Connection } from '../../src/agents/rbd/librbd/cluster.js';
import { attachChild, detachChild, readDirectoryId } from '../../src/agents/rbd/librbd/header.js';
import type { PoolContext } from '../../src/agents/rbd/librbd/pool-context.js';
import { keys, putLock, putOperation, putPoint, putVolume } from '../../src/core/journal/documents.js';
import { newId } from '../../src/core/model/ids.js';
import type { Operation } from '../../src/core/model/operation.js';
import {
  brief,
  briefOutcomes,
  checkAll,
  editStore,
  entryOf,
  putCatalogueEntry,
  removeCatalogueEntry,
  repairAll,
} from '../helpers/admin.js';
import { auditPool } from '../helpers/pool-audit.js';
import { type System, startSystem } from '../helpers/system.js';
import { openAsAdministrator, TestNode } from '../helpers/test-node.js';
import { waitFor } from '../helpers/wait.js';

const SIZE = 4 * 2 ** 20;

describe('AdminService.Check and Repair: every class of difference is planted on Ceph and in the store', function () {
  this.timeout(600_000);
  let system: System;
  let node: TestNode;
  let connection: Connection;
  let pool: PoolContext;
  /** A snapshot whose base was removed by hand; deleted since. */
  let baseless = '';

  before(async () => {
    system = await startSystem({ name: 'admin-check', undeleteWindowSeconds: 3600 });
    node = await TestNode.register(system, 'n1');
    ({ cluster: connection, pool } = await openAsAdministrator(system));
  });

  after(async () => {
    pool?.close();
    await connection?.close();
    await system?.remove();
  });

  const volume = async (): Promise<string> => {
    const answer = await system.client.createVolume({ poolId: 'main', sizeBytes: SIZE });
    return answer.volume?.id ?? '';
  };
  const snapshot = async (volumeId: string): Promise<string> =>
    (await system.client.createSnapshot({ volumeId })).snapshot?.id ?? '';
  const from = async (snapshotId: string): Promise<string> =>
    (await system.client.createVolume({ source: { snapshotId } })).volume?.id ?? '';
  const at = (name: string): string => `${system.cephPool}/${name}`;
  const idOf = async (name: string): Promise<string> => (await readDirectoryId(pool, name)) ?? '';

  /** Checks that exactly this differs, that Repair does this about it, and that nothing differs then. */
  async function expectMended(expected: readonly string[], options: { on?: readonly string[] } = {}): Promise<void> {
    expect(brief(await checkAll(system))).to.deep.equal([...expected].sort());
    const dry = await repairAll(system, { validateOnly: true, classes: options.on ?? [] });
    expect(briefOutcomes(dry.repaired)).to.deep.equal(expected.map((each) => `would_mend ${each}`).sort());
    expect(brief(await checkAll(system)), 'a dry run changes nothing').to.deep.equal([...expected].sort());
    const { repaired } = await repairAll(system, { classes: options.on ?? [] });
    const failed = repaired.filter(({ outcome }) => outcome !== 'REPAIR_OUTCOME_MENDED');
    expect(failed.map(({ finding, message }) => `${finding?.class}: ${message}`)).to.deep.equal([]);
    expect(brief(await checkAll(system)), 'after the repair').to.deep.equal([]);
  }

  /** Checks that this differs and that Repair leaves it alone. */
  async function expectRefused(expected: readonly string[]): Promise<void> {
    expect(brief(await checkAll(system))).to.deep.equal([...expected].sort());
    const { repaired } = await repairAll(system);
    expect(briefOutcomes(repaired)).to.deep.equal(expected.map((each) => `left ${each}`).sort());
    expect(brief(await checkAll(system))).to.deep.equal([...expected].sort());
  }

  it('finds nothing where nothing differs, foreign images among ours', async () => {
    const v = await volume();
    await from(await snapshot(v));
    await node.export(v);
    await system.cluster.rbd('create', '--size', '4M', at('somebody-else'));
    const answer = await system.client.check({});
    expect(answer.findings).to.deep.equal([]);
    expect(answer.nextPageToken).to.equal('');
    expect(answer.progress).to.include({ resources: '4', entries: '4', images: '4', foreignImages: '1', busy: '0' });
  });

  it('entries: missing, forged, older than the store, of nothing, and not under a key of ours', async () => {
    const [missing, forged, older, gone] = [await volume(), await volume(), await volume(), await volume()];
    await removeCatalogueEntry(pool, missing);
    const { value } = await entryOf(pool, forged);
    value.writeUInt8(value.readUInt8(value.length - 3) ^ 1, value.length - 3);
    await putCatalogueEntry(pool, { key: forged, value });
    const before = await entryOf(pool, older);
    await system.client.expandVolume({ volumeId: older, sizeBytes: 2 * SIZE });
    await putCatalogueEntry(pool, before);
    const stale = await entryOf(pool, gone);
    await purge(gone);
    await putCatalogueEntry(pool, stale);
    const moved = newId('vol');
    await putCatalogueEntry(pool, { key: moved, value: stale.value });
    const mendable = [
      `entry-missing ${missing}`,
      `entry-forged ${forged}`,
      `entry-differs ${older}`,
      `entry-stale ${gone}`,
    ];
    expect(brief(await checkAll(system))).to.deep.equal([...mendable, `entry-forged ${moved}`].sort());
    const { repaired } = await repairAll(system);
    expect(briefOutcomes(repaired)).to.deep.equal(
      [...mendable.map((each) => `mended ${each}`), `left entry-forged ${moved}`].sort(),
    );
    await removeCatalogueEntry(pool, moved);
    expect(brief(await checkAll(system))).to.deep.equal([]);
  });

  /** Deletes a volume and has it purged at once. */
  async function purge(id: string): Promise<void> {
    await system.client.deleteVolume({ volumeId: id });
    await editStore(system, async (editor) => {
      const value = await editor.volume(id);
      await editor.store.commit([putVolume({ ...value, purgeTime: 0 }, 'any')]);
    });
    // The trash itself would keep it for its hour.
    const found = await connection.openPool(system.cephPool);
    try {
      const entry = (await found.omapList('rbd_trash', '', 'id_', 100)).entries.find(({ value }) => value.includes(id));
      if (entry === undefined) throw new Error(`${id} is not in the trash`);
      await keepNoLonger(found, entry.key, entry.value);
    } finally {
      found.close();
    }
    await waitFor('it is purged', async () => {
      const { volumes } = await system.client.listVolumes({ states: ['VOLUME_STATE_DELETED', 'VOLUME_STATE_PURGING'] });
      return !volumes.some((each) => each.id === id);
    });
  }

  async function keepNoLonger(found: PoolContext, key: string, value: Buffer): Promise<void> {
    // version, compatible, length; source; name; time of deletion; end of deferment
    const nameLength = value.readUInt32LE(7);
    const changed = Buffer.from(value);
    changed.writeUInt32LE(1, 11 + nameLength + 8);
    await found.omapSet('rbd_trash', [{ key, value: changed }]);
  }

  it('images that late requests have made: of what is gone, and beside the right one', async () => {
    const [gone, alive] = [await volume(), await volume()];
    const entry = await entryOf(pool, gone);
    await purge(gone);
    await putCatalogueEntry(pool, entry);
    await system.cluster.rbd('create', '--size', '4M', '--image-feature', 'layering', at(gone));
    await system.cluster.rbd('create', '--size', '4M', '--image-feature', 'layering', at(`${alive}.7`));
    expect(brief(await checkAll(system))).to.deep.equal([`image-orphaned ${gone}`, `image-orphaned ${alive}`].sort());
    const { repaired } = await repairAll(system);
    expect(repaired.map(({ outcome }) => outcome)).to.deep.equal(['REPAIR_OUTCOME_MENDED', 'REPAIR_OUTCOME_MENDED']);
    await waitFor('the reaper has cleared them away', async () => {
      const { stdout } = await system.cluster.rbd('ls', system.cephPool);
      return !stdout.split('\n').some((name) => name === gone || name === `${alive}.7`);
    });
    expect(brief(await checkAll(system))).to.deep.equal([]);
  });

  it('an image named like ours that nothing knows of is told of and never touched', async () => {
    const name = newId('vol');
    await system.cluster.rbd('create', '--size', '4M', at(name));
    await system.cluster.rbd('image-meta', 'set', at(name), 'moorage.id', name);
    await expectRefused([`image-unknown ${name}`]);
    await repairAll(system, { classes: ['image-unknown', 'image-orphaned', 'image-missing', 'not-in-store'] });
    const { stdout } = await system.cluster.rbd('ls', system.cephPool);
    expect(stdout.split('\n')).to.include.members([name, 'somebody-else']);
    await system.cluster.rbd('rm', at(name));
  });

  it('where an image is: in the trash, out of it, under another name, nowhere', async () => {
    const [trashed, restored, renamed, missing] = [await volume(), await volume(), await volume(), await volume()];
    await system.cluster.rbd('trash', 'mv', at(trashed));
    await system.client.deleteVolume({ volumeId: restored });
    const { stdout } = await system.cluster.rbd('trash', 'ls', system.cephPool);
    const line = stdout.split('\n').find((each) => each.includes(restored));
    await system.cluster.rbd('trash', 'restore', at(line?.split(' ')[0] ?? ''));
    await system.cluster.rbd('rename', at(renamed), at(`${renamed}.9`));
    await system.cluster.rbd('rm', at(missing));
    const expected = [
      `image-trashed ${trashed}`,
      `image-not-trashed ${restored}`,
      `image-renamed ${renamed}`,
      `image-missing ${missing}`,
    ];
    await expectRefused(expected);
    await repairAll(system, { classes: ['image-trashed', 'image-not-trashed', 'image-renamed', 'image-missing'] });
    // The catalogue follows a name that the store took over.
    await repairAll(system);
    expect(brief(await checkAll(system))).to.deep.equal([]);
    const { volume: back } = await system.client.getVolume({ volumeId: restored });
    expect(back?.state).to.equal('VOLUME_STATE_AVAILABLE');
    await system.client.expandVolume({ volumeId: trashed, sizeBytes: 2 * SIZE });
    await system.client.expandVolume({ volumeId: renamed, sizeBytes: 2 * SIZE });
  });

  it('what headers say: a smaller image is grown; larger, or with another parent, it is not believed', async () => {
    const [small, large, v] = [await volume(), await volume(), await volume()];
    const s = await snapshot(v);
    const flat = await from(s);
    await system.cluster.rbd('resize', '--allow-shrink', '--size', '1M', at(small));
    await expectMended([`image-size ${small}`]);
    await system.cluster.rbd('resize', '--size', '32M', at(large));
    await system.cluster.rbd('flatten', at(flat));
    await expectRefused([`image-size ${large}`, `image-header ${flat}`]);
    await system.cluster.rbd('resize', '--allow-shrink', '--size', '4M', at(large));
    await system.client.deleteVolume({ volumeId: flat });
    await editStore(system, (editor) => editor.remove(keys.volume(flat)));
    await removeCatalogueEntry(pool, flat);
    await system.cluster.rbd('trash', 'purge', '--expired-before', '2100-01-01', system.cephPool);
    expect(brief(await checkAll(system))).to.deep.equal([]);
  });

  it('lists of children: one that lacks a clone, one with a clone that is not there', async () => {
    const v = await volume();
    const s = await snapshot(v);
    const w = await from(s);
    const [parentId, childId] = [await idOf(s), await idOf(w)];
    const base = (await headerOf(parentId)).snapshots.find(({ name }) => name === 'base');
    const child = { poolId: pool.poolId(), imageId: childId, poolNamespace: '' };
    await detachChild(pool, parentId, base?.id ?? 0n, child);
    await expectMended([`child-unlisted ${w}`]);
    await attachChild(pool, parentId, base?.id ?? 0n, { ...child, imageId: 'feedbeef' });
    await expectMended([`child-stale ${s}`]);
  });

  async function headerOf(id: string) {
    const { readHeader } = await import('../../src/agents/rbd/librbd/header.js');
    const header = await readHeader(pool, id);
    if (header === undefined) throw new Error(`no header ${id}`);
    return header;
  }

  it('points: one that nobody knows, one on a volume that is open, a base that is gone', async () => {
    const [v, open, o] = [await volume(), await volume(), await volume()];
    const s = await snapshot(o);
    await node.export(open);
    await system.cluster.rbd('snap', 'create', `${at(v)}@by-hand`);
    await system.cluster.rbd('snap', 'create', `${at(open)}@by-hand`);
    await expectRefused([`point-unknown ${v}`, `point-unknown ${open}`]);
    const { repaired } = await repairAll(system, { classes: ['point-unknown'] });
    expect(briefOutcomes(repaired)).to.deep.equal([`failed point-unknown ${open}`, `mended point-unknown ${v}`].sort());
    await waitFor('the reaper has removed it', async () => (await headerOf(await idOf(v))).snapshots.length === 0);
    await system.cluster.rbd('snap', 'rm', `${at(open)}@by-hand`);
    await system.cluster.rbd('snap', 'rm', `${at(s)}@base`);
    await expectRefused([`base-missing ${s}`]);
    await system.client.deleteSnapshot({ snapshotId: s });
    baseless = s;
    expect(brief(await checkAll(system))).to.deep.equal([]);
  });

  it('users of exports: missing, with other rights, of an export that is not there; an export that has ended', async () => {
    const [a, b, c] = [await volume(), await volume(), await volume()];
    const [missing, other, ended] = [await node.export(a), await node.export(b), await node.export(c)];
    const user = (id: string): string => `client.moorage-${id}`;
    await system.cluster.ceph('auth', 'del', user(missing.exportId));
    await system.cluster.ceph('auth', 'caps', user(other.exportId), 'mon', 'allow r', 'osd', 'allow r');
    await system.cluster.ceph('auth', 'del', user(ended.exportId));
    await removeCatalogueEntry(pool, ended.exportId);
    const late = newId('exp');
    await pool.omapSet('moorage.access', [{ key: late, value: Buffer.from('1') }]);
    await system.cluster.ceph('auth', 'get-or-create', user(late), 'mon', 'allow r');
    await expectMended([
      `access-missing ${missing.exportId}`,
      `access-differs ${other.exportId}`,
      `export-ended ${ended.exportId}`,
      `access-orphaned ${late}`,
    ]);
    expect((await system.client.getVolume({ volumeId: c })).volume?.exportIds).to.deep.equal([]);
    const again = await node.export(a);
    expect(again.access, 'a new key').to.not.deep.equal(missing.access);
    await system.client.unexport({ exportId: again.exportId });
  });

  it('what the store has lost: volumes, snapshots, exports; with their parents, tags and times', async () => {
    const { volume: made } = await system.client.createVolume({
      poolId: 'main',
      sizeBytes: SIZE,
      displayName: 'a name',
      tags: { team: 'blue' },
    });
    const v = made?.id ?? '';
    const s = await snapshot(v);
    const w = await from(s);
    const deleted = await from(s);
    await system.client.deleteVolume({ volumeId: deleted });
    const { exportId } = await node.export(w);
    const before = (await system.client.getVolume({ volumeId: w })).volume;
    await editStore(system, async (editor) => {
      for (const key of [
        keys.volume(v),
        keys.snapshot(s),
        keys.volume(w),
        keys.volume(deleted),
        keys.export(exportId),
      ]) {
        await editor.remove(key);
      }
    });
    const lost = [v, s, w, deleted].map((id) => `not-in-store ${id}`);
    expect(brief(await checkAll(system))).to.deep.equal([...lost, `export-not-in-store ${exportId}`].sort());
    const { repaired } = await repairAll(system);
    expect(repaired.filter(({ outcome }) => outcome !== 'REPAIR_OUTCOME_MENDED')).to.deep.equal([]);
    expect(brief(await checkAll(system))).to.deep.equal([]);
    const after = (await system.client.getVolume({ volumeId: w })).volume;
    for (const field of ['sizeBytes', 'state', 'createTime', 'cloneDepth', 'exportIds', 'source'] as const) {
      expect(after?.[field], field).to.deep.equal(before?.[field]);
    }
    expect((await system.client.getVolume({ volumeId: v })).volume).to.deep.include({
      displayName: 'a name',
      tags: { team: 'blue' },
    });
    expect((await system.client.getVolume({ volumeId: deleted })).volume?.state).to.equal('VOLUME_STATE_DELETED');
    await system.client.undeleteVolume({ volumeId: deleted });
    const again = await node.export(w);
    expect(again.exportId).to.equal(exportId);
  });

  it('inside the store: a stale lock, states and operations of nobody, a list of exports, points that wait for nobody', async () => {
    const [locked, stuck, expanding, listed, waiting] = [
      await volume(),
      await volume(),
      await volume(),
      await volume(),
      await volume(),
    ];
    const { exportId } = await node.export(listed);
    const ghost = newId('op');
    const abandoned = newId('op');
    const pointId = newId('pt');
    await editStore(system, async ({ store, ...editor }) => {
      void editor;
      const read = async <T>(key: string): Promise<T> => (await store.get<T>(key))?.value as T;
      await store.commit([
        putLock(keys.lock(locked), { holders: [{ operationId: ghost, mode: 'exclusive' }] }, 'any'),
        putVolume(
          { ...((await read<never>(keys.volume(stuck))) as object), state: 'deleting', operationId: ghost } as never,
          'any',
        ),
        putVolume(
          { ...((await read<never>(keys.volume(expanding))) as object), operationId: abandoned } as never,
          'any',
        ),
        putLock(keys.lock(expanding), { holders: [{ operationId: abandoned, mode: 'exclusive' }] }, 'any'),
        putOperation(
          {
            id: abandoned,
            kind: 'volume.expand',
            resourceId: expanding,
            poolId: 'main',
            owner: '00000000-0000-4000-8000-000000000000',
            state: 'running',
            phase: 'connect',
            plan: { sizeBytes: 2 * SIZE },
            locks: [{ resourceId: expanding, mode: 'exclusive' }],
            progressPercent: 0,
            statusMessage: '',
            principal: 'local',
            createTime: Date.now(),
            updateTime: Date.now(),
          } satisfies Operation,
          'any',
        ),
        putVolume(
          { ...((await read<never>(keys.volume(listed))) as object), exportIds: [newId('exp')] } as never,
          'any',
        ),
        putPoint({ id: pointId, poolId: 'main', volumeId: waiting, operationIds: [ghost] }, 'any'),
      ]);
    });
    const found = brief(await checkAll(system));
    expect(found).to.deep.equal(
      [
        `lock-stale ${locked}`,
        `state-stale ${stuck}`,
        `operation-abandoned ${abandoned}`,
        `export-list ${exportId}`,
        `export-list ${listed}`,
        `point-left ${pointId}`,
      ].sort(),
    );
    const { repaired } = await repairAll(system);
    expect(repaired.filter(({ outcome }) => outcome !== 'REPAIR_OUTCOME_MENDED')).to.deep.equal([]);
    await waitFor('the abandoned expand is done', async () => {
      const { volume: grown } = await system.client.getVolume({ volumeId: expanding });
      return Number(grown?.sizeBytes) === 2 * SIZE;
    });
    expect(brief(await checkAll(system))).to.deep.equal([]);
    await system.client.deleteVolume({ volumeId: locked });
  });

  it('a pool whose storage does not answer is told of, and keeps no other from being checked', async () => {
    await editStore(system, async ({ store }) => {
      const known = await store.get<Record<string, unknown>>(keys.pool('main'));
      const settings = { ...(known?.value.settings as object), cephPool: 'not-there' };
      await store.commit([
        {
          kind: 'put',
          key: keys.pool('lost'),
          expect: 'absent',
          value: { ...known?.value, id: 'lost', settings },
          indexes: [{ index: 'pools', sort: 'lost' }],
        },
      ]);
    });
    await expectRefused(['pool-not-checked lost']);
    await editStore(system, (editor) => editor.remove(keys.pool('lost')));
  });

  it('under load it finds nothing', async () => {
    let ended = false;
    const load = async (): Promise<void> => {
      while (!ended) {
        const v = await volume();
        const s = await snapshot(v);
        const w = await from(s);
        const { exportId } = await node.export(w);
        await system.client.updateVolume({ volumeId: v, displayName: 'x', updateMask: { paths: ['display_name'] } });
        await system.client.expandVolume({ volumeId: v, sizeBytes: 2 * SIZE });
        await system.client.unexport({ exportId });
        await system.client.deleteVolume({ volumeId: w });
        await system.client.undeleteVolume({ volumeId: w });
        await system.client.deleteVolume({ volumeId: w });
        await system.client.deleteSnapshot({ snapshotId: s });
      }
    };
    const work = [load(), load(), load()];
    try {
      for (let round = 0; round < 8; round += 1) {
        const findings = await checkAll(system);
        expect(findings.map(({ description }) => description)).to.deep.equal([]);
      }
    } finally {
      ended = true;
      await Promise.all(work);
    }
    expect(brief(await checkAll(system))).to.deep.equal([]);
  });

  it('agrees with the audit that shares none of its code', async () => {
    await system.cluster.rbd('rm', at('somebody-else'));
    const { problems } = await auditPool(system);
    expect(problems.filter((problem) => !problem.startsWith(baseless))).to.deep.equal([]);
  });
});
