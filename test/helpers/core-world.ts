import { randomUUID } from 'node:crypto';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { MoorageError } from '../../src/core/errors.js';
import { type Core, type CoreSettings, createCore, defaultCoreSettings } from '../../src/core/index.js';
import { listAll } from '../../src/core/journal/agents.js';
import { indexes, keys } from '../../src/core/journal/documents.js';
import { lockKeys } from '../../src/core/journal/locks.js';
import type { Operation } from '../../src/core/model/operation.js';
import type { Debris, Export, PointInTime, Snapshot, Volume } from '../../src/core/model/resources.js';
import type { NodeCertificateIssuer } from '../../src/core/ports/certificates.js';
import type { Clock } from '../../src/core/ports/clock.js';
import type { Vault } from '../../src/core/ports/sealer.js';
import { type Store, StoreError } from '../../src/core/ports/store.js';
import type { Caller, Changed, CreateVolume, Exported, Role, Versioned } from '../../src/core/services/types.js';
import { generateKeyPair } from '../../src/descriptor/index.js';
import {
  createDescriptorSealer,
  createMasterKeyFile,
  createVault,
  loadMasterKeyFile,
} from '../../src/sealing/index.js';
import { openSqliteStore } from '../../src/store/sqlite/index.js';
import { type FakeAgents, FakeBackend, type FakeImage } from './fake-backend.js';
import { Freezer } from './freezer.js';
import { waitFor } from './wait.js';

export const MEBIBYTE = 1024 * 1024;

/** What goes wrong with a call of the store; `after` takes effect all the same, and is answered late with a promise. */
export type StoreFault = 'unavailable' | 'unknown-after' | 'hang' | Promise<void>;

/** The core on a store of its own and a fake backend; controllers of it start, stop and die as a test wants. */
export class CoreWorld {
  readonly fake = new FakeBackend();
  /** Milliseconds that the wall clock is ahead: windows and lifetimes end when a test says so. */
  ahead = 0;
  readonly notices: string[] = [];
  /** Says what goes wrong with a call of the store; asked for each. */
  storeFault: (method: 'get' | 'getMany' | 'list' | 'commit') => StoreFault | undefined = () => undefined;
  /** `inc` of the controller that made each pass of the reaper. */
  readonly reaped: string[] = [];
  core!: Core;
  /** Freezes the controller that was started last. */
  freezer!: Freezer;
  agents!: FakeAgents;
  lost = 0;
  /** Time of the primary, where the store is one whose primary changes; a controller that starts then sees it. */
  primary: string | undefined;
  /** Signs certificates of nodes, for controllers that start from then on. */
  issuer: NodeCertificateIssuer | undefined;
  readonly store: Store;
  readonly #folder: string;
  readonly #vault: Vault;
  readonly controllerKeys = generateKeyPair();
  readonly #sealer = createDescriptorSealer(this.controllerKeys);
  readonly #overrides: Partial<CoreSettings>;
  readonly #cores: Core[] = [];
  readonly #freezers: Freezer[] = [];
  readonly #keys = generateKeyPair();
  #background: Promise<unknown>[] = [];

  private constructor(folder: string, store: Store, vault: Vault, overrides: Partial<CoreSettings>) {
    this.store = store;
    this.#vault = vault;
    this.#folder = folder;
    this.#overrides = overrides;
    this.fake.onAgentDeath = (agents) => {
      if (agents === this.agents) this.killData();
      else this.fake.killData(agents);
    };
  }

  /** A world with a started controller, one pool "ssd" and the nodes "node-a", "node-b" and "node-c". */
  static async make(overrides: Partial<CoreSettings> = {}, issuer?: NodeCertificateIssuer): Promise<CoreWorld> {
    const folder = mkdtempSync(join(tmpdir(), 'moorage-core-'));
    const store = await openSqliteStore({ path: join(folder, 'store.sqlite') });
    const world = await CoreWorld.open({ folder, store, overrides });
    world.issuer = issuer;
    await world.start();
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
    for (const nodeId of ['node-a', 'node-b', 'node-c']) await world.registerNode(nodeId);
    return world;
  }

  /**
   * A world on a store of the test's own, with no controller yet.
   * @param options.folder goes with the world; may hold `master.key` already
   */
  static async open(options: {
    readonly folder: string;
    readonly store: Store;
    readonly overrides?: Partial<CoreSettings>;
  }): Promise<CoreWorld> {
    const { folder, store, overrides = {} } = options;
    const keyFile = join(folder, 'master.key');
    if (!existsSync(keyFile)) await createMasterKeyFile(keyFile);
    const vault = createVault(await loadMasterKeyFile(keyFile));
    return new CoreWorld(folder, store, vault, overrides);
  }

  async registerNode(nodeId: string): Promise<void> {
    await this.core.services.nodes.register(
      {
        ...mutation(),
        nodeId,
        publicKey: this.#keys.publicKey,
        storageAddresses: [],
        initiatorName: '',
        tags: {},
      },
      admin(),
    );
  }

  /** Starts another controller on the store. The one before, if it still runs, is taken for dead. */
  async start(): Promise<void> {
    const freezer = new Freezer();
    const sleeper = freezer.wrap({
      sleep: (milliseconds: number, signal?: AbortSignal) =>
        sleep(milliseconds, undefined, { ref: false, ...(signal && { signal }) }).catch(() => undefined),
    });
    const clock: Clock = {
      now: () => Date.now() + this.ahead,
      monotonic: () => performance.now(),
      sleep: (milliseconds, signal) => sleeper.sleep(milliseconds, signal),
    };
    const agents = this.fake.attach();
    const backend = { data: freezer.wrap(agents.backend.data), fence: freezer.wrap(agents.backend.fence) };
    const core: Core = createCore({
      store: freezer.wrap(this.#faultyStore()),
      backend: () => backend,
      vault: this.#vault,
      sealer: this.#sealer,
      issuer: this.issuer,
      clock,
      metrics: {
        operationEnded: () => undefined,
        journalLength: () => undefined,
        reaperPass: () => this.reaped.push(core.inc),
      },
      events: { notice: ({ level, message }) => this.notices.push(`${level}: ${message}`) },
      settings: {
        ...defaultCoreSettings,
        stepTimeoutMilliseconds: 1_000,
        retryLimitMilliseconds: 20,
        reaperIntervalMilliseconds: 3_600_000,
        ...this.#overrides,
      },
      onLost: () => {
        this.lost += 1;
      },
    });
    this.core = core;
    this.freezer = freezer;
    this.#freezers.push(freezer);
    this.agents = agents;
    this.#cores.push(core);
    await core.start();
    await core.lifecycle.admit(agents.fence);
    this.#admitData(core, agents);
  }

  #faultyStore(): Store {
    const spoil = async <T>(method: 'get' | 'getMany' | 'list' | 'commit', call: () => Promise<T>): Promise<T> => {
      const fault = this.storeFault(method);
      if (fault === 'unavailable') throw new StoreError('unavailable', 'the store is away');
      if (fault === 'hang') return new Promise(() => undefined);
      const result = await call();
      if (fault instanceof Promise) await fault;
      if (fault === 'unknown-after') throw new StoreError('unknown', 'whether it took place is not known');
      return result;
    };
    const { store } = this;
    return {
      ...(this.primary !== undefined && {
        onPrimaryChange: () => () => undefined,
        primaryTime: () => Promise.resolve(this.primary),
      }),
      get: (key) => spoil('get', () => store.get(key)),
      getMany: (keys) => spoil('getMany', () => store.getMany(keys)),
      list: (index, range) => spoil('list', () => store.list(index, range)),
      count: (index) => store.count(index),
      commit: (writes) => spoil('commit', () => store.commit(writes)),
      backup: (path, writes) => store.backup(path, writes),
      close: () => store.close(),
    };
  }

  /** Stops the controller as SIGTERM does, without waiting for its operations, and starts another one. */
  async restart(): Promise<void> {
    await this.core.stop(0);
    await this.start();
  }

  /** Kills the data agent, as the supervision does it: the core hears of it, and admits the successor. */
  killData(): void {
    const { core, agents } = this;
    const dead = this.fake.killData(agents);
    this.#background.push(core.lifecycle.died(dead).catch(() => undefined));
    this.#admitData(core, agents);
  }

  /** Waits until the agents that started are admitted. */
  async admitted(): Promise<void> {
    await Promise.all(this.#background);
    await this.agents.admitted;
  }

  #admitData(core: Core, agents: FakeAgents): void {
    const identity = agents.data;
    const admit = async () => {
      while (agents.data === identity) {
        try {
          await core.lifecycle.admit(identity);
          if (agents.data === identity) agents.admit();
          return;
        } catch {
          if (core !== this.core) return;
          await sleep(5);
        }
      }
    };
    this.#background.push(admit());
  }

  /** Stops everything and removes the store. */
  async end(): Promise<void> {
    this.storeFault = () => undefined;
    for (const freezer of this.#freezers) freezer.thaw();
    for (const core of this.#cores) await core.stop(0).catch(() => undefined);
    await Promise.all(this.#background);
    await this.store.close();
    rmSync(this.#folder, { recursive: true, force: true });
  }

  // --- what a caller does -------------------------------------------------------------------------------------------

  async createVolume(request: Partial<CreateVolume> = {}, caller = admin()): Promise<Volume> {
    return (await this.core.services.volumes.create(volumeRequest(request), caller)).resource.value;
  }

  async createSnapshot(volumeId: string, clientToken: string = randomUUID()): Promise<Snapshot> {
    const request = { clientToken, validateOnly: false, volumeId, etag: '', displayName: '', tags: {} };
    return (await this.core.services.snapshots.create(request, admin())).resource.value;
  }

  createFrom(snapshotId: string): Promise<Volume> {
    return this.createVolume({ poolId: '', sizeBytes: 0, sourceSnapshotId: snapshotId });
  }

  async deleteVolume(id: string): Promise<Volume | undefined> {
    return (await this.core.services.volumes.delete(change(id), admin())).resource?.value;
  }

  async deleteSnapshot(id: string): Promise<Snapshot | undefined> {
    return (await this.core.services.snapshots.delete(change(id), admin())).resource?.value;
  }

  export(
    volumeId: string,
    nodeId: string,
    options: { instance?: string; migration?: boolean; readOnly?: boolean; clientToken?: string } = {},
  ): Promise<Exported> {
    const { instance = '', migration = false, readOnly = false, clientToken = randomUUID() } = options;
    return this.core.services.exports.export(
      {
        clientToken,
        validateOnly: false,
        volumeId,
        grantId: '',
        direct: { nodeId, instance, migration, readOnly, descriptorLifetimeMilliseconds: 0 },
      },
      admin(),
    );
  }

  unexport(exportId: string, force = false, caller = admin()): Promise<Changed<Versioned<Export> | undefined>> {
    return this.core.services.exports.unexport({ ...mutation(), exportId, force }, caller);
  }

  // --- what a test asks ---------------------------------------------------------------------------------------------

  volume(id: string): Promise<Volume> {
    return this.core.services.volumes.get(id, admin()).then(({ value }) => value);
  }

  snapshot(id: string): Promise<Snapshot> {
    return this.core.services.snapshots.get(id, admin()).then(({ value }) => value);
  }

  /** Name of the volume's image on the backend now. */
  async imageName(volumeId: string): Promise<string> {
    const { image } = await this.volume(volumeId);
    if (image === undefined) throw new Error(`${volumeId} has no image`);
    return image.name;
  }

  /** Waits until no operation runs. */
  async idle(): Promise<void> {
    await waitFor(
      'no operation to run',
      async () => (await listAll(this.store, indexes.operationsRunning)).length === 0,
      { intervalMilliseconds: 2 },
    );
  }

  async running(): Promise<readonly Operation[]> {
    return (await listAll<Operation>(this.store, indexes.operationsRunning)).map(({ value }) => value);
  }

  /**
   * Waits until all is quiet, lets the reaper clear what is left over, and holds the store and the backend against each
   * other: every image is somebody's, every entry and user is of something that is there, no lock, point or connection stays.
   */
  async expectWhole(): Promise<void> {
    await this.idle();
    await this.admitted();
    await this.core.reap();
    const { fake, store } = this;
    const volumes = (await listAll<Volume>(store, indexes.volumesAll)).map(({ value }) => value);
    const snapshots = (await listAll<Snapshot>(store, indexes.snapshotsAll)).map(({ value }) => value);
    const exports = (await listAll<Export>(store, indexes.exports)).map(({ value }) => value);
    expect(await listAll<Debris>(store, indexes.debris), 'debris').to.deep.equal([]);
    expect(await listAll<PointInTime>(store, indexes.points), 'points').to.deep.equal([]);
    const claimed = new Set<string>();
    for (const resource of [...volumes, ...snapshots]) {
      expect(resource.operationId, `${resource.id} operation`).to.equal(undefined);
      expect(resource.state).to.be.oneOf(['available', 'completed', 'deleted', 'purging']);
      for (const key of lockKeys(resource.id)) expect(await store.get(key), key).to.equal(undefined);
      const image = fake.images.get(resource.image?.backendId ?? '');
      if (resource.state === 'purging' && image === undefined) continue;
      if (image === undefined) throw new Error(`${resource.id} has no image`);
      claimed.add(image.id);
      this.#expectImage(resource, image);
    }
    const strays = [...fake.images.values()].filter(({ id }) => !claimed.has(id)).map(({ name }) => name);
    expect(strays, 'images of nobody').to.deep.equal([]);
    for (const { id, state } of exports) {
      expect(state).to.equal('exported');
      expect(await store.get(keys.lock(id)), `lock of ${id}`).to.equal(undefined);
    }
    const ids = [...volumes, ...snapshots, ...exports].map(({ id }) => id).sort();
    expect([...fake.catalogue.keys()].sort(), 'catalogue').to.deep.equal(ids);
    for (const { id, displayName, tags } of [...volumes, ...snapshots]) {
      expect(fake.catalogueEntry(id), `catalogue entry of ${id}`).to.deep.include({ displayName, tags });
    }
    expect([...fake.users.keys()].sort(), 'users').to.deep.equal(exports.map(({ id }) => id).sort());
    expect([...this.agents.connections.keys()], 'connections that are still open').to.deep.equal([]);
    expect(fake.violations).to.deep.equal([]);
  }

  #expectImage(resource: Volume | Snapshot, image: FakeImage): void {
    expect(image.name, `name of ${resource.id}`).to.equal(resource.image?.name);
    expect(image.sizeBytes, `size of ${resource.id}`).to.equal(resource.sizeBytes);
    expect(image.trashed, `${resource.id} in the trash`).to.equal(resource.state === 'deleted');
    expect(image.parent?.imageId, `parent of ${resource.id}`).to.equal(resource.image?.parent?.backendId);
    if (image.parent !== undefined) {
      const point = this.fake.images.get(image.parent.imageId)?.points.get(image.parent.pointId);
      expect(point?.children.has(image.id), `the parent of ${resource.id} knows it`).to.equal(true);
    }
    const points = [...image.points.values()];
    if (resource.id.startsWith('snap-')) expect(points.map(({ name }) => name)).to.deep.equal(['base']);
    // What is not recorded would never be freed; what is recorded and gone would stay so for ever.
    const recorded = resource.image?.points.map(({ backendId }) => backendId) ?? [];
    expect([...recorded].sort(), `points of ${resource.id}`).to.deep.equal(points.map(({ id }) => id).sort());
    for (const point of points) {
      // A point of a volume waits only for its last clone.
      if (resource.id.startsWith('vol-')) {
        expect(point.trashed, `${point.name} on ${resource.id} was removed`).to.equal(true);
        expect(point.children.size, `clones of ${point.name} on ${resource.id}`).to.be.above(0);
      }
    }
  }
}

export function mutation(): { readonly clientToken: string; readonly validateOnly: boolean } {
  return { clientToken: randomUUID(), validateOnly: false };
}

export function change(id: string, clientToken: string = randomUUID()) {
  return { clientToken, validateOnly: false, id, etag: '' };
}

export function volumeRequest(request: Partial<CreateVolume> = {}): CreateVolume {
  return {
    ...mutation(),
    poolId: 'ssd',
    sizeBytes: MEBIBYTE,
    sourceSnapshotId: '',
    displayName: '',
    tags: {},
    encrypted: false,
    multiAttach: false,
    ...request,
  };
}

/** A caller whose answer is wanted within so many milliseconds. */
export function callerOf(name: string, role: Role, milliseconds = 90_000): Caller {
  return { name, role, deadline: performance.now() + milliseconds, requestId: 'test' };
}

export function admin(milliseconds?: number): Caller {
  return callerOf('root', 'admin', milliseconds);
}

/** The error that a call fails with. */
export async function failureOf(promise: Promise<unknown>): Promise<MoorageError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof MoorageError) return error;
    throw error;
  }
  throw new Error('the call did not fail');
}

/** Checks that a call fails with a code and a reason, and answers with the error. */
export async function expectFailure(promise: Promise<unknown>, code: string, reason?: string): Promise<MoorageError> {
  const error = await failureOf(promise);
  expect(`${error.code}: ${error.message}`).to.match(new RegExp(`^${code}:`));
  if (reason !== undefined) expect(error.reason).to.equal(reason);
  return error;
}
