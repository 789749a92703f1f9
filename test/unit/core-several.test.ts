import { expect } from 'chai';
import { listAll } from '../../src/core/journal/agents.js';
import { indexes } from '../../src/core/journal/documents.js';
import type { ControllerRecord } from '../../src/core/model/operation.js';
import { StoreError } from '../../src/core/ports/store.js';
import { admin, CoreWorld, change, volumeRequest } from '../helpers/core-world.js';
import { waitFor } from '../helpers/wait.js';

/** T of these tests, in milliseconds: short, but longer than a busy machine keeps a beat waiting. */
const BEAT_TIMEOUT = 3_000;

describe('core: several controllers on one store', () => {
  let world: CoreWorld;

  beforeEach(async () => {
    world = await CoreWorld.make({
      storeIsExclusive: false,
      beatTimeoutMilliseconds: BEAT_TIMEOUT,
      reaperIntervalMilliseconds: 100,
    });
  });

  afterEach(() => world.end());

  const controllers = async (): Promise<readonly ControllerRecord[]> =>
    (await listAll<ControllerRecord>(world.store, indexes.controllers)).map(({ value }) => value);

  /** Starts a create whose step is sent, and keeps its effect back until told. */
  const beginCreate = async (
    deaf = true,
  ): Promise<{ readonly answer: Promise<unknown>; readonly release: () => void }> => {
    let release = (): void => undefined;
    const until = new Promise<void>((resolve) => {
      release = resolve;
    });
    let sent = false;
    world.fake.fault = (method) => {
      if (method !== 'createImage' || sent) return undefined;
      sent = true;
      return { kind: 'hang', until, deaf };
    };
    const answer = world.core.services.volumes.create(volumeRequest({}), admin()).catch((error: unknown) => error);
    await waitFor('the step to be sent', () => sent, { intervalMilliseconds: 2 });
    return { answer, release };
  };

  it('leave each other alone while all of them beat', async () => {
    const first = world.core;
    await world.start();
    const second = world.core;
    const [a, b] = [await first.services.pools.get('ssd', admin()), await second.services.pools.get('ssd', admin())];
    expect(a.value.pool.id).to.equal(b.value.pool.id);
    const made = await Promise.all(
      [first, second, first, second].map((core) => core.services.volumes.create(volumeRequest({}), admin())),
    );
    expect(new Set(made.map(({ resource }) => resource.value.id)).size).to.equal(4);
    // Longer than it takes to be taken for dead.
    const beats = world.notices.length;
    const until = performance.now() + 2.5 * BEAT_TIMEOUT;
    await waitFor('more than 2T to pass', () => performance.now() > until, { intervalMilliseconds: 50 });
    expect((await controllers()).map(({ state }) => state)).to.deep.equal(['live', 'live']);
    expect(world.lost, world.notices.slice(beats).join('\n')).to.equal(0);
    await world.expectWhole();
  });

  it('answer one call that is made at two of them at once as one', async () => {
    const first = world.core;
    await world.start();
    const made = await first.services.volumes.create(volumeRequest({}), admin());
    const request = { ...change(made.resource.value.id), sizeBytes: 4 * 1_048_576 };
    const holdBack = (): { readonly until: Promise<void>; readonly release: () => void } => {
      let release = (): void => undefined;
      const until = new Promise<void>((resolve) => {
        release = resolve;
      });
      return { until, release };
    };
    const [reading, expanding] = [holdBack(), holdBack()];
    world.fake.fault = (method) =>
      method === 'expandImage' ? { kind: 'hang', until: expanding.until, deaf: false } : undefined;
    // One has looked for the token, and found none, when the other records the call.
    let held = false;
    world.storeFault = (method) => {
      if (method !== 'get' || held) return undefined;
      held = true;
      return reading.until;
    };
    const one = first.services.volumes.expand(request, admin());
    await waitFor('one to look for the token', () => held, { intervalMilliseconds: 2 });
    const other = world.core.services.volumes.expand(request, admin());
    await waitFor('the other to have recorded it', async () => (await world.running()).length === 1);
    reading.release();
    world.fake.fault = () => undefined;
    expanding.release();
    const answers = await Promise.all([one, other]);
    expect(new Set(answers.map(({ operationId }) => operationId)).size).to.equal(1);
    await world.expectWhole();
  });

  it('let one of them reap, and another when that one is gone', async () => {
    const passes = (core: typeof world.core): number => world.reaped.filter((inc) => inc === core.inc).length;
    const first = world.core;
    await world.start();
    const [low, high] = [first, world.core].sort((a, b) => (a.inc < b.inc ? -1 : 1));
    if (low === undefined || high === undefined) throw new Error('two were started');
    await waitFor('ten passes in a row to be of one', () => {
      const last = world.reaped.slice(-10);
      return last.length === 10 && last.every((inc) => inc === low.inc);
    });
    const before = passes(high);
    await low.stop(0);
    await low.leave();
    await waitFor('the other to reap', () => passes(high) > before);
  });

  it('take over from one that froze in the middle of a step, and it can do nothing more when it wakes', async () => {
    const frozen = world.freezer;
    const { answer, release } = await beginCreate();
    const [running] = await world.running();
    const begun = (await controllers())[0]?.inc;
    frozen.freeze();
    await world.start();
    await world.idle();
    await waitFor('the dead one to be gone', async () => (await controllers()).length === 1);
    expect((await controllers())[0]?.inc)
      .to.equal(world.core.inc)
      .and.not.equal(begun);
    const volume = await world.volume(running?.resourceId ?? '');
    expect(volume.state).to.equal('available');
    expect(world.lost).to.equal(0);
    // Its last request takes effect, late, and it wakes.
    release();
    frozen.thaw();
    await answer;
    await waitFor('it notices that it has lost', () => world.lost === 1);
    expect(await world.volume(volume.id)).to.deep.equal(volume);
    await world.expectWhole();
    expect(world.fake.violations).to.deep.equal([]);
  });

  it('take over from one that left in good order without a wait', async () => {
    const { answer, release } = await beginCreate(false);
    const leaving = world.core;
    await world.start();
    await leaving.stop(0);
    const left = performance.now();
    await leaving.leave();
    await world.idle();
    await waitFor('the record to be gone', async () => (await controllers()).length === 1);
    expect(performance.now() - left, 'waited for its beat').to.be.below(2 * BEAT_TIMEOUT);
    release();
    await answer;
    await world.expectWhole();
  });

  it('finish what one began to take over that died over it', async () => {
    const first = world.freezer;
    const { answer, release } = await beginCreate();
    first.freeze();
    // The second one freezes when it cuts the agents of the first one off.
    let second = world.freezer;
    world.fake.fault = (method) => {
      if (method !== 'cutOff' || second !== world.freezer) return undefined;
      second.freeze();
      return undefined;
    };
    await world.start();
    second = world.freezer;
    await waitFor('the second to fence the first', async () =>
      (await controllers()).some(({ state, takenOverBy }) => state === 'fencing' && takenOverBy === world.core.inc),
    );
    const operations = await world.running();
    expect(operations.length).to.equal(1);
    await world.start();
    await world.idle();
    await waitFor('the dead ones to be gone', async () => (await controllers()).length === 1);
    release();
    first.thaw();
    second.thaw();
    await answer;
    await world.expectWhole();
    expect(world.fake.violations).to.deep.equal([]);
  });

  it('never adopt an operation of one whose agents another is still cutting off', async () => {
    const first = world.freezer;
    const { answer, release } = await beginCreate();
    const [running] = await world.running();
    first.freeze();
    let cuttingOff = false;
    let finish = (): void => undefined;
    const until = new Promise<void>((resolve) => {
      finish = resolve;
    });
    world.fake.fault = (method) => {
      if (method !== 'cutOff') return undefined;
      cuttingOff = true;
      return { kind: 'hang', until, deaf: true };
    };
    await world.start();
    const second = world.core;
    await world.start();
    await waitFor('one to cut the first off', () => cuttingOff);
    const since = performance.now();
    await waitFor('both others to see it dead for long', () => performance.now() - since > 3 * BEAT_TIMEOUT, {
      intervalMilliseconds: 50,
    });
    expect((await world.running())[0]?.owner).to.equal(running?.owner);
    finish();
    await world.idle();
    await waitFor('the dead one to be gone', async () => (await controllers()).length === 2);
    expect((await controllers()).map(({ inc }) => inc)).to.have.members([second.inc, world.core.inc]);
    release();
    first.thaw();
    await answer;
    await world.expectWhole();
    expect(world.fake.violations).to.deep.equal([]);
  });

  it('take up what was begun although nobody learned of it, and whose caller never asked again', async () => {
    let begun = false;
    world.storeFault = (method) => {
      if (begun) return method === 'get' ? 'unavailable' : undefined;
      if (method !== 'commit') return undefined;
      begun = true;
      return 'unknown-after';
    };
    const failed: unknown = await world.createVolume().catch((error: unknown) => error);
    expect(failed).to.be.instanceOf(Error);
    world.storeFault = () => undefined;
    const [operation] = await world.running();
    await world.idle();
    expect((await world.volume(operation?.resourceId ?? '')).state).to.equal('available');
    await world.expectWhole();
  });

  it('turn calls away that come before they are registered', async () => {
    let release = (): void => undefined;
    const until = new Promise<void>((resolve) => {
      release = resolve;
    });
    let held = false;
    world.storeFault = (method) => {
      if (method !== 'commit' || held) return undefined;
      held = true;
      return until;
    };
    const starting = world.start();
    await waitFor('one to register', () => held);
    const failed: unknown = await world.createVolume().catch((error: unknown) => error);
    expect(failed).to.be.instanceOf(StoreError).and.have.property('kind', 'unavailable');
    release();
    await starting;
    await world.createVolume();
    await world.expectWhole();
  });

  it('notice that they are lost although the store hangs', async () => {
    world.storeFault = (method) => (method === 'commit' ? 'hang' : undefined);
    await waitFor('it to be lost', () => world.lost === 1);
    world.storeFault = () => undefined;
  });
});
