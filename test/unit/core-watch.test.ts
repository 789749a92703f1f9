import { randomUUID } from 'node:crypto';
import { expect } from 'chai';
import { listAll } from '../../src/core/journal/agents.js';
import { indexes, keys, putNode } from '../../src/core/journal/documents.js';
import type { FeedRecord } from '../../src/core/model/resources.js';
import type { StoredDocument } from '../../src/core/ports/store.js';
import { forgetLongGone } from '../../src/core/reaper/feed-horizon.js';
import { removeExpired } from '../../src/core/reaper/janitor.js';
import type { CoreContext } from '../../src/core/services/context.js';
import { admin, CoreWorld, callerOf, change, failureOf, mutation } from '../helpers/core-world.js';
import { Watcher } from '../helpers/watcher.js';

const WINDOW = 61_000;
const DAY = 24 * 60 * 60 * 1000;

describe('core: watch', () => {
  let world: CoreWorld;
  const watchers: Watcher[] = [];
  beforeEach(async () => {
    world = await CoreWorld.make({ bookmarkIntervalMilliseconds: 50 });
  });
  afterEach(async () => {
    for (const watcher of watchers.splice(0)) await watcher.stop();
    await world.end();
  });

  function watch(...parameters: readonly unknown[]): Watcher {
    const [request, caller, state] = parameters as [
      ConstructorParameters<typeof Watcher>[1],
      ConstructorParameters<typeof Watcher>[2],
      ConstructorParameters<typeof Watcher>[3],
    ];
    const watcher = new Watcher(world.core.services.events, request, caller, state);
    watchers.push(watcher);
    return watcher;
  }

  /** What the store holds of all that can be watched, as a watcher that missed nothing has it (running operations only). */
  async function expectState(watcher: Watcher): Promise<void> {
    await world.idle();
    const wanted = new Map<string, string>();
    for (const [kind, index] of [
      ['volume', indexes.volumesAll],
      ['snapshot', indexes.snapshotsAll],
      ['export', indexes.exports],
      ['node', indexes.nodes],
      ['pool', indexes.pools],
    ] as const) {
      for (const { value, rev } of await listAll<{ id: string }>(world.store, index)) {
        wanted.set(`${kind} ${value.id}`, String(rev));
      }
    }
    const last = Math.max(...[...wanted.values()].map(Number));
    await watcher
      .until('the last change', ({ events }) =>
        events.some((event) => 'resource' in event && Number(event.resource.etag) >= last),
      )
      .catch(() => undefined);
    const state = () =>
      new Map(
        [...watcher.state]
          .filter(([, { kind }]) => kind !== 'operation')
          .map(([key, { resource }]) => [key, resource.etag]),
      );
    await watcher.until('all that there is', () => {
      const now = state();
      return now.size === wanted.size && [...wanted].every(([key, etag]) => now.get(key) === etag);
    });
    expect(watcher.older).to.deep.equal([]);
  }

  it('tells what there is, that it is all, and then each change in its order', async () => {
    const volume = await world.createVolume({ displayName: 'first' });
    const watcher = await watch().whenSynced();
    expect(watcher.story).to.deep.equal(['pool', 'node', 'node', 'node', 'volume available', 'synced']);
    const before = watcher.story.length;
    const snapshot = await world.createSnapshot(volume.id);
    const item = (await world.export(volume.id, 'node-a')).resource.value;
    await watcher.until('the export', ({ story: told }) => told.includes('export exported'));
    await world.unexport(item.id);
    await watcher.until('that the export is gone', ({ story }) => story.includes('export gone'));
    await watcher.until(
      'that the operation ended',
      ({ story }) => story.filter((line) => line === 'operation succeeded').length === 3,
    );
    const story = watcher.story.slice(before);
    expect(story.indexOf('snapshot completed')).to.be.above(-1);
    expect(story.indexOf('snapshot completed')).to.be.below(story.indexOf('export exported'));
    expect(story.indexOf('export exported')).to.be.below(story.indexOf('export gone'));
    expect(watcher.state.get(`snapshot ${snapshot.id}`)?.resource.value).to.deep.equal(
      await world.snapshot(snapshot.id),
    );
    await expectState(watcher);
  });

  it('tells what is gone: purged, ended, removed, deleted, and what could not be made', async () => {
    const watcher = await watch().whenSynced();
    world.fake.fault = (method) => (method === 'createImage' ? { kind: 'permanent', reason: 'ENOSPC' } : undefined);
    const failure = await failureOf(world.createVolume());
    world.fake.fault = () => undefined;
    await watcher.until('that nothing was made', ({ story }) => story.includes('volume gone'));
    const gone = watcher.events.find((event) => event.kind === 'gone');
    expect(gone).to.include({ type: 'volume', reason: failure.message });
    const volume = await world.createVolume();
    const snapshot = await world.createSnapshot(volume.id);
    await world.deleteVolume(volume.id);
    await world.deleteSnapshot(snapshot.id);
    world.ahead = WINDOW;
    await world.core.reap();
    await world.core.services.nodes.remove(change('node-c'), admin());
    await world.core.services.pools.delete(change('ssd'), admin());
    await watcher.until('that the pool is gone', ({ story }) => story.includes('pool gone'));
    expect(
      [...watcher.state.values()].filter(({ kind }) => kind !== 'operation').map(({ kind }) => kind),
    ).to.deep.equal(['node', 'node']);
    for (const line of ['volume gone', 'snapshot gone', 'node gone']) {
      expect(watcher.story).to.include(line);
    }
    // A name may be used again.
    await world.registerNode('node-c');
    await watcher.until('that the node is there', ({ state }) => state.has('node node-c'));
    await expectState(watcher);
  });

  it('resumes after any message and at another controller, and misses nothing', async () => {
    const first = await watch({ types: ['volume', 'snapshot'] }).whenSynced();
    const volume = await world.createVolume();
    await world.createSnapshot(volume.id);
    await world.deleteVolume(volume.id);
    await first.until('the deletion', ({ story }) => story.includes('volume deleted'));
    await first.stop();
    await world.restart();
    await world.createVolume();
    for (const [index, event] of first.events.entries()) {
      const state = new Map(
        first.events
          .slice(0, index + 1)
          .flatMap((each) =>
            'resource' in each ? [[`${each.kind} ${(each.resource.value as { id: string }).id}`, each] as const] : [],
          ),
      );
      const resumed = await watch(
        { types: ['volume', 'snapshot'], resumeToken: event.resumeToken },
        admin(),
        state,
      ).whenSynced();
      expect(resumed.state.size, `after ${index}`).to.equal(3);
      const volumes = [...resumed.state.values()]
        .map(({ resource }) => (resource.value as { state: string }).state)
        .sort();
      expect(volumes).to.deep.equal(['available', 'completed', 'deleted']);
      expect(resumed.older).to.deep.equal([]);
      await resumed.stop();
    }
  });

  it('no token is in the midst of a commit, also where a page of the feed ends', async () => {
    const first = await (await watch({ types: ['node'] }).whenSynced()).stop();
    const sample = (await world.core.services.nodes.get('node-a', admin())).value;
    const wanted = new Set<string>();
    for (let n = 0; n < 90; n += 1) {
      // Three in each commit: neither 200 nor 800 is a multiple of it.
      const ids = [`n-${n}-a`, `n-${n}-b`, `n-${n}-c`];
      for (const id of ids) wanted.add(`node ${id}`);
      await world.store.commit(ids.map((id) => putNode({ ...sample, id }, 'absent')));
    }
    const all = await watch({ types: ['node'], resumeToken: first.lastToken }).whenSynced();
    expect([...all.state.keys()].sort()).to.deep.equal([...wanted].sort());
    for (const index of [0, 1, 2, 3, 100, 196, 197, 198, 199, 200, 201, 202, 268, 269]) {
      const told = all.events
        .slice(0, index + 1)
        .map((event) => ('resource' in event ? event.resource.value : undefined));
      const seen = told.map((value) => `node ${(value as { id: string }).id}`);
      const rest = await (
        await watch({ types: ['node'], resumeToken: all.events[index]?.resumeToken ?? '' }).whenSynced()
      ).stop();
      expect(new Set([...seen, ...rest.state.keys()]).size, `after ${index}`).to.equal(wanted.size);
      // What is told again is at most the rest of one commit.
      expect(rest.state.size, `after ${index}`).to.be.at.most(wanted.size - seen.length + 2);
    }
  });

  it('a token goes on only for the same caller with the same filter, and only as it was made', async () => {
    const watcher = await watch({ types: ['volume'] }).whenSynced();
    const resumeToken = watcher.lastToken;
    const refused = async (request: object, caller = admin()) =>
      failureOf(Promise.reject((await watch({ types: ['volume'], resumeToken, ...request }, caller).end()).failure));
    for (const error of [
      await refused({ types: [] }),
      await refused({ poolId: 'ssd' }),
      await refused({}, callerOf('another', 'admin')),
      await refused({}, callerOf('root', 'reader')),
      await refused({ resumeToken: `${resumeToken.slice(0, -2)}AA` }),
      await refused({ resumeToken: 'x' }),
    ]) {
      expect(error.code).to.equal('INVALID_ARGUMENT');
      expect(error.fieldViolations[0]?.field).to.equal('resume_token');
    }
    const page = await world.core.services.volumes.list(
      { pageSize: 1, pageToken: '', poolId: '', sourceSnapshotId: '', states: [], tags: {} },
      admin(),
    );
    expect((await refused({ resumeToken: page.nextPageToken || 'AAAA' })).code).to.equal('INVALID_ARGUMENT');
  });

  it('filters by kind and by pool', async () => {
    await world.core.services.pools.create(
      {
        ...mutation(),
        poolId: 'hdd',
        settings: { backend: 'rbd', cluster: 'main', cephPool: 'hdd', access: 'managed', keyringUser: '' },
        undeleteWindowSeconds: 0,
        tags: {},
      },
      admin(),
    );
    const old = await world.createVolume({ poolId: 'hdd' });
    const ofPool = await watch({ poolId: 'hdd' }).whenSynced();
    const exports = await watch({ types: ['export'] }).whenSynced();
    const other = await world.createVolume();
    await world.export(other.id, 'node-a');
    const item = (await world.export(old.id, 'node-a')).resource.value;
    await world.unexport(item.id);
    await world.deleteVolume(old.id);
    world.ahead = 1_000;
    await world.core.reap();
    await ofPool.until('that the volume is gone', ({ story }) => story.includes('volume gone'));
    await exports.until('the end of the second', ({ story }) => story.includes('export gone'));
    expect([...ofPool.state.keys()].filter((key) => !key.startsWith('operation'))).to.deep.equal(['pool hdd']);
    expect(ofPool.story).to.include.members(['export gone', 'volume gone', 'operation succeeded']);
    expect(JSON.stringify(ofPool.events)).not.to.include(other.id);
    expect(new Set(exports.story.map((line) => line.split(' ')[0]))).to.deep.equal(new Set(['synced', 'export']));
    expect(exports.state.size).to.equal(1);
  });

  it('tells a node of its own exports and of nothing else', async () => {
    const { id } = await world.createVolume({ multiAttach: true });
    const mine = (await world.export(id, 'node-a')).resource.value;
    const node = await watch({}, callerOf('node-a', 'node')).whenSynced();
    const theirs = (await world.export(id, 'node-b')).resource.value;
    await world.unexport(theirs.id);
    await world.unexport(mine.id);
    const again = (await world.export(id, 'node-a')).resource.value;
    await node.until('the last', ({ state }) => state.has(`export ${again.id}`));
    expect(node.story).to.include.members(['export exported', 'export gone', 'synced']);
    expect(new Set(node.story.map((line) => line.split(' ')[0]))).to.deep.equal(new Set(['export', 'synced']));
    expect(JSON.stringify(node.events)).not.to.include(theirs.id);
    for (const type of ['volume', 'node', 'operation'] as const) {
      const { failure } = await watch({ types: ['export', type] }, callerOf('node-a', 'node')).end();
      expect(failure).to.include({ code: 'PERMISSION_DENIED', reason: 'TYPE_NOT_ALLOWED' });
    }
    const reader = await watch({}, callerOf('r', 'reader')).whenSynced();
    expect(reader.story).to.include.members(['pool', 'node', 'volume available']);
  });

  it('tells what other controllers commit, without a word from them', async () => {
    const watcher = await watch({ types: ['node'] }).whenSynced();
    const sample = (await world.core.services.nodes.get('node-a', admin())).value;
    // Past the controller that is watched.
    await world.store.commit([putNode({ ...sample, id: 'node-z' }, 'absent')]);
    await watcher.until('the node', ({ state }) => state.has('node node-z'));
  });

  it('says where it is while nothing happens, also to one that is told of nothing', async () => {
    const watcher = await watch({ types: ['snapshot'] }).whenSynced();
    await world.createVolume();
    const seen = watcher.events.length;
    await watcher.until(
      'two bookmarks',
      ({ events }) => events.slice(seen).filter(({ kind }) => kind === 'bookmark').length >= 2,
    );
    expect(watcher.story).to.deep.equal(['synced']);
    const resumed = await watch({ types: ['snapshot'], resumeToken: watcher.lastToken }).whenSynced();
    expect(resumed.story).to.deep.equal(['synced']);
  });

  /** The context of the core that runs now, as the reaper has it. */
  function janitor(eventRetentionMilliseconds = DAY): CoreContext {
    const clock = { now: () => Date.now() + world.ahead };
    const settings = { eventRetentionMilliseconds };
    const liveCheck = () => ({ kind: 'check', key: 'none', expect: 'any' });
    return {
      store: world.store,
      clock,
      settings,
      liveCheck,
      refreshMembership: async () => true,
    } as unknown as CoreContext;
  }

  it('a token expires once something that it has not been told of is forgotten, and not before', async () => {
    const watcher = await watch({ types: ['volume', 'export'] }).whenSynced();
    const volume = await world.createVolume();
    const item = (await world.export(volume.id, 'node-a')).resource.value;
    await watcher.until('the export', ({ state }) => state.has(`export ${item.id}`));
    await watcher.stop();
    const before = watcher.lastToken;
    await world.unexport(item.id);
    world.ahead = DAY - 60_000;
    expect(await forgetLongGone(janitor())).to.equal(0);
    const told = await watch({ types: ['volume', 'export'], resumeToken: before }).whenSynced();
    expect(told.story).to.include('export gone');
    const after = (await told.stop()).lastToken;
    world.ahead = DAY + 60_000;
    expect(await forgetLongGone(janitor())).to.equal(1);
    expect(await forgetLongGone(janitor())).to.equal(0);
    const late = await watch({ types: ['volume', 'export'], resumeToken: before }).end();
    expect(late.failure).to.include({ code: 'OUT_OF_RANGE', reason: 'RESUME_TOKEN_EXPIRED' });
    expect(late.events).to.deep.equal([]);
    const fresh = await watch({ types: ['volume', 'export'], resumeToken: after }).whenSynced();
    expect(fresh.story).to.deep.equal(['synced']);
    // What is left of it stays, and is what it was.
    expect((await world.unexport(item.id)).resource).to.equal(undefined);
    expect((await failureOf(world.core.services.exports.get(item.id, admin()))).reason).to.equal('GONE');
    // Nobody is told of it any more, nor is it among the changes.
    const changes = await listAll(world.store, indexes.changes);
    expect(changes.map(({ key }) => key)).not.to.include(keys.export(item.id));
  });

  it('a token expires with the operations that end unseen, and with a node that is removed', async () => {
    const watcher = await (await watch().whenSynced()).stop();
    await world.createVolume();
    world.ahead = DAY + 60_000;
    await removeExpired(janitor());
    expect((await watch({ resumeToken: watcher.lastToken }).end()).failure).to.include({ code: 'OUT_OF_RANGE' });
    const second = await (await watch().whenSynced()).stop();
    await world.core.services.nodes.remove(change('node-c'), admin());
    world.ahead += DAY + 60_000;
    await removeExpired(janitor());
    await forgetLongGone(janitor());
    expect(await world.store.get(keys.gone('node', 'node-c'))).to.equal(undefined);
    expect((await watch({ resumeToken: second.lastToken }).end()).failure).to.include({ code: 'OUT_OF_RANGE' });
  });

  it('one that is watching all the time is never told that it is too late', async () => {
    const watcher = await watch().whenSynced();
    for (let round = 0; round < 5; round += 1) {
      const volume = await world.createVolume();
      await world.deleteVolume(volume.id);
      // Seen here, so that its absence below says that its end was seen too, and not that the watcher is a day behind.
      await expectState(watcher);
      world.ahead += DAY;
      await world.core.reap();
      await expectState(watcher);
      await removeExpired(janitor());
      await forgetLongGone(janitor());
    }
    await expectState(watcher);
    expect(watcher.failure).to.equal(undefined);
  });

  it('a token of another store, or of a later state of this one, is too old', async () => {
    const watcher = await watch().whenSynced();
    await world.createVolume();
    await watcher.until('the volume', ({ story }) => story.includes('volume available'));
    const { lastToken } = await watcher.stop();
    const feed = (await world.store.get<FeedRecord>(keys.feed)) as StoredDocument<FeedRecord>;
    await world.store.commit([
      { kind: 'put', key: keys.feed, expect: feed.rev, value: { ...feed.value, epoch: randomUUID() }, indexes: [] },
    ]);
    expect((await watch({ resumeToken: lastToken }).end()).failure).to.include({ code: 'OUT_OF_RANGE' });
  });

  it('ends with a last place and UNAVAILABLE when the server drains or the controller is lost', async () => {
    const drained = await (await watch().whenSynced()).drain();
    expect(drained.failure).to.include({ code: 'UNAVAILABLE', reason: 'WATCH_INTERRUPTED' });
    expect(drained.events.at(-1)?.kind).to.equal('bookmark');
    const left = await watch().whenSynced();
    await world.createVolume();
    await world.restart();
    await left.end();
    expect(left.failure).to.include({ code: 'UNAVAILABLE' });
    const resumed = await watch({ resumeToken: left.lastToken }, admin(), left.state).whenSynced();
    await expectState(resumed);
    const stopped = await (await watch().whenSynced()).stop();
    expect(stopped.failure).to.equal(undefined);
  });

  it('lets nobody have too many, and counts those that ended no more', async () => {
    await world.end();
    world = await CoreWorld.make({ maximumWatches: 3, maximumWatchesPerCaller: 2 });
    const first = await watch().whenSynced();
    await watch().whenSynced();
    const third = await watch().end();
    expect(third.failure).to.include({ code: 'RESOURCE_EXHAUSTED', reason: 'TOO_MANY_WATCHES' });
    await watch({}, callerOf('other', 'admin')).whenSynced();
    expect((await watch({}, callerOf('other', 'admin')).end()).failure).to.include({ code: 'RESOURCE_EXHAUSTED' });
    await first.stop();
    await watch({}, callerOf('other', 'admin')).whenSynced();
    // A request that is refused takes no place.
    for (let n = 0; n < 5; n += 1) await watch({ resumeToken: 'x' }, callerOf('third', 'admin')).end();
    expect((await watch({}, callerOf('third', 'admin')).end()).failure).to.include({ reason: 'TOO_MANY_WATCHES' });
  });

  it('misses nothing while everything changes: many that come, stop and go on', async () => {
    await world.end();
    world = await CoreWorld.make({ bookmarkIntervalMilliseconds: 20 });
    let working = true;
    const worker = async (): Promise<void> => {
      while (working) {
        const volume = await world.createVolume();
        const update = { updateMask: ['display_name'], displayName: randomUUID(), tags: {} };
        await world.core.services.volumes.update({ ...change(volume.id), ...update }, admin());
        const item = (await world.export(volume.id, 'node-a')).resource.value;
        await world.unexport(item.id);
        if (Math.random() < 0.7) await world.deleteVolume(volume.id);
      }
    };
    const reaper = async (): Promise<void> => {
      while (working) {
        world.ahead += WINDOW;
        await world.core.reap();
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    };
    const work = Promise.all([worker(), worker(), worker(), reaper()]);
    const chains = await Promise.all(
      Array.from({ length: 6 }, async (_, n) => {
        let watcher = watch({}, callerOf(`w${n}`, 'admin'));
        for (let turn = 0; turn < 8; turn += 1) {
          const wanted = 1 + Math.floor(Math.random() * 40);
          await watcher.until('a few things', ({ events }) => events.length >= wanted);
          await (turn % 2 === 0 ? watcher.stop() : watcher.drain());
          watcher = watch({ resumeToken: watcher.lastToken }, callerOf(`w${n}`, 'admin'), watcher.state);
        }
        return watcher;
      }),
    );
    working = false;
    await work;
    for (const watcher of chains) await expectState(watcher);
  });
});
