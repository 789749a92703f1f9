import { expect } from 'chai';
import { type ReplicatedStore, type Store, StoreError } from '../../src/core/ports/store.js';
import {
  defaultRedisOptions,
  openRedisStore,
  type RedisPlace,
  type RedisStoreOptions,
} from '../../src/store/redis/index.js';
import type { RedisGroup } from '../helpers/redis.js';

/** The stores that a test opened, and what they said. */
export class Stores {
  readonly notices: { readonly level: string; readonly message: string; readonly text: string }[] = [];
  readonly #open: Store[] = [];
  readonly #writers: Writer[] = [];

  async open(place: RedisPlace, options: Partial<RedisStoreOptions> = {}): Promise<ReplicatedStore> {
    const store = await openRedisStore({
      ...defaultRedisOptions,
      leastReplicas: 0,
      events: {
        notice: ({ level, message, fields, error }) => {
          this.notices.push({ level, message, text: `${JSON.stringify(fields)} ${error ?? ''}` });
        },
      },
      ...options,
      place,
    });
    this.#open.push(store);
    return store;
  }

  /** Writes to a store until it is stopped, or all is closed. */
  write(store: Store, name: string, loops?: number): Writer {
    const writer = new Writer(store, name, loops);
    this.#writers.push(writer);
    return writer;
  }

  async close(): Promise<void> {
    // What a failed test did not stop.
    await Promise.allSettled(this.#writers.splice(0).map((writer) => writer.stop()));
    for (const store of this.#open.splice(0)) await store.close();
  }
}

export function serverOf(group: RedisGroup): RedisPlace {
  return { kind: 'server', address: group.servers[0]?.address ?? '' };
}

export function sentinelsOf(group: RedisGroup): RedisPlace {
  const { password } = group.options;
  return {
    kind: 'sentinels',
    name: 'moorage',
    addresses: group.sentinels.map(({ address }) => address),
    ...(password !== undefined && { access: { passwordFile: group.passwordFile } }),
  };
}

/** What a client of the store would write down of each of its commits, with the longest that it waited for one. */
export class Writer {
  readonly acknowledged = new Map<string, number>();
  readonly unknown = new Set<string>();
  /** How long the longest successful commit took, and the longest call that failed, milliseconds. */
  longestCommit = 0;
  longestFailure = 0;
  /** Commits that passed, and calls that failed, since the test last set these to 0. */
  passed = 0;
  failed = 0;
  readonly store: Store;
  readonly name: string;
  #stopped = false;
  readonly #loops: Promise<void>[];

  constructor(store: Store, name: string, loops = 4) {
    this.store = store;
    this.name = name;
    this.#loops = Array.from({ length: loops }, (_, loop) => this.#write(loop));
  }

  /** Ends it; throws what no commit may come to. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.all(this.#loops);
  }

  async #write(loop: number): Promise<void> {
    for (let n = 0; !this.#stopped; n += 1) {
      const key = `${this.name}/${loop}/${n}`;
      // "unavailable" says that nothing was written: the same document is then still to be made.
      while (!this.#stopped && !(await this.#make(key))) await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  async #make(key: string): Promise<boolean> {
    const began = performance.now();
    try {
      const indexes = [{ index: this.name, sort: key }];
      const outcome = await this.store.commit([{ kind: 'put', key, expect: 'absent', value: { key }, indexes }]);
      this.longestCommit = Math.max(this.longestCommit, performance.now() - began);
      this.passed += 1;
      if (!outcome.ok) throw new Error(`${key} was there although nobody else makes it`);
      this.acknowledged.set(key, outcome.rev);
      return true;
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      this.longestFailure = Math.max(this.longestFailure, performance.now() - began);
      this.failed += 1;
      if (error.kind === 'unknown') this.unknown.add(key);
      else if (error.kind !== 'unavailable' && error.kind !== 'lost-commits') throw error;
      return error.kind === 'unknown';
    }
  }

  /** Holds what was acknowledged against what is there. */
  async expectKept(store: Store = this.store): Promise<void> {
    const keys = [...this.acknowledged.keys()];
    for (let from = 0; from < keys.length; from += 1000) {
      const part = keys.slice(from, from + 1000);
      const read = await store.getMany(part);
      expect(read.map((document) => document?.rev)).to.deep.equal(part.map((key) => this.acknowledged.get(key)));
    }
    const found = await store.count(this.name);
    expect(found).to.be.within(keys.length, keys.length + this.unknown.size);
  }
}
