import { randomUUID } from 'node:crypto';
import { expect } from 'chai';
import { listAll } from '../../src/core/journal/agents.js';
import { indexes, keys } from '../../src/core/journal/documents.js';
import type { ControllerRecord } from '../../src/core/model/operation.js';
import { removeExpired } from '../../src/core/reaper/janitor.js';
import type { CoreContext } from '../../src/core/services/context.js';
import { admin, CoreWorld, change, expectFailure, failureOf, MEBIBYTE, mutation } from '../helpers/core-world.js';
import type { Fault } from '../helpers/fake-backend.js';
import { waitFor } from '../helpers/wait.js';

const WINDOW = 61_000;

/** A promise and what resolves it. */
function gate(): { readonly until: Promise<void>; readonly open: () => void } {
  let open: () => void = () => undefined;
  const until = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { until, open };
}

describe('core: lives and deaths', () => {
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

  /** Lets the first step of that method hang; resolves once it does. `deaf`: the dead controller's request goes on. */
  function hangIn(method: string, deaf = false) {
    const { until, open } = gate();
    const reached = gate();
    let done = false;
    world.fake.fault = (asked) => {
      if (asked !== method || done) return undefined;
      done = true;
      reached.open();
      return { kind: 'hang', until, deaf };
    };
    return { reached: reached.until, open };
  }

  describe('a restart in the middle', () => {
    const steps: Readonly<Record<string, readonly string[]>> = {
      snapshot: ['openConnection', 'takePoint', 'createImage', 'removePoint', 'closeConnection'],
      expand: ['openConnection', 'putCatalogueEntry', 'expandImage', 'closeConnection'],
      create: ['createImage'],
      delete: ['trashImage'],
      export: ['putCatalogueEntry', 'grantAccess'],
    };
    for (const [kind, methods] of Object.entries(steps)) {
      for (const method of methods) {
        for (const how of ['stopped', 'abandoned, its last request still under way'] as const) {
          it(`of ${kind} in ${method}, ${how}: resumed and ended`, async () => {
            const { id } = await world.createVolume();
            const token = randomUUID();
            const { volumes } = world.core.services;
            const calls: Readonly<Record<string, () => Promise<unknown>>> = {
              snapshot: () => world.createSnapshot(id, token),
              expand: () => volumes.expand({ ...change(id, token), sizeBytes: 8 * MEBIBYTE }, admin()),
              create: () => world.createVolume({ clientToken: token }),
              delete: () => volumes.delete(change(id, token), admin()),
              export: () => world.export(id, 'node-a', { clientToken: token }),
            };
            const deaf = how !== 'stopped';
            const hanging = hangIn(method, deaf);
            const cut = calls[kind]?.().catch(() => undefined);
            await hanging.reached;
            if (deaf) await world.start();
            else await world.restart();
            if (deaf && method === 'grantAccess') hanging.open();
            await world.idle();
            hanging.open();
            await cut;
            const [operation] = (
              await world.core.services.operations.list(
                { resourceId: '', states: ['succeeded', 'failed'], pageSize: 1000, pageToken: '' },
                admin(),
              )
            ).items.slice(-1);
            expect(operation?.state).to.equal('succeeded');
          });
        }
      }
    }

    it('with agents that are admitted while operations are adopted: none is lost', async () => {
      const volumes = await Promise.all(Array.from({ length: 12 }, () => world.createVolume()));
      const { until, open } = gate();
      world.fake.fault = (method) => (method === 'trashImage' ? { kind: 'hang', until } : undefined);
      const cut = volumes.map(({ id }) => world.deleteVolume(id).catch(() => undefined));
      await waitFor('12 operations', async () => (await world.running()).length === 12, { intervalMilliseconds: 1 });
      await world.core.stop(0);
      const cutOff = gate();
      world.fake.fault = (method) => (method === 'cutOff' ? { kind: 'hang', until: cutOff.until } : undefined);
      await world.start();
      cutOff.open();
      for (let count = 0; count < 40; count += 1) {
        await world.core.lifecycle.admit({ agentId: `fence-x${count}`, cluster: 'x', role: 'fence', addresses: [] });
      }
      open();
      await Promise.all(cut);
      await world.idle();
      for (const { id } of volumes) expect((await world.volume(id)).state).to.equal('deleted');
      const controllers = await listAll<ControllerRecord>(world.store, indexes.controllers);
      expect(controllers.map(({ value }) => value.inc)).to.deep.equal([world.core.inc]);
    });

    it('a call whose time is up answers with the resource in between and its operation', async () => {
      const hanging = hangIn('createImage');
      const { volumes, operations } = world.core.services;
      const request = { poolId: 'ssd', sizeBytes: MEBIBYTE, sourceSnapshotId: '', displayName: '', tags: {} };
      const answer = await volumes.create(
        { ...mutation(), ...request, encrypted: false, multiAttach: false },
        admin(100),
      );
      expect(answer.resource.value.state).to.equal('creating');
      expect((await operations.get(answer.operationId, admin())).state).to.equal('running');
      await expectFailure(world.deleteVolume(answer.resource.value.id), 'ABORTED', 'OPERATION_IN_PROGRESS');
      hanging.open();
      expect((await operations.wait(answer.operationId, undefined, admin())).state).to.equal('succeeded');
    });
  });

  describe('points in time', () => {
    it('of 8 snapshots at once, those that wait share the next one, and the last of them removes it', async () => {
      const { id } = await world.createVolume();
      world.fake.write(await world.imageName(id), 0, 'before');
      const hanging = hangIn('takePoint');
      const calls = Array.from({ length: 8 }, () => world.createSnapshot(id));
      await waitFor('8 operations', async () => (await world.running()).length === 8, { intervalMilliseconds: 1 });
      // By the end of this one the others wait.
      await world.createVolume();
      hanging.open();
      const snapshots = await Promise.all(calls);
      const parents = new Set(snapshots.map(({ image }) => image?.parent?.point.backendId));
      expect(parents.size).to.be.within(1, 2);
      expect(world.fake.calls.filter(({ method }) => method === 'takePoint')).to.have.length(parents.size);
      for (const { image } of snapshots) expect(world.fake.read(image?.name ?? '', 0)).to.equal('before');
      await world.idle();
      const points = [...(world.fake.find(id)?.points.values() ?? [])];
      expect(points).to.have.length(parents.size);
      expect(points.filter(({ trashed }) => !trashed)).to.deep.equal([]);
    });

    it('8 that share one, cut by a restart after it was taken, share it still', async () => {
      const { id } = await world.createVolume();
      const { until, open } = gate();
      world.fake.fault = (method) => (method === 'createImage' ? { kind: 'hang', until } : undefined);
      const cut = Array.from({ length: 8 }, () => world.createSnapshot(id).catch(() => undefined));
      const taken = async () => (await world.running()).filter(({ phase }) => phase === 'create-image').length;
      await waitFor('8 taken', async () => (await taken()) === 8, { intervalMilliseconds: 1 });
      const points = world.fake.find(id)?.points.size;
      world.fake.fault = () => undefined;
      await world.restart();
      await world.idle();
      open();
      await Promise.all(cut);
      const { items } = await world.core.services.snapshots.list(
        { poolId: '', volumeId: id, states: ['completed'], tags: {}, pageSize: 0, pageToken: '' },
        admin(),
      );
      expect(items).to.have.length(8);
      expect(new Set(items.map(({ value }) => value.image?.parent?.point.backendId)).size).to.equal(points);
    });

    it('on a volume that a guest has open, the point goes with its last clone', async () => {
      const { id } = await world.createVolume();
      const exportId = (await world.export(id, 'node-a')).resource.value.id;
      world.fake.openVolume(exportId, '10.0.0.1:0/1');
      const two = await Promise.all([world.createSnapshot(id), world.createSnapshot(id)]);
      for (const snapshot of two) await world.deleteSnapshot(snapshot.id);
      world.ahead += WINDOW;
      await world.core.reap();
      expect([...(world.fake.find(id)?.points.values() ?? [])]).to.deep.equal([]);
      expect((await world.volume(id)).image?.points).to.deep.equal([]);
    });

    it('one that could be neither taken in the end nor removed goes with the reaper', async () => {
      const { id } = await world.createVolume();
      const faults: Record<string, Fault[]> = {
        takePoint: [{ kind: 'unknown-after' }, { kind: 'permanent' }],
        removePoint: [{ kind: 'permanent' }],
      };
      world.fake.fault = (method) => faults[method]?.shift();
      await failureOf(world.createSnapshot(id));
      expect([...(world.fake.find(id)?.points.values() ?? [])]).to.have.length(1);
      await world.core.reap();
      expect([...(world.fake.find(id)?.points.values() ?? [])]).to.deep.equal([]);
      await world.expectWhole();
    });
  });

  describe('a dead data agent', () => {
    it('is cut off and its locks are broken before its successor takes a step', async () => {
      const { id } = await world.createVolume();
      const dead = world.agents.data.addresses[0] ?? '';
      let died = false;
      world.fake.fault = (method) => {
        if (method !== 'takePoint' || died) return undefined;
        died = true;
        return { kind: 'agent-dies', after: false };
      };
      const before = world.fake.calls.length;
      expect((await world.createSnapshot(id)).state).to.equal('completed');
      const methods = world.fake.calls.slice(before).map(({ method }) => method);
      const taken = methods.lastIndexOf('takePoint');
      for (const method of ['cutOff', 'breakLocks']) {
        expect(methods.indexOf(method), method).to.be.above(0).and.below(taken);
      }
      expect([...world.fake.cutOff])
        .to.include(dead)
        .and.to.satisfy((all: string[]) => all.some((a) => a.startsWith('10.9.1')));
    });

    it('of a controller that is gone is inherited, with the connection that it worked on', async () => {
      const { id } = await world.createVolume();
      const dead = world.agents.data.addresses[0] ?? '';
      const hanging = hangIn('takePoint', true);
      const cut = world.createSnapshot(id).catch(() => undefined);
      await hanging.reached;
      const [connection] = [...world.agents.connections.values()];
      for (const address of connection?.addresses ?? []) world.fake.find(id)?.locks.add(address);
      await world.start();
      await world.idle();
      hanging.open();
      await cut;
      expect([...world.fake.cutOff]).to.include.members([dead, ...(connection?.addresses ?? [])]);
      expect([...(world.fake.find(id)?.locks ?? [])]).to.deep.equal([]);
    });

    it('is not forgotten while the fence agent cannot cut it off', async () => {
      let refusals = 3;
      world.fake.fault = (method) => {
        if (method !== 'cutOff' || refusals === 0) return undefined;
        refusals -= 1;
        return { kind: 'unknown-before' };
      };
      const dead = world.agents.data.addresses[0] ?? '';
      world.killData();
      await world.createVolume();
      expect(refusals).to.equal(0);
      expect([...world.fake.cutOff]).to.include(dead);
    });

    it('is waited for without a warning while the fence agent is not there yet', async () => {
      let absent = true;
      let asked = 0;
      world.fake.fault = (method) => {
        if (method !== 'cutOff' || !absent) return undefined;
        asked += 1;
        return { kind: 'not-begun' };
      };
      await world.start();
      await waitFor('it to be asked for several times', () => asked > 5);
      absent = false;
      await waitFor('the take-over', () => world.notices.some((notice) => notice.includes('took over')));
      expect(world.notices.filter((notice) => notice.startsWith('warn'))).to.deep.equal([]);
      expect(world.notices.filter((notice) => notice.startsWith('info: a take-over waits'))).to.have.length(1);
    });

    it('holds only those pools back in which the fence agent has no rights, until it has', async () => {
      const settings = {
        backend: 'rbd',
        cluster: 'main',
        cephPool: 'hdd',
        access: 'managed',
        keyringUser: '',
      } as const;
      const pool = { ...mutation(), poolId: 'hdd', settings, undeleteWindowSeconds: 60, tags: {} };
      await world.core.services.pools.create(pool, admin());
      const recorded = async () => {
        const all = await listAll<ControllerRecord>(world.store, indexes.controllers);
        return all.flatMap(({ value }) => value.agents.filter(({ dead }) => dead).map(({ agentId }) => agentId));
      };
      const heldBack = (poolId: string) => world.core.lifecycle.heldBack(poolId);
      const { id } = await world.createVolume();
      world.fake.closed.add('hdd');
      const dead = world.agents.data;
      world.killData();
      await world.admitted();
      expect(heldBack('hdd')).to.contain('moorage pool init hdd');
      expect(heldBack('ssd')).to.equal(undefined);
      expect((await world.createSnapshot(id)).state).to.equal('completed');
      expect(await recorded()).to.deep.equal([dead.agentId]);
      expect([...world.fake.cutOff]).to.include.members([...dead.addresses]);
      // Another death, and the one before is still owed to the closed pool.
      const second = world.agents.data;
      world.killData();
      await world.admitted();
      expect(await recorded()).to.have.members([dead.agentId, second.agentId]);
      world.fake.closed.clear();
      await waitFor('the pool to be let go', () => heldBack('hdd') === undefined);
      expect(await recorded()).to.deep.equal([]);
      expect(world.notices.filter((notice) => notice.includes('hdd'))).to.have.length(1);
      await world.createVolume({ poolId: 'hdd' });
    });
  });

  describe('the reaper', () => {
    it('waits for the window, and for every child, leaf first', async () => {
      const volume = await world.createVolume();
      const snapshot = await world.createSnapshot(volume.id);
      const child = await world.createFrom(snapshot.id);
      await world.deleteVolume(volume.id);
      await world.deleteSnapshot(snapshot.id);
      expect((await world.core.reap()).purged).to.equal(0);
      world.ahead += WINDOW;
      expect((await world.core.reap()).purged).to.equal(0);
      // Not even begun: until its last child goes it can be undeleted.
      expect((await world.volume(volume.id)).state).to.equal('deleted');
      expect((await world.snapshot(snapshot.id)).state).to.equal('deleted');
      await world.deleteVolume(child.id);
      world.ahead += WINDOW;
      expect((await world.core.reap()).purged).to.equal(3);
      expect((await world.deleteVolume(child.id)) ?? 'gone').to.equal('gone');
    });

    it('a pin, a lock of an operation, or a watcher keeps an image', async () => {
      const volume = await world.createVolume();
      const snapshot = await world.createSnapshot(volume.id);
      const child = await world.createFrom(snapshot.id);
      const exportId = (await world.export(child.id, 'node-a')).resource.value.id;
      const { value } = await world.core.services.exports.get(exportId, admin());
      expect(value.ancestorIds).to.deep.equal([snapshot.id, volume.id]);
      await world.unexport(exportId);
      await world.deleteVolume(child.id);
      world.ahead += WINDOW;
      world.fake.images.get(child.image?.backendId ?? '')?.watchers.add('10.0.0.9:0/9');
      expect((await world.core.reap()).purged).to.equal(0);
      world.fake.images.get(child.image?.backendId ?? '')?.watchers.clear();
      const hanging = hangIn('restoreImage');
      const undelete = world.core.services.volumes.undelete(change(child.id), admin());
      await hanging.reached;
      expect((await world.core.reap()).purged).to.equal(0);
      hanging.open();
      await undelete;
      expect((await world.volume(child.id)).state).to.equal('available');
    });

    it('one image that fails never ends a pass, and is purged by a later one', async () => {
      const volumes = await Promise.all(Array.from({ length: 6 }, () => world.createVolume()));
      for (const { id } of volumes) await world.deleteVolume(id);
      world.ahead += WINDOW;
      const [bad] = volumes;
      world.fake.fault = (method, { operationId }) =>
        method === 'purgeImage' && operationId === bad?.id ? { kind: 'unknown-before' } : undefined;
      const result = await world.core.reap();
      expect(result).to.include({ purged: 5, failed: 1 });
      expect((await world.volume(bad?.id ?? '')).state).to.equal('purging');
      const late = world.core.services.volumes.undelete(change(bad?.id ?? ''), admin());
      await expectFailure(late, 'FAILED_PRECONDITION', 'PURGING');
      world.fake.fault = () => undefined;
      expect((await world.core.reap()).purged).to.equal(1);
    });

    it('an undelete that comes while the image is asked after wins over the purge', async () => {
      const { id } = await world.createVolume();
      await world.deleteVolume(id);
      world.ahead += WINDOW;
      const hanging = hangIn('getUsage');
      const pass = world.core.reap();
      await hanging.reached;
      await world.core.services.volumes.undelete(change(id), admin());
      hanging.open();
      await pass;
      expect((await world.volume(id)).state).to.equal('available');
      expect(await world.imageName(id)).to.equal(`${id}.2`);
    });

    it('a purge that was cut by a crash is finished by the next controller', async () => {
      const { id } = await world.createVolume();
      await world.deleteVolume(id);
      world.ahead += WINDOW;
      const hanging = hangIn('purgeImage');
      const pass = world.core.reap();
      await hanging.reached;
      await world.restart();
      hanging.open();
      await pass;
      await world.admitted();
      await world.core.reap();
      expect(world.fake.images.size).to.equal(0);
    });

    it('delete while an undelete runs says so', async () => {
      const { id } = await world.createVolume();
      await world.deleteVolume(id);
      const hanging = hangIn('restoreImage');
      const undelete = world.core.services.volumes.undelete(change(id), admin());
      await hanging.reached;
      await expectFailure(world.deleteVolume(id), 'ABORTED', 'OPERATION_IN_PROGRESS');
      hanging.open();
      await undelete;
    });
  });

  it('the janitor removes operations, grants and the tokens of what is gone after a day, and nothing else', async () => {
    const kept = await world.createVolume();
    const keptToken = randomUUID();
    const gone = await world.createVolume({ clientToken: keptToken });
    const request = { instance: '', migration: false, readOnly: false, lifetimeMilliseconds: 0 };
    const { resource: grant } = await world.core.services.exports.grant(
      { ...mutation(), volumeId: kept.id, nodeId: 'node-a', ...request },
      admin(),
    );
    await world.deleteVolume(gone.id);
    world.ahead += WINDOW;
    await world.core.reap();
    const context = {
      store: world.store,
      clock: { now: () => Date.now() + world.ahead },
      liveCheck: () => ({ kind: 'check', key: 'nothing', expect: 'absent' }),
      refreshMembership: async () => true,
    } as unknown as CoreContext;
    const tokenKey = keys.token('root', 'CreateVolume', keptToken);
    await removeExpired(context);
    expect(await world.store.get(tokenKey)).not.to.equal(undefined);
    world.ahead += 25 * 3_600_000;
    await removeExpired(context);
    expect(await world.store.get(tokenKey)).to.equal(undefined);
    expect(await world.store.get(keys.grant(grant.id))).to.equal(undefined);
    expect(await world.store.count(indexes.operations)).to.equal(0);
    expect(await world.store.count(indexes.tokensOf(grant.id))).to.equal(0);
    expect(await world.store.count(indexes.tokensOf(gone.id))).to.equal(0);
    expect(await world.store.count(indexes.tokensOf(kept.id))).to.equal(1);
    expect((await world.volume(kept.id)).state).to.equal('available');
  });
});
