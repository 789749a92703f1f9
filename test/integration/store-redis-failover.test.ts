import { expect } from 'chai';
import type { PrimaryChange, ReplicatedStore } from '../../src/core/ports/store.js';
import { commit, put, rejection } from '../contract/store-helpers.js';
import { type RedisGroup, type RedisMember, startRedis } from '../helpers/redis.js';
import { waitFor } from '../helpers/wait.js';
import { Stores, sentinelsOf, type Writer } from './store-redis-harness.js';

/** A primary with two replicas and three Sentinels, and what happens to them. */
describe('the Redis store and its Sentinels', function () {
  this.timeout(120_000);
  let group: RedisGroup;
  let stores: Stores;
  let store: ReplicatedStore;
  let changes: PrimaryChange[];

  beforeEach(async () => {
    group = await startRedis({ replicas: 2, sentinels: 3 });
    stores = new Stores();
    store = await stores.open(sentinelsOf(group), { leastReplicas: 1 });
    changes = [];
    store.onPrimaryChange((change) => changes.push(change));
  });
  afterEach(async () => {
    for (const member of [...group.servers, ...group.sentinels]) member.thaw();
    await stores.close();
    await group.remove();
  });

  const server = (n: number): RedisMember => {
    const found = group.servers[n];
    if (found === undefined) throw new Error(`there is no server ${n}`);
    return found;
  };
  const goesOn = async (writer: Writer, what: string): Promise<void> => {
    const before = writer.passed;
    await waitFor(what, () => writer.passed > before + 50, { timeoutMilliseconds: 60_000 });
  };

  it('loses no acknowledged commit when the primary dies, again and again', async () => {
    const writer = stores.write(store, 'w');
    for (let round = 0; round < 2; round += 1) {
      await goesOn(writer, 'commits to pass');
      const primary = await group.primary();
      await primary.kill();
      await goesOn(writer, 'commits to pass on the next primary');
      await primary.start();
      await group.ready();
    }
    await writer.stop();
    await writer.expectKept();
    expect(changes.map(({ kind }) => kind)).to.deep.equal(['replaced', 'replaced']);
    expect(new Set(changes.flatMap(({ from, to }) => [from, to])).size).to.be.greaterThan(1);
    // A call never hangs for longer than its deadline says, whatever happens to the servers.
    expect(writer.longestFailure).to.be.below(30_000);
  });

  it('loses none when the primary is frozen, replaced, and comes back', async () => {
    const writer = stores.write(store, 'w');
    await goesOn(writer, 'commits to pass');
    const frozen = await group.primary();
    frozen.freeze();
    await waitFor('another primary', () => changes.length > 0);
    await goesOn(writer, 'commits to pass on the next primary');
    frozen.thaw();
    await waitFor('the old primary to be a replica', async () => (await frozen.information('role')) === 'slave');
    await goesOn(writer, 'commits to pass beside the old primary');
    await writer.stop();
    await writer.expectKept();
    expect(changes).to.have.length(1);
    expect(changes[0]?.from).to.equal(frozen.address);
    const reader = await stores.open(sentinelsOf(group), { leastReplicas: 1 });
    await writer.expectKept(reader);
  });

  it('counts nothing on a primary that was replaced and does not know it, although a replica still follows', async () => {
    await commit(store, put('a', 1));
    // What a Sentinel does first. The other replica, the primary and the other Sentinels hear of it later.
    const [, promoted] = group.servers;
    await promoted?.call('REPLICAOF', 'NO', 'ONE');
    expect(await rejection(store.commit([put('a', 2)]))).to.have.property('kind', 'unknown');
    // Here it was nobody's decision: the Sentinels make it a replica again.
    await waitFor('commits to pass again', () => commit(store, put('a', 3)).then(() => true));
    expect((await store.get('a'))?.value).to.equal(3);
  });

  it('goes on after seconds when one replica dies or freezes, and says what is unknown when both do', async () => {
    await commit(store, put('a', 1));
    await server(1).kill();
    await commit(store, put('a', 2));
    await server(1).start();
    await group.ready();
    server(2).freeze();
    // It passes before its deadline, and those behind it wait for that replica no more: together they would never pass.
    const rev = await commit(store, put('a', 3));
    const began = performance.now();
    for (let n = 0; n < 20; n += 1) await commit(store, put(`b${n}`, n));
    expect(performance.now() - began).to.be.below(20 * 2_000);

    await server(1).kill();
    const error = await rejection(store.commit([put('a', 4, { expect: rev })]));
    expect(error).to.have.property('kind', 'unknown');
    // It is on the primary alone: nobody may see it as if it were done.
    expect(await rejection(store.get('a'))).to.have.property('kind', 'unavailable');
    await server(1).start();
    await waitFor('reads to be answered', () => store.get('a').then(Boolean));
    expect((await store.get('a'))?.value).to.equal(4);
  });

  it('refuses a primary that lacks what was acknowledged, also when that has gone on since', async () => {
    await commit(store, put('a', 'before'));
    // This one misses what comes now...
    await server(1).kill();
    for (let n = 0; n < 30; n += 1) await commit(store, put(`lost${n}`, n));
    const before = stores.notices.length;
    // ...and is all that is left.
    await server(0).kill();
    await server(2).kill();
    await server(1).start();
    const lost = await waitFor(
      'the primary to be refused',
      async () => {
        const error = await rejection(store.get('a'));
        return error instanceof Error && 'kind' in error && error.kind === 'lost-commits' ? error : undefined;
      },
      { timeoutMilliseconds: 60_000 },
    );
    expect(lost.message)
      .to.contain(server(1).address)
      .and.match(/lacks \d+ acknowledged commits/);
    expect(await rejection(store.commit([put('a', 'after')]))).to.have.property('kind', 'lost-commits');
    const loud = stores.notices.slice(before).filter(({ level }) => level === 'error');
    expect(loud).to.have.length(1);
    expect(changes).to.deep.equal([]);

    // A controller that saw none of it goes on there, past the count that the other one knows.
    const other = await stores.open(sentinelsOf(group), { leastReplicas: 0 });
    for (let n = 0; n < 60; n += 1) await commit(other, put(`other${n}`, n));
    const later = await rejection(stores.open(sentinelsOf(group), { leastReplicas: 1 }));
    expect(`${later}`).to.contain('store.redis.replicas asks for 1');
    expect(await rejection(store.get('a'))).to.have.property('kind', 'lost-commits');
  });

  it('does not count a replica that is never promoted', async () => {
    await server(1).call('CONFIG', 'SET', 'replica-priority', '0');
    await server(2).kill();
    await waitFor('the Sentinels to know', async () => {
      for (const sentinel of group.sentinels) {
        const replicas = await sentinel.call<readonly (readonly string[])[]>('SENTINEL', 'REPLICAS', 'moorage');
        const one = replicas.find((fields) => fields.includes(String(server(1).port)));
        if (one === undefined || one[one.indexOf('slave-priority') + 1] !== '0') return false;
      }
      return true;
    });
    const error = await rejection(stores.open(sentinelsOf(group), { leastReplicas: 1 }));
    expect(`${error}`).to.contain('has 0 promotable replicas in sync').and.contain('replica-priority 0');
    await server(2).start();
    await group.ready();
    // A frozen one that is never promoted holds nobody up: were it waited for, these would not pass before their deadline.
    const opened = await stores.open(sentinelsOf(group), { leastReplicas: 1, replicaTimeoutMilliseconds: 60_000 });
    await commit(opened, put('a', 1));
    server(1).freeze();
    for (let n = 0; n < 10; n += 1) await commit(opened, put('a', n));
    server(2).freeze();
    expect(await rejection(opened.commit([put('a', 11)]))).to.have.property('kind', 'unknown');
  });

  it('believes a majority of the Sentinels, and serves on without them', async () => {
    await group.sentinels[0]?.kill();
    const second = await stores.open(sentinelsOf(group), { leastReplicas: 1 });
    await commit(second, put('a', 1));
    await group.sentinels[1]?.kill();
    await commit(second, put('a', 2));
    const error = await rejection(stores.open(sentinelsOf(group), { leastReplicas: 1 }));
    expect(error).to.have.property('kind', 'unavailable');
    expect(`${error}`)
      .to.contain('no majority of the Sentinels')
      .and.contain(group.sentinels[0]?.address ?? '');
  });
});
