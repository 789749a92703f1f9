import { expect } from 'chai';
import { COMMIT_REVISION, type IndexEntry, type ListRange, sortableRevision } from '../../src/core/ports/store.js';
import type { StoreHarness, StoreUnderTest } from './store-contract.js';
import { commit, keysOf, listAll, put, rejection, remove } from './store-helpers.js';

const at = (...sorts: readonly string[]): { indexes: IndexEntry[] } => ({
  indexes: sorts.map((sort) => ({ index: 'i', sort })),
});

/** Indexes: their order, their pages, and what becomes of cursors. */
export function listContract(harness: StoreHarness): void {
  describe('indexes', () => {
    let opened: StoreUnderTest;
    beforeEach(async () => {
      opened = await harness.open();
    });
    afterEach(() => opened.dispose());

    it('lists nothing of an index that nobody is in', async () => {
      expect(await opened.store.list('i', { limit: 10 })).to.deep.equal({ documents: [], cursor: undefined });
      expect(await opened.store.count('i')).to.equal(0);
    });

    it('orders by sort, then by key, and gives whole documents', async () => {
      const { store } = opened;
      const rev = await commit(store, put('z', 1, at('1')), put('b', 2, at('2')), put('a', 3, at('2')), put('c', 4));
      expect(await store.list('i', { limit: 10 })).to.deep.equal({
        documents: [
          { key: 'z', rev, value: 1 },
          { key: 'a', rev, value: 3 },
          { key: 'b', rev, value: 2 },
        ],
        cursor: undefined,
      });
    });

    it('keeps indexes apart, those whose names begin alike too', async () => {
      const { store } = opened;
      const names = ['volumes', 'volumes/', 'volumes/a', 'volumes/ab', 'Volumes', 'volumes:a', '\u00fc', ''];
      await commit(
        store,
        ...names.map((index, position) => put(`k${position}`, 1, { indexes: [{ index, sort: 's' }] })),
      );
      for (const [position, index] of names.entries()) {
        expect(await keysOf(store, index), index).to.deep.equal([`k${position}`]);
        expect(await store.count(index), index).to.equal(1);
      }
    });

    it('orders byte by byte in UTF-8', async () => {
      const texts = [
        '',
        '\u0000',
        '\u0001',
        ' ',
        '%',
        '10',
        '9',
        'A',
        'Z',
        '_',
        'a',
        'a\u0000',
        'aa',
        'b',
        '\u007f',
        '\u0080',
        '\u00e4',
        '\u0101',
        '\ud7ff',
        '\ue000',
        '\uffff',
        '\u{10000}',
        '\u{1f600}',
        '\u{10ffff}',
      ];
      const bytewise = [...texts].sort((left, right) => Buffer.compare(Buffer.from(left), Buffer.from(right)));
      const shuffled = texts.map((_, position) => texts[(position * 7) % texts.length] ?? '');
      expect(new Set(shuffled).size).to.equal(texts.length);
      await commit(opened.store, ...shuffled.map((sort) => put(`k${sort}`, sort, at(sort))));
      await commit(
        opened.store,
        ...shuffled.map((text) => put(`l${text}`, text, { indexes: [{ index: 'keys', sort: '' }] })),
      );
      for (const pageSize of [1, 5, 1000]) {
        expect((await listAll(opened.store, 'i', { pageSize })).map(({ value }) => value)).to.deep.equal(bytewise);
        expect((await listAll(opened.store, 'keys', { pageSize })).map(({ value }) => value)).to.deep.equal(bytewise);
      }
    });

    it('lists by prefix, whatever the prefix ends with', async () => {
      const { store } = opened;
      const sorts = [
        'a',
        'a/',
        'a/1',
        'a/2',
        'a0',
        'b',
        'a%',
        'a%x',
        'a_x',
        'a[x',
        'a\ud7ff',
        'a\ud7ffx',
        'a\ue000',
        'a\u{10ffff}',
        'a\u{10ffff}x',
        '\u{10ffff}',
        '\u{10ffff}\u{10ffff}z',
      ];
      await commit(store, ...sorts.map((sort, position) => put(`k${position}`, sort, at(sort))));
      for (const prefix of ['', ...sorts, 'a/3', 'c']) {
        const expected = sorts
          .filter((sort) => sort.startsWith(prefix))
          .sort((left, right) => Buffer.compare(Buffer.from(left), Buffer.from(right)));
        for (const pageSize of [1, 2, 1000]) {
          const listed = (await listAll(store, 'i', { prefix, pageSize })).map(({ value }) => value);
          expect(listed, JSON.stringify(prefix)).to.deep.equal(expected);
        }
      }
    });

    it('replaces the entries of a document, and counts', async () => {
      const { store } = opened;
      await commit(
        store,
        put('a', 1, { indexes: [...at('1', '5').indexes, { index: 'j', sort: 'x' }] }),
        put('b', 1, at('3')),
      );
      expect(await keysOf(store, 'i')).to.deep.equal(['a', 'b', 'a']);
      expect([await store.count('i'), await store.count('j')]).to.deep.equal([3, 1]);
      await commit(store, put('a', 2, at('5', '4', '4')));
      expect(await keysOf(store, 'i')).to.deep.equal(['b', 'a', 'a']);
      expect(await keysOf(store, 'j')).to.deep.equal([]);
      expect([await store.count('i'), await store.count('j')]).to.deep.equal([3, 0]);
      await commit(store, put('a', 3, at('4')));
      expect((await listAll(store, 'i')).map(({ value }) => value)).to.deep.equal([1, 3]);
      await commit(store, put('a', 4));
      expect(await keysOf(store, 'i')).to.deep.equal(['b']);
      await commit(store, remove('b'), remove('a'));
      expect([await keysOf(store, 'i'), await store.count('i')]).to.deep.equal([[], 0]);
      await commit(store, put('a', 5));
      expect(await keysOf(store, 'i')).to.deep.equal([]);
    });

    it('gives a cursor exactly while there is more', async () => {
      const { store } = opened;
      await commit(store, ...['1', '2', '3', '4'].map((sort) => put(`k${sort}`, 1, at(sort))));
      const first = await store.list('i', { limit: 2 });
      expect(first.documents.map(({ key }) => key)).to.deep.equal(['k1', 'k2']);
      expect(first.cursor).to.be.a('string');
      const second = await store.list('i', { limit: 2, after: first.cursor ?? '' });
      expect(second.documents.map(({ key }) => key)).to.deep.equal(['k3', 'k4']);
      expect(second.cursor).to.equal(undefined);
      expect((await store.list('i', { limit: 4 })).cursor).to.equal(undefined);
      expect((await store.list('i', { limit: 1, prefix: '4' })).cursor).to.equal(undefined);
    });

    it('goes on at a cursor although its entry, those before and those behind went or came', async () => {
      const { store } = opened;
      await commit(store, ...['10', '20', '30', '40'].map((sort) => put(`k${sort}`, 1, at(sort))));
      const { cursor = '' } = await store.list('i', { limit: 2 });
      await commit(
        store,
        remove('k10'),
        remove('k20'),
        remove('k30'),
        put('k15', 1, at('15')),
        put('k25', 1, at('25')),
      );
      const rest = await store.list('i', { limit: 10, after: cursor });
      expect(rest.documents.map(({ key }) => key)).to.deep.equal(['k25', 'k40']);
      await commit(store, put('k25', 1, at('05')), put('a20', 1, at('20')), put('z20', 1, at('20')));
      const again = await store.list('i', { limit: 10, after: cursor });
      expect(again.documents.map(({ key }) => key)).to.deep.equal(['z20', 'k40']);
    });

    it('ends before a position, by itself and with a prefix and a cursor', async () => {
      const { store } = opened;
      await commit(store, ...['a1', 'a2', 'a3', 'b1', '\u{10ffff}'].map((sort) => put(`k${sort}`, 1, at(sort))));
      const keys = async (range: Partial<ListRange>) =>
        (await store.list('i', { limit: 10, ...range })).documents.map(({ key }) => key);
      expect(await keys({ before: 'a3' })).to.deep.equal(['ka1', 'ka2']);
      expect(await keys({ before: 'a1' })).to.deep.equal([]);
      expect(await keys({ before: 'b1', prefix: 'a' })).to.deep.equal(['ka1', 'ka2', 'ka3']);
      expect(await keys({ before: 'a2', prefix: 'a' })).to.deep.equal(['ka1']);
      expect(await keys({ before: 'z', prefix: 'a' })).to.deep.equal(['ka1', 'ka2', 'ka3']);
      const first = await store.list('i', { limit: 1, before: 'a3' });
      expect(await keys({ before: 'a3', after: first.cursor ?? '' })).to.deep.equal(['ka2']);
      expect((await store.list('i', { limit: 2, before: 'a3' })).cursor).to.equal(undefined);
    });

    it('begins at a position, by itself and with a prefix, an end and a cursor', async () => {
      const { store } = opened;
      await commit(store, ...['a1', 'a2', 'a3', 'b1', '\u{10ffff}'].map((sort) => put(`k${sort}`, 1, at(sort))));
      const keys = async (range: Partial<ListRange>) =>
        (await store.list('i', { limit: 10, ...range })).documents.map(({ key }) => key);
      expect(await keys({ from: 'a3' })).to.deep.equal(['ka3', 'kb1', 'k\u{10ffff}']);
      expect(await keys({ from: '' })).to.have.length(5);
      expect(await keys({ from: 'a20' })).to.deep.equal(['ka3', 'kb1', 'k\u{10ffff}']);
      expect(await keys({ from: 'a2', prefix: 'a' })).to.deep.equal(['ka2', 'ka3']);
      expect(await keys({ from: 'a', prefix: 'b' })).to.deep.equal(['kb1']);
      expect(await keys({ from: 'c', prefix: 'a' })).to.deep.equal([]);
      expect(await keys({ from: 'a2', before: 'b1' })).to.deep.equal(['ka2', 'ka3']);
      expect(await keys({ from: 'a3', before: 'a2' })).to.deep.equal([]);
      const { cursor = '' } = await store.list('i', { limit: 1, from: 'a2' });
      expect(await keys({ from: 'a2', after: cursor })).to.deep.equal(['ka3', 'kb1', 'k\u{10ffff}']);
      expect(await keys({ from: 'b', after: cursor })).to.deep.equal(['kb1', 'k\u{10ffff}']);
    });

    it('puts an entry at the revision of the commit that writes it', async () => {
      const { store } = opened;
      const changes = { indexes: [{ index: 'changes', sort: COMMIT_REVISION }] };
      const changed = async (from = 0) =>
        (await store.list('changes', { limit: 10, from: sortableRevision(from) })).documents.map(({ key }) => key);
      const first = await commit(store, put('b', 1, changes), put('a', 1, changes), put('other', 1, at('1')));
      const second = await commit(store, put('c', 1, changes));
      expect(await changed()).to.deep.equal(['a', 'b', 'c']);
      expect(await changed(first + 1)).to.deep.equal(['c']);
      expect(await keysOf(store, 'changes', { prefix: sortableRevision(first) })).to.deep.equal(['a', 'b']);
      // The same entries again move the document: to the end, and out of where it stood.
      const third = await commit(store, put('a', 2, changes));
      expect(third).to.be.greaterThan(second);
      expect(await changed()).to.deep.equal(['b', 'c', 'a']);
      expect(await changed(second + 1)).to.deep.equal(['a']);
      expect(await store.count('changes')).to.equal(3);
      // What conflicts moves nothing; what leaves the index, or goes, stands nowhere.
      expect((await store.commit([put('b', 2, { ...changes, expect: 'absent' })])).ok).to.equal(false);
      expect(await changed()).to.deep.equal(['b', 'c', 'a']);
      await commit(store, put('c', 2), remove('b'));
      expect(await changed()).to.deep.equal(['a']);
      expect(await store.count('changes')).to.equal(1);
      await store.close();
      opened = { ...opened, store: await opened.reopen() };
      const fourth = await commit(opened.store, put('d', 1, changes));
      expect(await keysOf(opened.store, 'changes')).to.deep.equal(['a', 'd']);
      expect(fourth).to.be.greaterThan(third);
    });

    it('shows all of a commit, or nothing of it, to who reads what changed since a revision', async () => {
      const { store } = opened;
      const indexes = [{ index: 'changes', sort: COMMIT_REVISION }];
      let writing = true;
      const writers = Promise.all(
        ['x', 'y', 'z'].map(async (name) => {
          for (let n = 0; n < 60; n += 1)
            await commit(store, put(`${name}/1`, n, { indexes }), put(`${name}/2`, n, { indexes }));
        }),
      ).finally(() => {
        writing = false;
      });
      let position = 0;
      const last = new Map<string, unknown>();
      for (let more = true; more; ) {
        more = writing;
        const page = await store.list('changes', { limit: 100, from: sortableRevision(position + 1) });
        for (const { key, rev, value } of page.documents) {
          expect(rev).to.be.at.least(position);
          position = rev;
          last.set(key, value);
        }
        const seen = page.documents.map(({ rev }) => rev);
        expect(
          seen.filter((rev) => seen.indexOf(rev) === seen.lastIndexOf(rev)),
          'half a commit',
        ).to.deep.equal([]);
        await new Promise((resolve) => setImmediate(resolve));
      }
      await writers;
      expect([...last.values()]).to.deep.equal([59, 59, 59, 59, 59, 59]);
    });

    it('keeps a cursor inside the prefix that it is used with', async () => {
      const { store } = opened;
      await commit(store, ...['a1', 'a2', 'b1', 'b2', 'c1'].map((sort) => put(`k${sort}`, 1, at(sort))));
      const { cursor = '' } = await store.list('i', { limit: 1 });
      const inB = await store.list('i', { limit: 10, prefix: 'b', after: cursor });
      expect(inB.documents.map(({ key }) => key)).to.deep.equal(['kb1', 'kb2']);
    });

    it('shows what stays exactly once while others come, go and move', async () => {
      const { store } = opened;
      const stays = Array.from({ length: 300 }, (_, n) => `stays/${String(n).padStart(4, '0')}`);
      const comes = (n: number) => put(`comes/${n % 200}`, n, at(`stays/${String((n * 37) % 300).padStart(4, '0')}x`));
      await commit(
        store,
        ...stays.map((key) => put(key, 0, at(key))),
        ...Array.from({ length: 200 }, (_, n) => comes(n)),
      );
      let changing = true;
      const changes = (async () => {
        for (let n = 0; changing; n += 1) {
          await commit(store, n % 3 === 0 ? remove(`comes/${(n * 7) % 200}`) : comes(n));
        }
      })();
      try {
        for (let pass = 0; pass < 5; pass += 1) {
          const seen: string[] = [];
          let after: string | undefined;
          do {
            const page = await store.list('i', { limit: 7, ...(after === undefined ? {} : { after }) });
            seen.push(...page.documents.map(({ key }) => key).filter((key) => key.startsWith('stays/')));
            after = page.cursor;
            await new Promise((resolve) => setImmediate(resolve));
          } while (after !== undefined);
          expect(seen).to.deep.equal(stays);
        }
      } finally {
        changing = false;
        await changes;
      }
    });

    it('holds 10,000 documents in several indexes', async () => {
      const { store } = opened;
      const count = 10_000;
      const keyOf = (n: number) => `volume/${String((n * 7919) % count).padStart(6, '0')}`;
      for (let from = 0; from < count; from += 500) {
        const writes = Array.from({ length: 500 }, (_, offset) => {
          const key = keyOf(from + offset);
          const indexes = [
            { index: 'all', sort: key },
            { index: `by-last-digit/${key.slice(-1)}`, sort: key },
          ];
          return put(key, { n: from + offset }, { expect: 'absent', indexes });
        });
        await commit(store, ...writes);
      }
      expect(await store.count('all')).to.equal(count);
      expect(await store.count('by-last-digit/3')).to.equal(count / 10);
      const keys = await keysOf(store, 'all', { pageSize: 333 });
      expect(keys).to.deep.equal(Array.from({ length: count }, (_, n) => `volume/${String(n).padStart(6, '0')}`));
      expect(await keysOf(store, 'by-last-digit/3')).to.deep.equal(keys.filter((key) => key.endsWith('3')));
      expect((await store.get(keyOf(4242)))?.value).to.deep.equal({ n: 4242 });
      await commit(store, ...keys.filter((key) => key.endsWith('3')).map((key) => remove(key)));
      expect(await store.count('all')).to.equal((count / 10) * 9);
      expect(await store.count('by-last-digit/3')).to.equal(0);
    });

    it('refuses limits and cursors that are none', async () => {
      const { store } = opened;
      await commit(store, put('a', 1, at('1')));
      for (const limit of [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY]) {
        expect(await rejection(store.list('i', { limit })), `${limit}`).to.be.instanceOf(RangeError);
      }
      for (const after of [
        '',
        'x',
        Buffer.from('[1,2]').toString('base64url'),
        Buffer.from('["a"]').toString('base64url'),
      ]) {
        expect(await rejection(store.list('i', { limit: 1, after })), after).to.be.instanceOf(RangeError);
      }
    });
  });
}
