import { expect } from 'chai';
import type { ReplicatedStore } from '../../src/core/ports/store.js';
import { commit, keysOf, put, rejection } from '../contract/store-helpers.js';
import { type RedisGroup, startRedis } from '../helpers/redis.js';
import { waitFor } from '../helpers/wait.js';
import { Stores, serverOf } from './store-redis-harness.js';

/** Connections that break, and servers that go and come. */
describe('the Redis store and its connections', function () {
  this.timeout(60_000);
  let group: RedisGroup;
  let stores: Stores;
  let store: ReplicatedStore;
  beforeEach(async () => {
    group = await startRedis();
    stores = new Stores();
    store = await stores.open(serverOf(group));
  });
  afterEach(async () => {
    group.servers[0]?.thaw();
    await stores.close();
    await group.remove();
  });
  const call = <T>(...parameters: string[]): Promise<T> => {
    const [server] = group.servers;
    if (server === undefined) throw new Error('no server');
    return server.call<T>(...parameters);
  };

  it('does each commit once and knows its outcome, however often connections are cut', async () => {
    const writer = stores.write(store, 'w', 16);
    for (let cuts = 0; cuts < 40; cuts += 1) {
      const before = writer.passed;
      await waitFor('commits to pass', () => writer.passed > before + 20, { intervalMilliseconds: 1 });
      await call('CLIENT', 'KILL', 'TYPE', 'normal');
    }
    await writer.stop();
    await writer.expectKept();
    expect([...writer.unknown]).to.deep.equal([]);
  });

  it('goes on when the scripts are forgotten', async () => {
    await commit(store, put('a', 1, { indexes: [{ index: 'i', sort: '1' }] }));
    await call('SCRIPT', 'FLUSH');
    expect(await keysOf(store, 'i')).to.deep.equal(['a']);
    await call('SCRIPT', 'FLUSH');
    await Promise.all([1, 2, 3].map((n) => commit(store, put(`k${n}`, n))));
    expect(stores.notices).to.deep.equal([]);
  });

  it('fails at once while the server is away, comes back by itself, and says that it was restarted', async () => {
    const changes: string[] = [];
    store.onPrimaryChange(({ kind }) => changes.push(kind));
    const rev = await commit(store, put('a', 1));
    await group.servers[0]?.kill();
    await waitFor('the loss to be noticed', () => stores.notices.length > 0);
    const began = performance.now();
    for (let n = 0; n < 20; n += 1) {
      expect(await rejection(store.get('a'))).to.have.property('kind', 'unavailable');
      expect(await rejection(store.commit([put('a', 2)]))).to.have.property('kind', 'unavailable');
      expect(await rejection(store.list('i', { limit: 1 }))).to.have.property('kind', 'unavailable');
    }
    // Had each waited for its deadline, it were minutes.
    expect(performance.now() - began).to.be.below(20_000);
    await group.servers[0]?.start();
    await waitFor('the store to come back', () => store.get('a').then(Boolean));
    expect(await store.get('a')).to.deep.equal({ key: 'a', rev, value: 1 });
    expect(changes).to.deep.equal(['restarted']);
    expect(await commit(store, put('a', 2))).to.be.greaterThan(rev);
  });

  it('bounds every call while the server is frozen; what it took before that is not done twice', async () => {
    await commit(store, put('a', 1));
    group.servers[0]?.freeze();
    const began = performance.now();
    const errors = await Promise.all([
      rejection(store.commit([put('b', 1, { expect: 'absent' })])),
      rejection(store.get('a')),
    ]);
    expect(performance.now() - began).to.be.below(30_000);
    expect(errors[0]).to.have.property('kind', 'unknown');
    expect(errors[1]).to.have.property('kind', 'unavailable');
    group.servers[0]?.thaw();
    await waitFor('the store to come back', () => store.get('a').then(Boolean));

    const writer = stores.write(store, 'w');
    await waitFor('commits to pass', () => writer.passed > 50);
    group.servers[0]?.freeze();
    const failed = writer.failed;
    await waitFor('more calls to fail', () => writer.failed > failed + 20);
    group.servers[0]?.thaw();
    const { passed } = writer;
    await waitFor('commits to pass again', () => writer.passed > passed + 50);
    await writer.stop();
    await writer.expectKept();
  });

  it('says that the memory is full, writes nothing of it, and goes on once there is more', async () => {
    await commit(store, put('a', 1));
    await call('CONFIG', 'SET', 'maxmemory', '1');
    const error = await rejection(store.commit([put('a', 2), put('b', 'x'.repeat(1000))]));
    expect(error).to.have.property('kind', 'full');
    expect(`${error}`).to.contain('nothing was written').and.contain('maxmemory');
    expect((await store.get('a'))?.value).to.equal(1);
    await call('CONFIG', 'SET', 'maxmemory', '0');
    await commit(store, put('a', 3));
  });

  it('serves several controllers, each seeing what the other acknowledged', async () => {
    const other = await stores.open(serverOf(group));
    for (let n = 0; n < 50; n += 1) {
      const rev = await commit(store, put('a', n));
      expect(await other.get('a')).to.deep.equal({ key: 'a', rev, value: n });
    }
    const outcomes = await Promise.all(
      [store, other].flatMap((one) =>
        Array.from({ length: 20 }, () => one.commit([put('b', 1, { expect: 'absent' })])),
      ),
    );
    expect(outcomes.filter(({ ok }) => ok)).to.have.length(1);
  });

  it('is emptied by somebody while it serves, and notices', async () => {
    await commit(store, put('a', 1));
    await call('FLUSHALL');
    await rejection(store.commit([put('a', 2, { expect: 'any' })]));
    await waitFor('the loss to be noticed', async () => {
      const error = await rejection(store.get('a'));
      return error instanceof Error && 'kind' in error && error.kind === 'lost-commits';
    });
  });

  it('pages through 100,000 documents in order, and starts in the middle', async () => {
    const count = 100_000;
    const sortOf = (n: number): string => String((n * 7919) % count).padStart(6, '0');
    for (let from = 0; from < count; from += 2_000) {
      const writes = Array.from({ length: 2_000 }, (_, n) =>
        put(`volume/${from + n}`, { n: from + n }, { indexes: [{ index: 'all', sort: sortOf(from + n) }] }),
      );
      await commit(store, ...writes);
    }
    expect(await store.count('all')).to.equal(count);
    let after: string | undefined;
    let seen = 0;
    let previous = '';
    do {
      const page = await store.list<{ n: number }>('all', { limit: 1000, ...(after === undefined ? {} : { after }) });
      for (const { value } of page.documents) {
        const sort = sortOf(value.n);
        if (sort <= previous) throw new Error(`${sort} comes after ${previous}`);
        previous = sort;
      }
      seen += page.documents.length;
      after = page.cursor;
    } while (after !== undefined);
    expect(seen).to.equal(count);
    const page = await store.list<{ n: number }>('all', { prefix: '0990', before: '099005', limit: 100 });
    expect(page.documents.map(({ value }) => sortOf(value.n))).to.deep.equal(
      ['00', '01', '02', '03', '04'].map((end) => `0990${end}`),
    );
  });
});
