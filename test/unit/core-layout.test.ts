import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { listAll } from '../../src/core/journal/agents.js';
import { indexes, keys, putBeat, putController, putLayout, putOperation } from '../../src/core/journal/documents.js';
import { LAYOUT, Layout } from '../../src/core/journal/layout.js';
import { layoutSteps } from '../../src/core/journal/layout-steps.js';
import { newId } from '../../src/core/model/ids.js';
import type { ControllerRecord, Operation, OperationKind } from '../../src/core/model/operation.js';
import { type Store, type StoredDocument, StoreError, type Write } from '../../src/core/ports/store.js';
import { openSqliteStore } from '../../src/store/sqlite/index.js';
import { admin, CoreWorld, change, expectFailure, mutation } from '../helpers/core-world.js';
import { waitFor } from '../helpers/wait.js';

const BEAT_TIMEOUT = 2_000;
const silent = { notice: () => undefined };
/** The place of a controller that lives whatever happens. */
const live = {
  liveCheck: (): Write => ({ kind: 'check', key: keys.layout, expect: 'any' }),
  refresh: async () => true,
};

/** A controller of another version: its record, and its beat. */
class OtherVersion {
  readonly inc: string;
  readonly #store: Store;
  readonly #beating: NodeJS.Timeout;
  #record: ControllerRecord;

  private constructor(store: Store, record: ControllerRecord) {
    this.#store = store;
    this.#record = record;
    this.inc = record.inc;
    let beat = 0;
    this.#beating = setInterval(() => {
      beat += 1;
      void store.commit([putBeat(record.inc, beat, 'any')]);
    }, BEAT_TIMEOUT / 20);
  }

  /** @param layout what it says that it understands; undefined: it is of a version that did not say so */
  static async start(store: Store, layout: number | undefined): Promise<OtherVersion> {
    const record: ControllerRecord = {
      inc: `other-${Math.random()}`,
      state: 'live',
      agents: [],
      description: 'of another version',
      ...(layout === undefined ? {} : { layout }),
    };
    await store.commit([putController(record, 'absent'), putBeat(record.inc, 0, 'absent')]);
    return new OtherVersion(store, record);
  }

  /** It freezes, or dies. */
  end(): void {
    clearInterval(this.#beating);
  }

  /** It stops in good order. */
  async leave(): Promise<void> {
    this.end();
    this.#record = { ...this.#record, state: 'left' };
    await this.#store.commit([putController(this.#record, 'any')]);
  }
}

describe('core: versions side by side', () => {
  let store: Store;
  let world: CoreWorld;
  let other: OtherVersion | undefined;

  beforeEach(async () => {
    const folder = mkdtempSync(join(tmpdir(), 'moorage-core-'));
    store = await openSqliteStore({ path: join(folder, 'store.sqlite') });
    const overrides = { storeIsExclusive: false, beatTimeoutMilliseconds: BEAT_TIMEOUT };
    world = await CoreWorld.open({ folder, store, overrides });
  });
  afterEach(async () => {
    other?.end();
    other = undefined;
    await world.end();
  });

  const layoutNow = async (): Promise<unknown> => (await store.get(keys.layout))?.value;
  const setUp = async (): Promise<void> => {
    await world.core.services.pools.create(
      {
        ...mutation(),
        poolId: 'ssd',
        settings: { backend: 'rbd', cluster: 'main', cephPool: 'ssd', access: 'managed', keyringUser: '' },
        undeleteWindowSeconds: 60,
        tags: {},
      },
      admin(),
    );
  };
  const rename = (volumeId: string): Promise<unknown> =>
    world.core.services.volumes.update(
      { ...change(volumeId), displayName: 'other', tags: {}, updateMask: ['display_name'] },
      admin(),
    );

  it('an empty store gets the newest layout at once', async () => {
    await world.start();
    expect(await layoutNow()).to.deep.equal({ version: LAYOUT, migrated: LAYOUT });
  });

  for (const [how, end] of [
    ['it has stopped', (one: OtherVersion) => one.leave()],
    ['it is dead and fenced', (one: OtherVersion) => one.end()],
  ] as const) {
    it(`nothing new is used beside an older one that lives, and all of it once ${how}`, async () => {
      other = await OtherVersion.start(store, undefined);
      await world.start();
      await setUp();
      const { id } = await world.createVolume();
      const passed = performance.now() + BEAT_TIMEOUT;
      await waitFor('several looks at the others', () => performance.now() > passed, { intervalMilliseconds: 20 });
      expect(await layoutNow()).to.deep.equal({ version: 1, migrated: 1 });
      await expectFailure(rename(id), 'FAILED_PRECONDITION', 'UPGRADE_UNDER_WAY');
      await end(other);
      await waitFor('the newest layout', async () => {
        const now = (await layoutNow()) as { version: number; migrated: number };
        return now.version === LAYOUT && now.migrated === LAYOUT;
      });
      const left = (await listAll<ControllerRecord>(store, indexes.controllers)).map(({ value }) => value);
      expect(left.filter(({ state }) => state === 'live').map(({ inc }) => inc)).to.deep.equal([world.core.inc]);
      await rename(id);
      expect((await world.volume(id)).displayName).to.equal('other');
    });
  }

  it('one that does not understand the layout in use does not start, and changes nothing', async () => {
    await store.commit([putLayout({ version: LAYOUT + 1, migrated: LAYOUT + 1 }, 'absent')]);
    other = await OtherVersion.start(store, LAYOUT + 1);
    const refused: unknown = await world.start().catch((error: unknown) => error);
    expect(refused).to.be.instanceOf(StoreError).and.have.property('kind', 'newer-version');
    expect(String(refused)).to.match(
      new RegExp(`layout ${LAYOUT + 1}; this one understands ${LAYOUT}.*run that version.*nothing was changed`),
    );
    expect((await listAll<ControllerRecord>(store, indexes.controllers)).map(({ value }) => value.inc)).to.deep.equal([
      other.inc,
    ]);
  });

  it('a newer one waits with its layout for this one, and goes on serving beside it', async () => {
    await world.start();
    const done: string[] = [];
    const newer = new Layout({
      store,
      events: silent,
      steps: [...layoutSteps, async () => void done.push('third')],
    });
    other = await OtherVersion.start(store, newer.understood);
    expect(await newer.raise(live)).to.equal(false);
    expect(await layoutNow()).to.deep.equal({ version: LAYOUT, migrated: LAYOUT });
    await setUp();
    await world.createVolume();
    await world.core.stop(0);
    await world.core.leave();
    expect(await newer.raise(live)).to.equal(true);
    expect(await layoutNow()).to.deep.equal({ version: LAYOUT + 1, migrated: LAYOUT + 1 });
    expect(done).to.deep.equal(['third']);
  });

  it('an older one that has started while the layout was about to be raised is seen', async () => {
    await store.commit([putLayout({ version: LAYOUT, migrated: LAYOUT }, 'absent')]);
    let release = (): void => undefined;
    const until = new Promise<void>((resolve) => {
      release = resolve;
    });
    let held = false;
    const slow: Store = {
      ...bound(store),
      commit: async (writes) => {
        if (!held) {
          held = true;
          await until;
        }
        return store.commit(writes);
      },
    };
    const raised = new Layout({ store: slow, events: silent, steps: [...layoutSteps, async () => undefined] }).raise(
      live,
    );
    await waitFor('it to be about to raise', () => held, { intervalMilliseconds: 2 });
    await world.start();
    release();
    expect(await raised).to.equal(false);
    expect(await layoutNow()).to.deep.equal({ version: LAYOUT, migrated: LAYOUT });
  });

  it('an older one that was about to start when the layout was raised is turned away', async () => {
    await store.commit([putLayout({ version: LAYOUT, migrated: LAYOUT }, 'absent')]);
    const newer = new Layout({ store, events: silent, steps: [...layoutSteps, async () => undefined] });
    let held = false;
    world.storeFault = (method) => {
      if (method !== 'get' || held) return undefined;
      held = true;
      return newer.raise(live).then(() => undefined);
    };
    const refused: unknown = await world.start().catch((error: unknown) => error);
    expect(held).to.equal(true);
    expect(refused).to.be.instanceOf(StoreError).and.have.property('kind', 'newer-version');
    expect(await listAll(store, indexes.controllers)).to.deep.equal([]);
  });

  it('an operation that a newer version had begun is kept as it is, and not run; its lock is broken', async () => {
    await world.start();
    await setUp();
    const volume = await world.createVolume();
    const dead = '10.9.9.9:0/1';
    const record: ControllerRecord & Record<string, unknown> = {
      inc: 'newer',
      state: 'left',
      agents: [{ agentId: 'data-of-newer', cluster: 'main', role: 'data', addresses: [dead], dead: false }],
      description: 'newer',
      layout: LAYOUT + 1,
      somethingNew: 'kept',
    };
    world.fake.images.get(volume.image?.backendId ?? '')?.locks.add(dead);
    const operation: Operation & Record<string, unknown> = {
      id: newId('op'),
      kind: 'volume.compress' as OperationKind,
      resourceId: volume.id,
      poolId: 'ssd',
      owner: 'newer',
      state: 'running',
      phase: 'squeeze',
      plan: { ratio: 2 },
      locks: [],
      progressPercent: 7,
      statusMessage: '',
      principal: 'root',
      createTime: 1,
      updateTime: 1,
      somethingNew: { also: 'kept' },
    };
    await store.commit([putController(record, 'absent'), putOperation(operation, 'absent')]);
    const read = (): Promise<StoredDocument | undefined> => store.get(keys.operation(operation.id));
    await waitFor('it to be taken over', async () => (await store.get(keys.controller('newer'))) === undefined);
    const { notices } = world;
    await waitFor('it to be left alone', () => notices.some((line) => line.includes('does not know')));
    expect((await read())?.value).to.deep.equal({ ...operation, owner: world.core.inc });
    expect([...(world.fake.images.get(volume.image?.backendId ?? '')?.locks ?? [])]).to.deep.equal([]);
    await world.createVolume();
    // It stands in nobody's way, and goes on to whoever is next.
    const before = world.core;
    await before.stop(10_000);
    await before.leave();
    await world.start();
    await waitFor('the next one to have it', async () => {
      const now = (await read())?.value as Operation;
      return now.owner === world.core.inc;
    });
    expect((await read())?.value).to.deep.equal({ ...operation, owner: world.core.inc });
  });
});

/** The methods of a store, for one that changes some of them. */
function bound(store: Store): Store {
  return {
    get: (key) => store.get(key),
    getMany: (all) => store.getMany(all),
    list: (index, range) => store.list(index, range),
    count: (index) => store.count(index),
    commit: (writes) => store.commit(writes),
    backup: (path, writes) => store.backup(path, writes),
    close: () => store.close(),
  };
}
