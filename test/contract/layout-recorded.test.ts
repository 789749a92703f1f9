import { expect } from 'chai';
import { MoorageError } from '../../src/core/errors.js';
import { listAll } from '../../src/core/journal/agents.js';
import { indexes, keys } from '../../src/core/journal/documents.js';
import { LAYOUT } from '../../src/core/journal/layout.js';
import type { Store } from '../../src/core/ports/store.js';
import type { CreateSnapshot, CreateVolume, ExportVolume, GrantExport } from '../../src/core/services/types.js';
import { defaultRedisOptions, openRedisStore } from '../../src/store/redis/index.js';
import { openSqliteStore } from '../../src/store/sqlite/index.js';
import { admin, CoreWorld, callerOf, change, expectFailure, MEBIBYTE, mutation } from '../helpers/core-world.js';
import { copyDocuments, type RecordedCall, type Recording, unpack } from '../helpers/recorded-store.js';
import { type RedisGroup, startRedis } from '../helpers/redis.js';

/*
 * A store of each earlier layout, as the version that had it left it, is taken up by this one: every document, every lock,
 * every operation that ran, every client token.
 */

for (let layout = 1; layout < LAYOUT; layout += 1) {
  for (const kind of ['sqlite', 'redis'] as const) {
    describe(`a store of layout ${layout}, on ${kind}`, function () {
      this.timeout(60_000);
      let redis: RedisGroup | undefined;
      let world: CoreWorld;
      let recording: Recording;

      before(async () => {
        if (kind === 'redis') redis = await startRedis();
      });
      after(() => redis?.remove());

      beforeEach(async () => {
        const unpacked = unpack(layout);
        recording = unpacked.recording;
        let store: Store;
        if (redis === undefined) store = await openSqliteStore({ path: unpacked.path });
        else {
          const place = { kind: 'server', address: redis.servers[0]?.address ?? '' } as const;
          const prefix = `${Math.random()}:`;
          store = await openRedisStore({ ...defaultRedisOptions, place, prefix, leastReplicas: 0 });
          await copyDocuments(unpacked.path, store);
        }
        // No controller of an earlier layout serves a store that it shares: its record is of one that is dead.
        world = await CoreWorld.open({ folder: unpacked.folder, store });
        world.fake.load(recording.backend);
        world.ahead = recording.now - Date.now();
      });
      afterEach(() => world.end());

      const id = (name: string): string => recording.resources[name] ?? '';
      const layoutNow = async (): Promise<unknown> => (await world.store.get(keys.layout))?.value;

      it('is brought to this one, and what ran goes on to its end', async () => {
        await world.start();
        expect(await layoutNow()).to.deep.equal({ version: LAYOUT, migrated: LAYOUT });
        expect((await world.running()).length).to.be.greaterThan(10);
        await world.idle();
        const operations = await world.core.services.operations.list(
          { pageSize: 1000, pageToken: '', resourceId: '', states: [] },
          admin(),
        );
        expect(operations.items.filter(({ state }) => state !== 'succeeded')).to.deep.equal([]);
        expect((await world.volume(id('forDelete'))).state).to.equal('deleted');
        expect((await world.volume(id('forExpand'))).sizeBytes).to.equal(8 * MEBIBYTE);
        expect((await world.volume(id('forUndelete'))).state).to.equal('available');
        expect((await world.snapshot(id('goingSnapshot'))).state).to.equal('deleted');
        expect((await world.snapshot(id('backSnapshot'))).state).to.equal('completed');
        await expectFailure(world.core.services.exports.get(id('goingExport'), admin()), 'NOT_FOUND', 'GONE');
        await expectFailure(world.core.services.volumes.get(id('purged'), admin()), 'NOT_FOUND', 'GONE');
        expect(world.fake.read(await world.imageName(id('plain')), 0)).to.equal('later');
        expect(world.fake.read(await world.imageName(id('clone')), 0)).to.equal('zero');
        await world.core.services.volumes.undelete(change(id('trashed')), admin());
        expect(world.fake.read(await world.imageName(id('trashed')), 0)).to.equal('kept');
        await world.expectWhole();
      });

      it('knows every call that was made', async () => {
        await world.start();
        await world.idle();
        for (const call of recording.calls)
          expect(await again(world, call).catch(goneId), call.method).to.equal(call.resourceId);
        await world.expectWhole();
      });

      it('redeems a grant that was given before', async () => {
        await world.start();
        await world.idle();
        const grantId = recording.calls.find(({ method }) => method === 'exports.grant')?.resourceId ?? '';
        const node = callerOf('node-c', 'node');
        const answer = await world.core.services.exports.export(
          { ...mutation(), volumeId: id('plain'), grantId },
          node,
        );
        expect(answer.resource.value.state).to.equal('exported');
        expect(answer.descriptor.length).to.be.greaterThan(0);
      });

      it('has what came since: everything can be watched, and a place has one pool', async () => {
        await world.start();
        await world.idle();
        const watched = new Set((await listAll(world.store, indexes.changes)).map(({ key }) => key));
        for (const index of [indexes.volumesAll, indexes.snapshotsAll, indexes.exports, indexes.nodes, indexes.pools]) {
          const all = (await listAll(world.store, index)).map(({ key }) => key);
          expect(all, index).to.not.deep.equal([]);
          expect([...watched], index).to.include.members(all);
        }
        const { services } = world.core;
        const { value } = await services.pools.get('ssd', admin());
        const { settings, undeleteWindowSeconds } = value.pool;
        await expectFailure(
          services.pools.create(
            { ...mutation(), poolId: 'second', settings, undeleteWindowSeconds, tags: {} },
            admin(),
          ),
          'ALREADY_EXISTS',
        );
      });

      it('is brought to this one however often that is interrupted', async () => {
        let interruptions = 0;
        // By two, because each controller that was interrupted is one more to be fenced.
        for (let passing = 1; ; passing += 2) {
          let commits = 0;
          world.storeFault = (method) => {
            if (method !== 'commit') return undefined;
            commits += 1;
            return commits > passing ? 'unavailable' : undefined;
          };
          const started = await world.start().then(
            () => true,
            () => false,
          );
          world.storeFault = () => undefined;
          if (started) break;
          await world.core.stop(0);
          interruptions += 1;
        }
        expect(interruptions).to.be.greaterThan(5);
        expect(await layoutNow()).to.deep.equal({ version: LAYOUT, migrated: LAYOUT });
        await world.restart();
        await world.expectWhole();
      });
    });
  }
}

/** Makes a recorded call once more. @returns the id of what it says it made */
async function again({ core }: CoreWorld, { method, request }: RecordedCall): Promise<string> {
  const { volumes, snapshots, exports } = core.services;
  switch (method) {
    case 'volumes.create':
      return (await volumes.create(request as CreateVolume, admin())).resource.value.id;
    case 'snapshots.create':
      return (await snapshots.create(request as CreateSnapshot, admin())).resource.value.id;
    case 'exports.export':
      return (await exports.export(request as ExportVolume, admin())).resource.value.id;
    case 'exports.grant':
      return (await exports.grant(request as GrantExport, admin())).resource.id;
    default:
      throw new Error(`no call ${method}`);
  }
}

/** The id in the answer that something is gone. */
function goneId(error: unknown): string {
  if (error instanceof MoorageError && error.reason === 'GONE') return error.metadata.id ?? '';
  throw error;
}
