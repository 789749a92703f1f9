import { expect } from 'chai';
import { listAll } from '../../src/core/journal/agents.js';
import { indexes } from '../../src/core/journal/documents.js';
import type { Operation } from '../../src/core/model/operation.js';
import type { Snapshot, Volume } from '../../src/core/model/resources.js';
import { admin, CoreWorld, change, expectFailure, MEBIBYTE, mutation } from '../helpers/core-world.js';
import type { Fault } from '../helpers/fake-backend.js';
import { waitFor } from '../helpers/wait.js';

const WINDOW = 61_000;
const SOFT_DEPTH = 3;

describe('core: flattening of long chains', () => {
  let world: CoreWorld;
  beforeEach(async () => {
    world = await CoreWorld.make({ softCloneDepth: SOFT_DEPTH, hardCloneDepth: 6 });
  });
  afterEach(async () => {
    try {
      world.fake.fault = () => undefined;
      await world.expectWhole();
    } finally {
      await world.end();
    }
  });

  /** A volume whose snapshots are flattened, and what stands in its blocks 0, 1, …: one of each generation. */
  async function deepVolume(): Promise<{ readonly volume: Volume; readonly chain: readonly string[] }> {
    let volume = await world.createVolume();
    const chain = [volume.id];
    await write(volume, 0, 'generation 0');
    for (let generation = 1; volume.cloneDepth + 1 < SOFT_DEPTH; generation += 1) {
      const snapshot = await world.createSnapshot(volume.id);
      volume = await world.createFrom(snapshot.id);
      chain.push(snapshot.id, volume.id);
      await write(volume, generation, `generation ${generation}`);
    }
    return { volume, chain };
  }

  async function write(volume: Volume, block: number, value: string): Promise<void> {
    world.fake.write(await world.imageName(volume.id), block, value);
  }

  async function expectGenerations(volume: Volume, count: number): Promise<void> {
    const name = await world.imageName(volume.id);
    const found = Array.from({ length: count + 1 }, (_, block) => world.fake.read(name, block));
    expect(found).to.deep.equal([...Array.from({ length: count }, (_, block) => `generation ${block}`), '']);
  }

  /** Holds the flattening after its first questions, until it is let go. */
  function holdFlattening(): () => void {
    world.fake.flattenQuestions = Number.POSITIVE_INFINITY;
    return () => {
      world.fake.flattenQuestions = 3;
    };
  }

  /** The operation that makes a snapshot, once it flattens. */
  async function flatteningOf(count = 1): Promise<readonly Operation[]> {
    return waitFor(
      'the flattening',
      async () => {
        const operations = (await world.running()).filter(({ phase }) => phase === 'flatten');
        return operations.length === count && world.fake.flattening.size === count && operations;
      },
      { intervalMilliseconds: 2 },
    );
  }

  async function onlyFlattening(): Promise<Operation> {
    const [operation] = await flatteningOf();
    if (operation === undefined) throw new Error('nothing is flattened');
    return operation;
  }

  async function purgeAll(): Promise<void> {
    world.ahead += WINDOW;
    await world.core.reap();
  }

  it('thirty generations: the chain stays short, everything reads right, and what was below can be purged', async () => {
    let volume = await world.createVolume();
    await write(volume, 0, 'generation 0');
    const older: string[] = [volume.id];
    let deepest = 0;
    for (let generation = 1; generation <= 30; generation += 1) {
      const snapshot = await world.createSnapshot(volume.id);
      expect(snapshot.cloneDepth).to.be.below(SOFT_DEPTH);
      expect(snapshot.image?.parent === undefined).to.equal(snapshot.cloneDepth === 0);
      volume = await world.createFrom(snapshot.id);
      older.push(snapshot.id, volume.id);
      deepest = Math.max(deepest, volume.cloneDepth);
      await write(volume, generation, `generation ${generation}`);
    }
    // Below one that was flattened the chain begins with a snapshot, not with a volume.
    expect(deepest).to.equal(SOFT_DEPTH);
    await expectGenerations(volume, 31);
    for (const id of older.slice(0, -1).reverse()) {
      await (id.startsWith('vol-') ? world.deleteVolume(id) : world.deleteSnapshot(id));
    }
    await purgeAll();
    await expectGenerations(volume, 31);
    const images = world.fake.images.size;
    expect(images, 'the volume, and what lies below it').to.equal(volume.cloneDepth + 1);
  });

  it('a snapshot is pending until it is flattened; how far is said and listed; then its catalogue entry has no parent', async () => {
    const { volume, chain } = await deepVolume();
    const release = holdFlattening();
    const snapshot = world.createSnapshot(volume.id);
    const operation = await onlyFlattening();
    expect((await world.snapshot(operation.resourceId)).state).to.equal('pending');
    world.fake.flattenQuestions = 1000;
    const { operations } = world.core.services;
    const seen = await waitFor('progress', async () => {
      const { items } = await operations.list({ resourceId: '', states: [], pageSize: 10, pageToken: '' }, admin());
      const percent = items[0]?.progressPercent ?? 0;
      return percent > 0 && percent;
    });
    expect(seen).to.be.within(1, 99);
    release();
    const { id, state, cloneDepth, image } = await snapshot;
    expect({ state, cloneDepth, parent: image?.parent }).to.deep.equal({
      state: 'completed',
      cloneDepth: 0,
      parent: undefined,
    });
    expect(world.fake.catalogueEntry(id)).to.not.have.property('parent');
    const copy = await world.createFrom(id);
    await expectGenerations(copy, 2);
    expect(copy.cloneDepth).to.equal(1);
    for (const below of [...chain].reverse()) {
      await (below.startsWith('vol-') ? world.deleteVolume(below) : world.deleteSnapshot(below));
    }
    await purgeAll();
    expect(world.fake.images.size, 'the snapshot and its volume').to.equal(2);
    await expectGenerations(copy, 2);
  });

  it('the volume can be expanded, exported and deleted while a snapshot of it is flattened; it is purged after', async () => {
    const { volume } = await deepVolume();
    const release = holdFlattening();
    const snapshot = world.createSnapshot(volume.id);
    await onlyFlattening();
    const { volumes } = world.core.services;
    await volumes.expand({ ...change(volume.id), sizeBytes: 8 * MEBIBYTE }, admin());
    const { resource } = await world.export(volume.id, 'node-a');
    await world.unexport(resource.value.id);
    await world.deleteVolume(volume.id);
    await purgeAll();
    expect((await world.volume(volume.id)).state, 'it has a clone').to.equal('deleted');
    release();
    const { id, sizeBytes } = await snapshot;
    expect(sizeBytes).to.equal(MEBIBYTE);
    await purgeAll();
    await expectFailure(world.volume(volume.id), 'NOT_FOUND', 'GONE');
    await expectGenerations(await world.createFrom(id), 2);
  });

  describe('CancelOperation', () => {
    it('of a flattening: the snapshot is completed as deep as it is, and can be used', async () => {
      const { volume } = await deepVolume();
      holdFlattening();
      const made = world.createSnapshot(volume.id);
      const { id } = await onlyFlattening();
      const cancelled = await world.core.services.operations.cancel(id, admin());
      expect(cancelled).to.include({ state: 'succeeded', cancelRequested: true });
      const snapshot = await made;
      expect(snapshot).to.include({ state: 'completed', cloneDepth: SOFT_DEPTH });
      expect(snapshot.statusMessage).to.match(/3 generations.*cancelled/);
      expect(snapshot.image?.parent?.resourceId).to.equal(volume.id);
      await expectGenerations(await world.createFrom(snapshot.id), 2);
      expect((await world.core.services.operations.cancel(id, admin())).state, 'again').to.equal('succeeded');
    });

    for (const method of ['openConnection', 'takePoint', 'createImage']) {
      it(`before the flattening, in ${method}: it never begins`, async () => {
        const { volume } = await deepVolume();
        let reached: () => void = () => undefined;
        let release: () => void = () => undefined;
        const at = new Promise<void>((resolve) => {
          reached = resolve;
        });
        const until = new Promise<void>((resolve) => {
          release = resolve;
        });
        world.fake.fault = (asked) => {
          if (asked !== method) return undefined;
          reached();
          return { kind: 'hang', until };
        };
        const made = world.createSnapshot(volume.id);
        await at;
        const [operation] = await world.running();
        const cancelled = world.core.services.operations.cancel(operation?.id ?? '', admin());
        await waitFor('the request', async () => (await world.running())[0]?.cancelRequested === true);
        world.fake.fault = () => undefined;
        release();
        expect((await cancelled).state).to.equal('succeeded');
        expect(await made).to.include({ state: 'completed', cloneDepth: SOFT_DEPTH });
        expect(world.fake.calls.filter((call) => call.method === 'flattenImage')).to.deep.equal([]);
      });
    }

    it('that comes when the flattening is done: the snapshot is as it is, without a parent', async () => {
      const { volume } = await deepVolume();
      world.fake.fault = (method) => (method === 'flattenImage' ? { kind: 'unknown-after' } : undefined);
      world.fake.flattenQuestions = 1;
      const made = world.createSnapshot(volume.id);
      const [operation] = await waitFor('the flattening', async () => {
        const running = await world.running();
        return running[0]?.phase === 'flatten' && running;
      });
      await world.core.services.operations.cancel(operation?.id ?? '', admin());
      const snapshot = await made;
      expect(snapshot).to.include({ state: 'completed', cloneDepth: 0, statusMessage: '' });
      expect(snapshot.image?.parent).to.equal(undefined);
    });

    it('of anything else is refused and says why; of what never was, NOT_FOUND', async () => {
      const { operations } = world.core.services;
      let release: () => void = () => undefined;
      const until = new Promise<void>((resolve) => {
        release = resolve;
      });
      world.fake.fault = (method) => (method === 'createImage' ? { kind: 'hang', until } : undefined);
      const made = world.createVolume();
      const [operation] = await waitFor('the operation', async () => {
        const running = await world.running();
        return running.length === 1 && running;
      });
      const error = await expectFailure(
        operations.cancel(operation?.id ?? '', admin()),
        'FAILED_PRECONDITION',
        'NOT_CANCELLABLE',
      );
      expect(error.message).to.contain('volume.create');
      release();
      world.fake.fault = () => undefined;
      const volume = await made;
      const held = new Promise<void>((resolve) => {
        release = resolve;
      });
      failOnce('createImage', { kind: 'hang', until: held });
      const snapshot = world.createSnapshot(volume.id);
      const [short] = await waitFor('the operation', async () => {
        const running = await world.running();
        return running.length === 1 && running;
      });
      await expectFailure(operations.cancel(short?.id ?? '', admin()), 'FAILED_PRECONDITION', 'NOT_CANCELLABLE');
      release();
      await snapshot;
      await expectFailure(operations.cancel('op-0123456789abcdef0', admin()), 'NOT_FOUND');
      await expectFailure(operations.cancel('vol-1', admin()), 'INVALID_ARGUMENT');
    });
  });

  describe('DeleteSnapshot of one that is flattened', () => {
    it('ends the flattening and deletes it; undelete brings it back', async () => {
      const { volume } = await deepVolume();
      holdFlattening();
      const made = world.createSnapshot(volume.id);
      const { resourceId } = await onlyFlattening();
      expect((await world.deleteSnapshot(resourceId))?.state).to.equal('deleted');
      await made;
      const { snapshots } = world.core.services;
      await snapshots.undelete(change(resourceId), admin());
      await expectGenerations(await world.createFrom(resourceId), 2);
    });

    it('keeps to the etag and the token', async () => {
      const { volume } = await deepVolume();
      holdFlattening();
      const made = world.createSnapshot(volume.id);
      const { resourceId } = await onlyFlattening();
      const { snapshots } = world.core.services;
      const request = { ...mutation(), id: resourceId };
      await expectFailure(snapshots.delete({ ...request, etag: '1' }, admin()), 'ABORTED', 'ETAG_MISMATCH');
      expect((await world.snapshot(resourceId)).state).to.equal('pending');
      const { etag } = await snapshots.get(resourceId, admin());
      const both = await Promise.all([1, 2].map(() => snapshots.delete({ ...request, etag }, admin())));
      expect(both.map((answer) => answer.resource?.value.state)).to.deep.equal(['deleted', 'deleted']);
      expect(new Set(both.map((answer) => answer.operationId)).size).to.equal(1);
      await made;
    });

    it('one that is not flattened is still ABORTED while it is made', async () => {
      const volume = await world.createVolume();
      let release: () => void = () => undefined;
      const until = new Promise<void>((resolve) => {
        release = resolve;
      });
      world.fake.fault = (method) => (method === 'createImage' ? { kind: 'hang', until } : undefined);
      const made = world.createSnapshot(volume.id);
      const [operation] = await waitFor('the operation', async () => {
        const running = await world.running();
        return running[0]?.phase === 'create-image' && running;
      });
      await expectFailure(world.deleteSnapshot(operation?.resourceId ?? ''), 'ABORTED', 'OPERATION_IN_PROGRESS');
      release();
      world.fake.fault = () => undefined;
      await made;
    });
  });

  it('snapshots of one volume at once share a point in time; one is cancelled, the others are flattened, all are right', async () => {
    const { volume, chain } = await deepVolume();
    const release = holdFlattening();
    // While the first one waits for its point, the others gather for the next.
    let begin: () => void = () => undefined;
    const until = new Promise<void>((resolve) => {
      begin = resolve;
    });
    failOnce('openConnection', { kind: 'hang', until });
    const made = Array.from({ length: 6 }, () => world.createSnapshot(volume.id));
    await waitFor('all are recorded', async () => (await world.running()).length === 6);
    begin();
    const flattening = await flatteningOf(6);
    const one = flattening[2];
    await world.core.services.operations.cancel(one?.id ?? '', admin());
    // Purged while the others still need the point.
    await world.deleteSnapshot(one?.resourceId ?? '');
    const other = flattening[4];
    await world.core.services.operations.cancel(other?.id ?? '', admin());
    await purgeAll();
    await expectFailure(world.snapshot(one?.resourceId ?? ''), 'NOT_FOUND', 'GONE');
    release();
    const snapshots = await Promise.all(made.map((call) => call.catch(() => undefined)));
    expect((await world.volume(volume.id)).image?.points).to.have.length.below(6);
    const left = snapshots.filter(
      (snapshot): snapshot is Snapshot => snapshot !== undefined && snapshot.id !== one?.resourceId,
    );
    for (const { id } of left) {
      const { cloneDepth } = await world.snapshot(id);
      expect(cloneDepth).to.equal(id === other?.resourceId ? SOFT_DEPTH : 0);
      await expectGenerations(await world.createFrom(id), 2);
    }
    await world.expectWhole();
    // The one that was not flattened keeps the volume and its point; with it they go.
    await world.deleteVolume(volume.id);
    await purgeAll();
    expect((await world.volume(volume.id)).state).to.equal('deleted');
    const [copy] = (await listAll<Volume>(world.store, indexes.volumesOfSnapshot(other?.resourceId ?? ''))).map(
      ({ value }) => value.id,
    );
    await world.deleteVolume(copy ?? '');
    await world.deleteSnapshot(other?.resourceId ?? '');
    for (const below of [...chain].reverse().slice(1)) {
      await (below.startsWith('vol-') ? world.deleteVolume(below) : world.deleteSnapshot(below));
    }
    await purgeAll();
    expect(world.fake.images.size, 'four snapshots and their volumes').to.equal(8);
  });

  /** One fault, the next time that a method is asked for. @returns whether it has been */
  function failOnce(method: string, fault: Fault, skip = 0): () => boolean {
    let left = skip;
    let done = false;
    world.fake.fault = (asked) => {
      if (asked !== method || done) return undefined;
      if (left > 0) {
        left -= 1;
        return undefined;
      }
      done = true;
      return fault;
    };
    return () => done;
  }

  const faults: Readonly<Record<string, Fault>> = {
    'not begun': { kind: 'not-begun' },
    'unknown, not done': { kind: 'unknown-before' },
    'unknown, done': { kind: 'unknown-after' },
    'the agent dies before': { kind: 'agent-dies', after: false },
    'the agent dies after': { kind: 'agent-dies', after: true },
  };
  for (const [what, fault] of Object.entries(faults)) {
    for (const [method, skip] of [
      ['flattenImage', 0],
      ['flattenImage', 2],
      ['putCatalogueEntry', 0],
      ['removePoint', 0],
    ] as const) {
      it(`${what}, in ${method} ${skip + 1}: ends whole`, async () => {
        const { volume } = await deepVolume();
        failOnce(method, fault, skip);
        const { id, cloneDepth } = await world.createSnapshot(volume.id);
        expect(cloneDepth).to.equal(0);
        await expectGenerations(await world.createFrom(id), 2);
      });
    }

    it(`${what}, in stopFlatten: ends whole`, async () => {
      const { volume } = await deepVolume();
      holdFlattening();
      const made = world.createSnapshot(volume.id);
      const { id } = await onlyFlattening();
      failOnce('stopFlatten', fault);
      await world.core.services.operations.cancel(id, admin());
      await expectGenerations(await world.createFrom((await made).id), 2);
    });
  }

  it('a controller that restarts in the middle goes on, and one that was asked to cancel still does', async () => {
    const { volume } = await deepVolume();
    const release = holdFlattening();
    const calls = [world.createSnapshot(volume.id), world.createSnapshot(volume.id)].map((call) =>
      call.catch(() => undefined),
    );
    const [first, second] = await flatteningOf(2);
    // The request is recorded, and its controller gone before it saw that.
    let unseen: () => void = () => undefined;
    world.fake.fault = (method) =>
      method === 'stopFlatten' || method === 'flattenImage'
        ? {
            kind: 'hang',
            until: new Promise((resolve) => {
              unseen = resolve;
            }),
          }
        : undefined;
    const cancel = world.core.services.operations.cancel(first?.id ?? '', admin()).catch(() => undefined);
    await waitFor('the request', async () => (await world.running()).some((one) => one.cancelRequested === true));
    await world.core.stop(0);
    world.fake.fault = () => undefined;
    unseen();
    release();
    await world.start();
    await world.idle();
    await Promise.all([...calls, cancel]);
    expect((await world.snapshot(first?.resourceId ?? '')).cloneDepth).to.equal(SOFT_DEPTH);
    expect((await world.snapshot(second?.resourceId ?? '')).cloneDepth).to.equal(0);
  });

  it('a pool that is full: the snapshot is completed as deep as it is, and says why', async () => {
    const { volume } = await deepVolume();
    failOnce('flattenImage', { kind: 'permanent', code: 'RESOURCE_EXHAUSTED', reason: 'ENOSPC' }, 1);
    const { id, cloneDepth, statusMessage } = await world.createSnapshot(volume.id);
    expect(cloneDepth).to.equal(SOFT_DEPTH);
    expect(statusMessage).to.contain('flattenImage is refused');
    await expectGenerations(await world.createFrom(id), 2);
  });

  it('refused for good: the snapshot fails with the reason, and nothing is left', async () => {
    const { volume } = await deepVolume();
    failOnce('flattenImage', { kind: 'permanent', reason: 'OTHER_PARENT' }, 1);
    await expectFailure(world.createSnapshot(volume.id), 'FAILED_PRECONDITION', 'OTHER_PARENT');
    await world.expectWhole();
    await expectGenerations(volume, 2);
  });

  it('cancelled again and again, the chain ends at the hard limit, before anything is begun', async () => {
    let { volume } = await deepVolume();
    holdFlattening();
    for (;;) {
      const made = world.createSnapshot(volume.id);
      const failure = await Promise.race([made.then(() => undefined), onlyFlattening()]).catch((error) => error);
      if (failure instanceof Error) break;
      await world.core.services.operations.cancel((await onlyFlattening()).id, admin());
      volume = await world.createFrom((await made).id);
    }
    expect(volume.cloneDepth).to.equal(6);
    await expectFailure(world.createSnapshot(volume.id), 'FAILED_PRECONDITION', 'CLONE_TOO_DEEP');
  });
});
