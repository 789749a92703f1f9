import { expect } from 'chai';
import { type CommitOutcome, StoreError } from '../../src/core/ports/store.js';
import type { StoreHarness, StoreUnderTest } from './store-contract.js';
import { check, commit, conflictsOf, keysOf, listAll, put, rejection, remove } from './store-helpers.js';

/** Reading one document, and commits. */
export function commitContract(harness: StoreHarness): void {
  let opened: StoreUnderTest;
  beforeEach(async () => {
    opened = await harness.open();
  });
  afterEach(() => opened.dispose());

  describe('documents', () => {
    it('answers undefined where there is none', async () => {
      expect(await opened.store.get('a')).to.equal(undefined);
      expect(await opened.store.getMany(['a', 'b'])).to.deep.equal([undefined, undefined]);
      expect(await opened.store.getMany([])).to.deep.equal([]);
    });

    it('answers what was committed last, with its revision', async () => {
      const { store } = opened;
      const first = await commit(store, put('a', { size: 1, tags: { x: ['y', null, true, 1.5] } }));
      expect(await store.get('a')).to.deep.equal({
        key: 'a',
        rev: first,
        value: { size: 1, tags: { x: ['y', null, true, 1.5] } },
      });
      const second = await commit(store, put('a', 'text', { expect: first }));
      expect(second).to.be.greaterThan(first);
      expect(await store.get('a')).to.deep.equal({ key: 'a', rev: second, value: 'text' });
    });

    it('reads several in the order asked, one asked twice too', async () => {
      const { store } = opened;
      const rev = await commit(store, put('a', 1), put('b', 2));
      const a = { key: 'a', rev, value: 1 };
      const b = { key: 'b', rev, value: 2 };
      expect(await store.getMany(['b', 'none', 'a', 'b'])).to.deep.equal([b, undefined, a, b]);
    });

    it('keeps any JSON value', async () => {
      const values = [
        null,
        true,
        0,
        -1,
        1e300,
        Number.MAX_SAFE_INTEGER,
        '',
        'x',
        [],
        {},
        [[[]]],
        { '': { 'a"\\\u0000\n': '\ud800' } },
      ];
      await commit(opened.store, ...values.map((value, position) => put(`v${position}`, value)));
      const read = await opened.store.getMany(values.map((_, position) => `v${position}`));
      expect(read.map((document) => document?.value)).to.deep.equal(values);
    });

    it('keeps keys apart that differ in case, spaces, normal form, a NUL, a wildcard', async () => {
      const keys = [
        'k',
        'K',
        'k ',
        ' k',
        'k\u0000',
        'k\u0000a',
        'k%',
        'k*',
        'k_',
        '\u00e9',
        'e\u0301',
        '\u{1f600}',
        "'",
        '"',
        '{k}',
      ];
      await commit(opened.store, ...keys.map((key) => put(key, key)));
      const read = await opened.store.getMany(keys);
      expect(read.map((document) => document?.key)).to.deep.equal(keys);
      expect(read.map((document) => document?.value)).to.deep.equal(keys);
    });

    it('keeps values of 1 MB and more', async () => {
      const { store } = opened;
      const text = '\u00e9\u{1f600}x'.repeat(150_000);
      await commit(store, put('big', { text }, { indexes: [{ index: 'i', sort: 's' }] }), put('small', 1));
      const read = await store.get<{ text: string }>('big');
      expect(read?.value.text === text).to.equal(true);
      await commit(store, put('big', { text: `${text}!` }, { indexes: [{ index: 'i', sort: 's' }] }));
      const [listed] = await listAll(store, 'i');
      expect((listed?.value as { text: string } | undefined)?.text === `${text}!`).to.equal(true);
    });

    it('takes the value as it is at the call', async () => {
      const value = { state: 'before' };
      const indexes = [{ index: 'i', sort: 'before' }];
      const running = opened.store.commit([put('a', value, { indexes })]);
      value.state = 'after';
      indexes.pop();
      await running;
      expect((await opened.store.get('a'))?.value).to.deep.equal({ state: 'before' });
      expect(await keysOf(opened.store, 'i')).to.deep.equal(['a']);
    });
  });

  describe('compare and set', () => {
    it('"absent" passes only where there is none', async () => {
      const { store } = opened;
      const rev = await commit(store, put('a', 1, { expect: 'absent' }));
      expect(conflictsOf(await store.commit([put('a', 2, { expect: 'absent' })]))).to.deep.equal([{ key: 'a', rev }]);
      expect((await store.get('a'))?.value).to.equal(1);
    });

    it('a revision passes only while it is the current one', async () => {
      const { store } = opened;
      const first = await commit(store, put('a', 1));
      const second = await commit(store, put('a', 2, { expect: first }));
      expect(conflictsOf(await store.commit([put('a', 3, { expect: first })]))).to.deep.equal([
        { key: 'a', rev: second },
      ]);
      expect(conflictsOf(await store.commit([put('b', 3, { expect: first })]))).to.deep.equal([
        { key: 'b', rev: undefined },
      ]);
      expect((await store.get('a'))?.value).to.equal(2);
      expect(await store.get('b')).to.equal(undefined);
    });

    it('deletes: by revision, "any" where there is none too, "absent"', async () => {
      const { store } = opened;
      const rev = await commit(store, put('a', 1));
      expect(conflictsOf(await store.commit([remove('a', rev + 1)]))).to.deep.equal([{ key: 'a', rev }]);
      expect(conflictsOf(await store.commit([remove('a', 'absent')]))).to.deep.equal([{ key: 'a', rev }]);
      await commit(store, remove('a', rev));
      expect(await store.get('a')).to.equal(undefined);
      expect(conflictsOf(await store.commit([remove('a', rev)]))).to.deep.equal([{ key: 'a', rev: undefined }]);
      await commit(store, remove('a', 'any'), remove('b', 'absent'));
    });

    it('checks without writing', async () => {
      const { store } = opened;
      const rev = await commit(store, put('a', 1));
      await commit(store, check('a', rev), check('none', 'absent'), check('b', 'any'), put('b', 1));
      expect(await store.get('a')).to.deep.equal({ key: 'a', rev, value: 1 });
      const outcome = await store.commit([check('a', 'absent'), put('c', 1)]);
      expect(conflictsOf(outcome)).to.deep.equal([{ key: 'a', rev }]);
      expect(await store.get('c')).to.equal(undefined);
      expect((await store.commit([check('a', rev)])).ok).to.equal(true);
      expect((await store.commit([])).ok).to.equal(true);
    });

    it('holds a check and a change of one document against what was there before both', async () => {
      const { store } = opened;
      await commit(store, put('a', 1, { expect: 'absent' }), check('a', 'absent'));
      const rev = (await store.get('a'))?.rev ?? 0;
      await commit(store, remove('a', rev), check('a', rev));
      expect(conflictsOf(await store.commit([put('a', 2, { expect: rev }), check('a', rev)]))).to.deep.equal([
        { key: 'a', rev: undefined },
      ]);
    });

    it('writes all or nothing, and names every conflict', async () => {
      const { store } = opened;
      const indexes = [{ index: 'i', sort: 's' }];
      const rev = await commit(store, put('a', 1, { indexes }), put('gone', 1, { indexes }));
      const outcome = await store.commit([
        put('new', 1, { indexes }),
        put('a', 2, { expect: 'absent' }),
        remove('gone'),
        check('none', rev),
        check('gone', rev),
      ]);
      expect(conflictsOf(outcome)).to.have.deep.members([
        { key: 'a', rev },
        { key: 'none', rev: undefined },
      ]);
      expect(await keysOf(store, 'i')).to.deep.equal(['a', 'gone']);
      expect(await store.count('i')).to.equal(2);
      expect(await store.get('new')).to.equal(undefined);
      expect((await store.get('a'))?.value).to.equal(1);
    });

    it('gives all writes of a commit its revision, and never one twice', async () => {
      let previous = 0;
      for (let round = 0; round < 10; round += 1) {
        const { store } = opened;
        const rev = await commit(store, put('a', round, { expect: 'absent' }), put('b', round));
        expect(rev).to.be.greaterThan(previous);
        expect((await store.getMany(['a', 'b'])).map((document) => document?.rev)).to.deep.equal([rev, rev]);
        expect((await store.commit([put('a', 0, { expect: 'absent' })])).ok).to.equal(false);
        previous = await commit(store, remove('a', rev));
        expect(previous).to.be.greaterThan(rev);
        await store.close();
        opened = { ...opened, store: await opened.reopen() };
      }
    });

    it('refuses what no caller may ask for, and writes nothing of it', async () => {
      const { store } = opened;
      const wrong = [
        [put('a', 1), put('a', 2)],
        [put('a', 1), remove('a')],
        [put('', 1)],
        [put('a\ud800', 1)],
        [put('a', undefined)],
        [put('a', 1, { expect: 0 })],
        [put('a', 1, { expect: 1.5 })],
        [put('a', 1, { indexes: [{ index: 'i', sort: '\udfff' }] })],
      ];
      for (const writes of wrong) {
        expect(await rejection(store.commit([put('b', 1), ...writes])), JSON.stringify(writes)).to.be.instanceOf(
          TypeError,
        );
      }
      expect(await store.getMany(['a', 'b'])).to.deep.equal([undefined, undefined]);
    });
  });

  describe('concurrent commits', () => {
    it('lets exactly one win each round', async () => {
      const { store } = opened;
      let expected: number | 'absent' = 'absent';
      for (let round = 0; round < 50; round += 1) {
        const from: number | 'absent' = expected;
        const outcomes: readonly CommitOutcome[] = await Promise.all(
          Array.from({ length: 32 }, (_, worker) => store.commit([put('one', { round, worker }, { expect: from })])),
        );
        const winners = outcomes.flatMap((outcome, worker) => (outcome.ok ? [{ worker, rev: outcome.rev }] : []));
        expect(winners).to.have.length(1);
        const rev = winners[0]?.rev ?? 0;
        for (const outcome of outcomes) if (!outcome.ok) expect(outcome.conflicts).to.deep.equal([{ key: 'one', rev }]);
        expect(await store.get('one')).to.deep.equal({ key: 'one', rev, value: { round, worker: winners[0]?.worker } });
        expected = rev;
      }
    });

    it('loses no increment of 16 that read, add and try again', async () => {
      const { store } = opened;
      await commit(store, put('sum', 0));
      await Promise.all(
        Array.from({ length: 16 }, async () => {
          for (let added = 0; added < 20; ) {
            const current = await store.get<number>('sum');
            if (current === undefined) throw new Error('gone');
            const outcome = await store.commit([put('sum', current.value + 1, { expect: current.rev })]);
            if (outcome.ok) added += 1;
          }
        }),
      );
      expect((await store.get('sum'))?.value).to.equal(320);
    });

    it('carries out commits of one turn in their order, each alone, with revisions of their own', async () => {
      const { store } = opened;
      const outcomes = await Promise.all([
        store.commit([put('a', 1, { expect: 'absent' })]),
        store.commit([put('a', 2, { expect: 'absent' }), put('b', 2)]),
        store.commit([put('a', 3)]),
        store.commit([put('c', 4)]),
      ]);
      expect(outcomes.map((outcome) => outcome.ok)).to.deep.equal([true, false, true, true]);
      expect((await store.get('a'))?.value).to.equal(3);
      expect(await store.get('b')).to.equal(undefined);
      const revs = outcomes.flatMap((outcome) => (outcome.ok ? [outcome.rev] : []));
      expect([...new Set(revs)].sort((left, right) => left - right)).to.deep.equal(revs);
    });

    it('shows a commit to every read after it has resolved', async () => {
      const { store } = opened;
      await Promise.all(
        Array.from({ length: 100 }, async (_, worker) => {
          const rev = await commit(store, put(`k${worker}`, worker, { indexes: [{ index: 'i', sort: `${worker}` }] }));
          expect((await store.get(`k${worker}`))?.rev).to.equal(rev);
          expect(await keysOf(store, 'i')).to.include(`k${worker}`);
        }),
      );
      expect(await store.count('i')).to.equal(100);
    });
  });

  it('refuses every call once it is closed; closing again is well; what was asked for before is done', async () => {
    const { store } = opened;
    const running = store.commit([put('last', 1)]);
    await store.close();
    await store.close();
    expect((await running).ok).to.equal(true);
    for (const call of [
      () => store.get('a'),
      () => store.getMany(['a']),
      () => store.list('i', { limit: 1 }),
      () => store.count('i'),
      () => store.commit([put('a', 1)]),
    ]) {
      expect(await rejection(call()))
        .to.be.instanceOf(StoreError)
        .with.property('kind', 'unavailable');
    }
    opened = { ...opened, store: await opened.reopen() };
    expect((await opened.store.get('last'))?.value).to.equal(1);
  });
}
