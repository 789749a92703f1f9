import { randomUUID } from 'node:crypto';
import { setImmediate } from 'node:timers/promises';
import { expect } from 'chai';
import { MoorageError } from '../../src/core/errors.js';
import { keys } from '../../src/core/journal/documents.js';
import { admin, CoreWorld, change, MEBIBYTE } from '../helpers/core-world.js';
import type { Fault } from '../helpers/fake-backend.js';
import { waitFor } from '../helpers/wait.js';

/*
 * Some hundred random steps against a simple model: every call with faults in its steps, agents that die, controllers that are
 * stopped and abandoned in the middle. After each bout every volume and snapshot that should be there reads right, and what
 * can be purged is purged. A failure names its seed; MOORAGE_SEED runs it again.
 */

const WINDOW = 60_000;
const BLOCKS = 4;

interface Item {
  readonly id: string;
  readonly kind: 'volume' | 'snapshot';
  readonly parent: Item | undefined;
  state: 'live' | 'deleted' | 'gone';
  deletedAt: number;
  /** Undone once: its image has another name. */
  data: Map<number, string>;
  exportId: string;
  open: string;
}

function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

class Walk {
  readonly items: Item[] = [];
  readonly counts: Record<string, number> = {};
  readonly #world: CoreWorld;
  readonly #random: () => number;
  #faulty = true;
  #writes = 0;
  #clients = 0;

  constructor(world: CoreWorld, random: () => number) {
    this.#world = world;
    this.#random = random;
    world.fake.fault = (method) => (this.#faulty ? this.#fault(method) : undefined);
  }

  #fault(method: string): Fault | undefined {
    if (this.#random() > 0.12) return undefined;
    const kinds: Fault[] = [{ kind: 'not-begun' }, { kind: 'unknown-before' }, { kind: 'unknown-after' }];
    if (method === 'createImage') kinds.push({ kind: 'half-made' });
    if (!/Access|Clients|cutOff|Locks/.test(method)) {
      kinds.push({ kind: 'agent-dies', after: this.#random() < 0.5 });
    }
    return this.#pick(kinds);
  }

  #pick<T>(list: readonly T[]): T {
    const item = list[Math.floor(this.#random() * list.length)];
    if (item === undefined) throw new Error('there is nothing to pick from');
    return item;
  }

  #some(kind: Item['kind'], state: Item['state']): Item | undefined {
    const fitting = this.items.filter((item) => item.kind === kind && item.state === state);
    return fitting.length === 0 ? undefined : this.#pick(fitting);
  }

  #any(state: Item['state']): Item | undefined {
    return this.#random() < 0.5 ? this.#some('volume', state) : this.#some('snapshot', state);
  }

  #add(id: string, kind: Item['kind'], parent: Item | undefined, source = parent): void {
    const data = new Map(source?.data);
    this.items.push({ id, kind, parent, state: 'live', deletedAt: 0, data, exportId: '', open: '' });
  }

  /** A call, now and then cut short by a controller that stops or is abandoned: the same token then tells what came of it. */
  async #call<T>(call: (clientToken: string) => Promise<T>): Promise<T> {
    const token = randomUUID();
    const chance = this.#random();
    if (chance > 0.15) return call(token);
    const before = this.#world.fake.calls.length;
    const cut = call(token).catch((error: unknown) => error);
    const steps = Math.floor(this.#random() * 4);
    await Promise.race([
      cut,
      waitFor('some steps', () => this.#world.fake.calls.length >= before + steps, { intervalMilliseconds: 1 }),
    ]);
    this.counts['cut short'] = (this.counts['cut short'] ?? 0) + 1;
    if (chance < 0.07) await this.#world.restart();
    else await this.#world.start();
    const again = await call(token);
    await cut;
    return again;
  }

  async step(): Promise<void> {
    const actions: Record<string, () => Promise<void>> = {
      create: () => this.#create(),
      write: () => this.#write(),
      snapshot: () => this.#snapshot(),
      clone: () => this.#clone(),
      expand: () => this.#expand(),
      delete: () => this.#delete(),
      undelete: () => this.#undelete(),
      export: () => this.#export(),
      unexport: () => this.#unexport(),
      time: async () => {
        this.#world.ahead += Math.floor(this.#random() * WINDOW);
      },
      reap: () => this.reap(),
      'reap with faults': async () => {
        await this.#world.core.reap();
        await this.#learn();
      },
      'agent dies': async () => this.#world.killData(),
    };
    const live = this.items.filter(({ state }) => state === 'live').length;
    const grow = ['create', 'snapshot', 'clone', 'clone', 'snapshot'];
    const shrink = ['delete', 'delete', 'time', 'reap'];
    const others = [
      'write',
      'write',
      'expand',
      'undelete',
      'export',
      'unexport',
      'unexport',
      'time',
      'reap with faults',
      'agent dies',
    ];
    const name = this.#pick([...(live < 25 ? grow : []), ...(live > 8 ? [...shrink, ...shrink] : shrink), ...others]);
    this.counts[name] = (this.counts[name] ?? 0) + 1;
    await actions[name]?.();
  }

  async #create(): Promise<void> {
    const volume = await this.#call((clientToken) => this.#world.createVolume({ clientToken }));
    this.#add(volume.id, 'volume', undefined);
  }

  async #write(): Promise<void> {
    const item = this.#some('volume', 'live');
    if (item === undefined) return;
    this.#writes += 1;
    const block = Math.floor(this.#random() * BLOCKS);
    this.#world.fake.write(await this.#world.imageName(item.id), block, `write ${this.#writes}`);
    item.data.set(block, `write ${this.#writes}`);
  }

  async #snapshot(): Promise<void> {
    const item = this.#some('volume', 'live');
    if (item === undefined) return;
    let ended = false;
    const cancelling = this.#random() < 0.3 ? this.#cancelFlattening(() => ended) : undefined;
    const made = await this.#call((token) => this.#world.createSnapshot(item.id, token).catch(depthRefusal));
    ended = true;
    await cancelling;
    if (made === undefined) return;
    const isFlattened = made.image?.parent === undefined;
    if (isFlattened) this.counts.flattened = (this.counts.flattened ?? 0) + 1;
    this.#add(made.id, 'snapshot', isFlattened ? undefined : item, item);
  }

  /** Cancels the next snapshot that is to be flattened, as soon as it is seen. */
  async #cancelFlattening(ended: () => boolean): Promise<void> {
    for (; !ended(); await setImmediate()) {
      for (const operation of await this.#world.running()) {
        if ((operation.plan as { flatten?: boolean }).flatten !== true) continue;
        const { operations } = this.#world.core.services;
        await operations.cancel(operation.id, admin(200)).catch(() => undefined);
        return;
      }
    }
  }

  async #clone(): Promise<void> {
    const item = this.#some('snapshot', 'live');
    if (item === undefined) return;
    const request = { poolId: '', sizeBytes: 0, sourceSnapshotId: item.id };
    const made = await this.#call((clientToken) =>
      this.#world.createVolume({ clientToken, ...request }).catch(depthRefusal),
    );
    if (made !== undefined) this.#add(made.id, 'volume', item);
  }

  async #expand(): Promise<void> {
    const item = this.#some('volume', 'live');
    if (item === undefined) return;
    const sizeBytes = (await this.#world.volume(item.id)).sizeBytes + MEBIBYTE;
    await this.#call((token) =>
      this.#world.core.services.volumes.expand({ ...change(item.id, token), sizeBytes }, admin()),
    );
    expect((await this.#world.volume(item.id)).sizeBytes).to.equal(sizeBytes);
  }

  async #delete(): Promise<void> {
    const item = this.#any('live');
    if (item === undefined) return;
    if (item.exportId !== '') {
      const { volumes } = this.#world.core.services;
      const error = await volumes.delete(change(item.id), admin()).catch((caught: unknown) => caught);
      expect(error).to.be.instanceOf(MoorageError);
      expect((error as MoorageError).reason).to.equal('VOLUME_IN_USE');
      return;
    }
    await this.#call<unknown>((token) => this.#services(item).delete(change(item.id, token), admin()));
    item.state = 'deleted';
    item.deletedAt = Date.now() + this.#world.ahead;
  }

  #services(item: Item) {
    const { volumes, snapshots } = this.#world.core.services;
    return item.kind === 'volume' ? volumes : snapshots;
  }

  async #undelete(): Promise<void> {
    const item = this.#any('deleted');
    if (item === undefined) return;
    const state = (await this.#world.store.get<{ state: string }>(documentKey(item)))?.value.state;
    const outcome = await this.#call((token) =>
      this.#services(item)
        .undelete(change(item.id, token), admin())
        .then(() => 'live')
        .catch((error: MoorageError) => error.reason),
    );
    expect(outcome).to.equal(state === 'deleted' ? 'live' : 'PURGING');
    if (outcome === 'live') item.state = 'live';
  }

  async #export(): Promise<void> {
    const item = this.#some('volume', 'live');
    if (item === undefined || item.exportId !== '') return;
    const answer = await this.#call((clientToken) => this.#world.export(item.id, 'node-a', { clientToken }));
    expect(answer.descriptor.length).to.be.above(0);
    item.exportId = answer.resource.value.id;
    this.#clients += 1;
    item.open = `10.0.0.5:0/${this.#clients}`;
    this.#world.fake.openVolume(item.exportId, item.open);
  }

  async #unexport(): Promise<void> {
    const item = this.items.find(({ exportId }) => exportId !== '');
    if (item === undefined) return;
    const force = this.#random() < 0.5;
    if (!force) {
      const error = await this.#world.unexport(item.exportId).catch((caught: MoorageError) => caught.reason);
      expect(error).to.equal('EXPORT_OPEN');
      this.#world.fake.closeVolume(item.exportId, item.open);
    }
    await this.#call((clientToken) =>
      this.#world.core.services.exports.unexport(
        { clientToken, validateOnly: false, exportId: item.exportId, force },
        admin(),
      ),
    );
    expect(this.#world.fake.cutOff.has(item.open)).to.equal(force);
    item.exportId = '';
  }

  /** A pass without faults purges exactly what can be purged. */
  async reap(): Promise<void> {
    this.#faulty = false;
    await this.#world.idle();
    await this.#world.admitted();
    await this.#world.core.reap();
    const now = Date.now() + this.#world.ahead;
    for (let more = true; more; ) {
      more = false;
      for (const item of this.items) {
        const needed = this.items.some((other) => other.parent === item && other.state !== 'gone');
        if (item.state !== 'deleted' || needed || item.deletedAt + WINDOW > now - 2_000) continue;
        item.state = 'gone';
        more = true;
      }
    }
    // At the edge of the window either is right.
    await this.#learn();
    this.#faulty = true;
    await this.check();
  }

  /** What a pass with faults has purged, or begun to. */
  async #learn(): Promise<void> {
    for (const item of this.items) {
      const found = await this.#world.store.get<{ state: string }>(documentKey(item));
      if (found?.value.state === 'gone' && item.state === 'deleted') item.state = 'gone';
    }
  }

  async check(): Promise<void> {
    const states: string[] = [];
    for (const item of this.items) {
      const found = (await this.#world.store.get<{ state: string }>(documentKey(item)))?.value.state ?? 'never';
      const wanted = { live: ['available', 'completed'], deleted: ['deleted', 'purging'], gone: ['gone'] }[item.state];
      if (!wanted.includes(found)) states.push(`${item.id} is ${found}, not ${item.state}`);
      if (item.state !== 'live') continue;
      const resource = item.kind === 'volume' ? await this.#world.volume(item.id) : await this.#world.snapshot(item.id);
      for (let block = 0; block < BLOCKS; block += 1) {
        const value = this.#world.fake.read(resource.image?.name ?? '', block);
        expect(value, `block ${block} of ${item.id}`).to.equal(item.data.get(block) ?? '');
      }
    }
    expect(states).to.deep.equal([]);
  }

  /** Everything is deleted: in the end nothing is left. */
  async end(): Promise<void> {
    this.#faulty = false;
    for (const item of this.items) {
      if (item.exportId !== '') await this.#world.unexport(item.exportId, true);
      item.exportId = '';
      if (item.state === 'live') {
        await this.#services(item).delete(change(item.id), admin());
        item.state = 'deleted';
        item.deletedAt = 0;
      }
    }
    this.#world.ahead += 2 * WINDOW;
    await this.reap();
    await this.#world.expectWhole();
    expect([...this.#world.fake.images.values()].map(({ name }) => name)).to.deep.equal([]);
    expect(this.items.filter(({ state }) => state !== 'gone')).to.deep.equal([]);
  }
}

function documentKey(item: Item): string {
  return item.kind === 'volume' ? keys.volume(item.id) : keys.snapshot(item.id);
}

function depthRefusal(error: unknown): undefined {
  if (error instanceof MoorageError && error.reason === 'CLONE_TOO_DEEP') return undefined;
  throw error;
}

describe('core: random steps with faults, deaths and restarts', () => {
  const seed = Number(process.env.MOORAGE_SEED ?? Math.floor(Math.random() * 1_000_000));
  const steps = Number(process.env.MOORAGE_STEPS ?? 400);

  it(`${steps} steps, seed ${seed}`, async function () {
    this.timeout(600_000);
    const world = await CoreWorld.make({ softCloneDepth: 3 });
    try {
      const walk = new Walk(world, randomOf(seed));
      for (let step = 1; step <= steps; step += 1) {
        await walk.step();
        if (step % 40 === 0) {
          await world.idle();
          await walk.check();
        }
      }
      await walk.end();
      expect(walk.counts['cut short'] ?? 0, 'calls that were cut short').to.be.above(0);
      expect(walk.counts.flattened ?? 0, 'snapshots that were flattened').to.be.above(0);
    } finally {
      await world.end();
    }
  });
});
