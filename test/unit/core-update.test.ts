import { randomUUID } from 'node:crypto';
import { expect } from 'chai';
import { listAll } from '../../src/core/journal/agents.js';
import { indexes, keys, putChangedPool, putLock, putOperation } from '../../src/core/journal/documents.js';
import type { Operation } from '../../src/core/model/operation.js';
import type { Pool, Volume } from '../../src/core/model/resources.js';
import type { StoredDocument } from '../../src/core/ports/store.js';
import { type Hold, settleRestored } from '../../src/core/services/admin/hold.js';
import type { CoreContext } from '../../src/core/services/context.js';
import { admin, CoreWorld, change, expectFailure, failureOf, mutation } from '../helpers/core-world.js';
import { waitFor } from '../helpers/wait.js';

const WINDOW = 61_000;

describe('core: updates', () => {
  let world: CoreWorld;
  beforeEach(async () => {
    world = await CoreWorld.make();
  });
  afterEach(async () => {
    try {
      world.fake.fault = () => undefined;
      await world.expectWhole();
    } finally {
      await world.end();
    }
  });

  type Labels = { readonly displayName?: string; readonly tags?: Readonly<Record<string, string>> };

  function updateVolume(id: string, updateMask: readonly string[], labels: Labels = {}, more: object = {}) {
    const request = { ...change(id), updateMask, displayName: '', tags: {}, ...labels, ...more };
    return world.core.services.volumes.update(request, admin());
  }

  it('changes what the mask names and nothing else, in the store and in the catalogue', async () => {
    const { id } = await world.createVolume({ displayName: 'db', tags: { tier: 'gold', owner: 'a', 'x.y': '1' } });
    const renamed = await updateVolume(id, ['display_name'], { displayName: 'düne', tags: { tier: 'lead' } });
    expect(renamed.operationId).to.match(/^op-/);
    expect(renamed.resource.value).to.deep.include({
      displayName: 'düne',
      tags: { tier: 'gold', owner: 'a', 'x.y': '1' },
      state: 'available',
    });
    expect(renamed.resource.value.operationId).to.equal(undefined);
    const one = await updateVolume(id, ['tags.tier', 'tags.x.y', 'tags.none'], { tags: { tier: 'lead', stray: '1' } });
    expect(one.resource.value).to.deep.include({ displayName: 'düne', tags: { tier: 'lead', owner: 'a' } });
    const all = await updateVolume(id, ['tags', 'display_name'], { tags: { only: 'this' } });
    expect(all.resource.value).to.deep.include({ displayName: '', tags: { only: 'this' } });
    expect(world.fake.catalogueEntry(id)).to.deep.include({ id, displayName: '', tags: { only: 'this' } });
    expect(all.resource.value.updateTime).to.be.at.least(one.resource.value.updateTime);
  });

  it('refuses paths that it does not know, and names them', async () => {
    const { id } = await world.createVolume();
    for (const path of ['size_bytes', 'displayName', '*', 'tags.', '', 'tag', 'Tags']) {
      const error = await failureOf(updateVolume(id, ['tags', path]));
      expect(error.code, path).to.equal('INVALID_ARGUMENT');
      expect(error.fieldViolations[0]?.field).to.equal('update_mask');
      expect(error.message).to.include(JSON.stringify(path)).and.to.include('display_name, tags, tags.KEY');
    }
    expect((await failureOf(updateVolume(id, []))).message).to.include('update_mask: is required');
    const many = Array.from({ length: 101 }, (_, n) => `tags.${n}`);
    expect((await failureOf(updateVolume(id, many))).fieldViolations[0]?.field).to.equal('update_mask');
  });

  it('holds names and tags to their limits, those that are there already included', async () => {
    const tags = Object.fromEntries(Array.from({ length: 50 }, (_, n) => [`k${n}`, 'v']));
    const { id } = await world.createVolume({ tags });
    expect((await failureOf(updateVolume(id, ['tags.new'], { tags: { new: '1' } }))).code).to.equal('INVALID_ARGUMENT');
    await updateVolume(id, ['tags.new', 'tags.k0'], { tags: { new: '1' } });
    const error = await failureOf(updateVolume(id, ['display_name'], { displayName: 'a\nb' }));
    expect(error.fieldViolations[0]?.field).to.equal('display_name');
    await updateVolume(id, ['tags.__proto__', 'tags.k1'], { tags: Object.fromEntries([['__proto__', 'x']]) });
    expect(Object.keys((await world.volume(id)).tags)).to.include('__proto__');
  });

  it('holds to the etag, and changes nothing with validate_only', async () => {
    const { resource } = await updateVolume((await world.createVolume()).id, ['display_name'], { displayName: 'a' });
    const { id } = resource.value;
    const tried = await updateVolume(id, ['display_name'], { displayName: 'b' }, { validateOnly: true });
    expect(tried.resource.value.displayName).to.equal('b');
    expect((await world.volume(id)).displayName).to.equal('a');
    await updateVolume(id, ['display_name'], { displayName: 'c' }, { etag: resource.etag });
    const error = await failureOf(updateVolume(id, ['display_name'], { displayName: 'd' }, { etag: resource.etag }));
    expect([error.code, error.reason]).to.deep.equal(['ABORTED', 'ETAG_MISMATCH']);
  });

  it('the same token changes once, also after another update, and when there was nothing to change', async () => {
    const { id } = await world.createVolume({ displayName: 'a' });
    for (const displayName of ['b', 'a']) {
      const clientToken = randomUUID();
      const first = await updateVolume(id, ['display_name'], { displayName }, { clientToken });
      await updateVolume(id, ['display_name'], { displayName: 'other' });
      const again = await updateVolume(id, ['display_name'], { displayName }, { clientToken });
      expect(again.operationId).to.equal(first.operationId);
      expect((await world.volume(id)).displayName).to.equal('other');
      await expectFailure(updateVolume(id, ['display_name'], { displayName: 'x' }, { clientToken }), 'ALREADY_EXISTS');
      await updateVolume(id, ['display_name'], { displayName: 'a' });
    }
  });

  it('goes beside a snapshot and an export, and not beside what writes the catalogue entry too', async () => {
    const { id } = await world.createVolume();
    await world.export(id, 'node-a');
    let release: () => void = () => undefined;
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    const hang = (method: string) => {
      let once = true;
      world.fake.fault = (asked) => {
        if (asked !== method || !once) return undefined;
        once = false;
        return { kind: 'hang', until: held };
      };
    };
    hang('takePoint');
    const snapshot = world.createSnapshot(id);
    await waitFor('the point to be taken', async () =>
      (await running()).some(({ kind }) => kind === 'snapshot.create'),
    );
    await updateVolume(id, ['display_name'], { displayName: 'beside' });
    hang('putCatalogueEntry');
    const update = updateVolume(id, ['display_name'], { displayName: 'slow' });
    await waitFor('the update to begin', async () => (await running()).some(({ kind }) => kind === 'volume.update'));
    expect((await world.volume(id)).operationId).to.match(/^op-/);
    const second = await failureOf(updateVolume(id, ['tags.a'], { tags: { a: '1' } }));
    expect([second.code, second.reason]).to.deep.equal(['ABORTED', 'OPERATION_IN_PROGRESS']);
    expect(second.metadata.resource_id).to.equal(id);
    const expand = world.core.services.volumes.expand({ ...change(id), sizeBytes: 4_194_304 }, admin());
    expect((await failureOf(expand)).code).to.equal('ABORTED');
    release();
    await Promise.all([snapshot, update]);
    expect((await world.volume(id)).displayName).to.equal('slow');
  });

  async function running(): Promise<Operation[]> {
    return (await listAll<Operation>(world.store, indexes.operationsRunning)).map(({ value }) => value);
  }

  it('changes only what can be used', async () => {
    const volume = await world.createVolume();
    const snapshot = await world.createSnapshot(volume.id);
    await world.deleteVolume(volume.id);
    await world.deleteSnapshot(snapshot.id);
    await expectFailure(updateVolume(volume.id, ['display_name']), 'FAILED_PRECONDITION');
    const request = { ...change(snapshot.id), updateMask: ['tags'], displayName: '', tags: {} };
    await expectFailure(world.core.services.snapshots.update(request, admin()), 'FAILED_PRECONDITION');
    await expectFailure(updateVolume('vol-00000000000000000', ['display_name']), 'NOT_FOUND');
  });

  it('updates snapshots and nodes', async () => {
    const snapshot = await world.createSnapshot((await world.createVolume()).id);
    const update = {
      ...change(snapshot.id),
      updateMask: ['display_name', 'tags.a'],
      displayName: 's',
      tags: { a: '1' },
    };
    const { resource } = await world.core.services.snapshots.update(update, admin());
    expect(resource.value).to.deep.include({ displayName: 's', tags: { a: '1' }, state: 'completed' });
    const before = await world.core.services.nodes.get('node-a', admin());
    const request = { ...change('node-a'), etag: before.etag, tags: { rack: '7' }, initiatorName: 'iqn.2020-01.x:y' };
    const node = await world.core.services.nodes.update({ ...request, updateMask: ['tags.rack'] }, admin());
    expect(node.resource.value).to.deep.include({
      tags: { rack: '7' },
      initiatorName: '',
      publicKey: before.value.publicKey,
    });
    const late = { ...request, ...mutation(), updateMask: ['initiator_name'] };
    await expectFailure(world.core.services.nodes.update(late, admin()), 'ABORTED');
    const set = await world.core.services.nodes.update({ ...late, ...mutation(), etag: '' }, admin());
    expect(set.resource.value.initiatorName).to.equal('iqn.2020-01.x:y');
    const wrong = { ...late, ...mutation(), updateMask: ['storage_addresses'] };
    expect((await failureOf(world.core.services.nodes.update(wrong, admin()))).message).to.include(
      '"storage_addresses"',
    );
  });

  describe('pools', () => {
    const update = (undeleteWindowSeconds: number, updateMask = ['undelete_window_seconds'], more: object = {}) =>
      world.core.services.pools.update(
        { ...change('ssd'), updateMask, undeleteWindowSeconds, tags: { tier: 'gold' }, ...more },
        admin(),
      );
    const remove = (more: object = {}) => world.core.services.pools.delete({ ...change('ssd'), ...more }, admin());
    const create = (cephPool = 'ssd') =>
      world.core.services.pools.create(
        {
          ...mutation(),
          poolId: 'ssd',
          settings: { backend: 'rbd', cluster: 'main', cephPool, access: 'managed', keyringUser: '' },
          undeleteWindowSeconds: 60,
          tags: {},
        },
        admin(),
      );

    it('change their undelete window, for what is deleted from then on, and their tags', async () => {
      const first = await world.createVolume();
      await world.deleteVolume(first.id);
      const { resource } = await update(3_600);
      expect(resource.value.pool).to.deep.include({ undeleteWindowSeconds: 3_600, tags: {} });
      expect((await update(0, ['tags'])).resource.value.pool).to.deep.include({
        undeleteWindowSeconds: 3_600,
        tags: { tier: 'gold' },
      });
      const second = await world.createVolume();
      await world.deleteVolume(second.id);
      const [one, other] = [await world.volume(first.id), await world.volume(second.id)];
      expect((one.purgeTime ?? 0) - (one.deleteTime ?? 0)).to.be.below(120_000);
      expect((other.purgeTime ?? 0) - (other.deleteTime ?? 0)).to.be.at.least(3_600_000);
      for (const window of [-1, 1.5, 91 * 86_400]) await expectFailure(update(window), 'INVALID_ARGUMENT');
      expect((await failureOf(update(1, ['rbd.access']))).message).to.include('"rbd.access" cannot be changed');
      await expectFailure(update(1, ['tags.x'], { etag: resource.etag }), 'ABORTED');
    });

    it('are deleted when nothing is in them, and not before; what is in them is said', async () => {
      const volume = await world.createVolume();
      const snapshot = await world.createSnapshot(volume.id);
      const inUse = await failureOf(remove());
      expect([inUse.code, inUse.reason]).to.deep.equal(['FAILED_PRECONDITION', 'POOL_NOT_EMPTY']);
      expect(inUse.message).to.include(`1 volume (${volume.id})`).and.to.include(`1 snapshot (${snapshot.id})`);
      const item = (await world.export(volume.id, 'node-a')).resource.value;
      expect((await failureOf(remove())).message).to.include(`1 export (${item.id})`);
      await world.unexport(item.id);
      await world.deleteSnapshot(snapshot.id);
      await world.deleteVolume(volume.id);
      expect((await failureOf(remove())).message).to.include(`${volume.id}, deleted`);
      world.ahead = WINDOW;
      await world.core.reap();
      const etag = (await world.core.services.pools.get('ssd', admin())).etag;
      await expectFailure(remove({ etag: '1' }), 'ABORTED');
      expect(await remove({ validateOnly: true })).to.deep.equal({ operationId: '' });
      const images = world.fake.images.size;
      const clientToken = randomUUID();
      const { operationId } = await remove({ etag, clientToken });
      expect(operationId).to.match(/^op-/);
      await expectFailure(world.core.services.pools.get('ssd', admin()), 'NOT_FOUND');
      expect(await remove({ etag, clientToken })).to.deep.equal({ operationId });
      expect(await remove()).to.deep.equal({ operationId: '' });
      await expectFailure(world.createVolume(), 'NOT_FOUND');
      expect(world.fake.images.size).to.equal(images);
      // Its place is free, for one of another name too.
      await create('other');
      await remove();
      await create();
      await world.createVolume();
    });

    it('are not deleted under volumes that begin meanwhile', async () => {
      for (let round = 0; round < 20; round += 1) {
        const attempts = await Promise.allSettled([
          ...Array.from({ length: 4 }, () => world.createVolume()),
          remove(),
          ...Array.from({ length: 4 }, () => world.createVolume()),
        ]);
        await world.idle();
        const volumes = await listAll<Volume>(world.store, indexes.volumesAll);
        const pool = await world.store.get(keys.pool('ssd'));
        if (pool === undefined) expect(volumes, `round ${round}`).to.deep.equal([]);
        else expect(pool.value).not.to.have.property('operationId');
        expect(attempts.filter(({ status }) => status === 'fulfilled')).not.to.deep.equal([]);
        if (pool === undefined) await create();
        for (const { value } of volumes) await world.deleteVolume(value.id);
        world.ahead += WINDOW;
        await world.core.reap();
      }
    });

    it('that were being deleted in a restored store stay, and are as they were', async () => {
      const pool = (await world.store.get<Pool>(keys.pool('ssd'))) as StoredDocument<Pool>;
      const operation = {
        id: 'op-00000000000000001',
        kind: 'pool.delete',
        resourceId: 'ssd',
        poolId: 'ssd',
        locks: [{ resourceId: 'ssd', mode: 'exclusive' }],
      };
      await world.store.commit([
        putChangedPool({ ...pool.value, operationId: operation.id }, pool.rev),
        putOperation(
          {
            ...operation,
            owner: 'another',
            state: 'running',
            phase: 'check-empty',
            plan: {},
            createTime: 1,
            updateTime: 1,
          } as unknown as Operation,
          'absent',
        ),
        putLock(keys.lock('ssd'), { holders: [{ operationId: operation.id, mode: 'exclusive' }] }, 'absent'),
      ]);
      expect((await failureOf(world.createVolume())).reason).to.equal('POOL_BEING_DELETED');
      expect((await failureOf(update(1))).code).to.equal('ABORTED');
      const core = {
        store: world.store,
        clock: { now: () => Date.now() },
        liveCheck: () => ({ kind: 'check', key: 'none', expect: 'any' }),
      } as unknown as CoreContext;
      const mark = { key: keys.restored, rev: 1, value: { backupTime: 1, settled: false } };
      await settleRestored(core, { mark: async () => mark } as unknown as Hold);
      await world.store.commit([{ kind: 'delete', key: keys.restored, expect: 'any' }]);
      expect((await world.store.get<Pool>(keys.pool('ssd')))?.value).not.to.have.property('operationId');
      await world.createVolume();
    });

    it('that were being deleted when the controller died are deleted by the next, or stay', async () => {
      const clientToken = randomUUID();
      const deleting = remove({ clientToken }).catch(() => undefined);
      await waitFor(
        'the pool to be marked',
        async () => {
          const pool = await world.store.get<{ operationId?: string }>(keys.pool('ssd'));
          return pool === undefined || pool.value.operationId !== undefined;
        },
        { intervalMilliseconds: 1 },
      );
      await world.restart();
      await world.idle();
      await deleting;
      expect(await world.store.get(keys.pool('ssd'))).to.equal(undefined);
      expect((await remove({ clientToken })).operationId).to.match(/^op-/);
    });
  });
});
