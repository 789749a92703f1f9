import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { COMMIT_REVISION, type Store } from '../../src/core/ports/store.js';
import { openSqliteStore } from '../../src/store/sqlite/index.js';
import { waitFor } from '../helpers/wait.js';
import type { StoreHarness, StoreUnderTest } from './store-contract.js';
import { commit, keysOf, put, rejection, remove } from './store-helpers.js';

const ACCOUNTS = 400;
const START = 100;

interface Account {
  readonly balance: number;
}

/** Copies, and stores that are made of them. */
export function backupContract(harness: StoreHarness): void {
  describe('backup', function () {
    this.timeout(120_000);
    let directory: string;
    let open: StoreUnderTest[];
    let store: Store;

    beforeEach(async () => {
      directory = mkdtempSync(join(tmpdir(), 'moorage-backup-'));
      open = [await harness.open()];
      store = open[0]?.store as Store;
    });
    afterEach(async () => {
      for (const each of open) await each.dispose();
      rmSync(directory, { recursive: true, force: true });
    });

    const name = (n: number): string => `account/${n}`;
    const indexes = (balance: number) => [
      { index: 'accounts', sort: String(balance).padStart(6, '0') },
      { index: 'changes', sort: COMMIT_REVISION },
    ];
    const backup = async (from: Store, file: string): Promise<string> => {
      const path = join(directory, file);
      const { sizeBytes } = await from.backup(path, [put('mark', { copy: true })]);
      expect(statSync(path).size).to.equal(sizeBytes);
      expect(statSync(path).mode & 0o777).to.equal(0o600);
      return path;
    };
    const restore = async (path: string): Promise<Store> => {
      const restored = await harness.restore(path);
      open.push(restored);
      return restored.store;
    };

    /** Moves money between accounts, closes and opens some; each commit leaves the sum as it is. */
    async function transfer(from: number, to: number): Promise<void> {
      for (;;) {
        const [a, b] = await store.getMany<Account>([name(from), name(to)]);
        if (a === undefined) return;
        const all = b?.value.balance ?? 0;
        // Every fourth one is closed, and made again by the next that pays it.
        const amount = from % 4 === 0 ? a.value.balance : Math.ceil(a.value.balance / 2);
        const left = a.value.balance - amount;
        const outcome = await store.commit([
          from % 4 === 0
            ? { kind: 'delete', key: name(from), expect: a.rev }
            : put(name(from), { balance: left }, { expect: a.rev, indexes: indexes(left) }),
          put(name(to), { balance: all + amount }, { expect: b?.rev ?? 'absent', indexes: indexes(all + amount) }),
        ]);
        if (outcome.ok) return;
      }
    }

    async function expectWhole(copy: Store): Promise<void> {
      const names = await keysOf(copy, 'accounts', { pageSize: 100 });
      const documents = await copy.getMany<Account>(names);
      const sum = documents.reduce((total, document) => total + (document?.value.balance ?? Number.NaN), 0);
      expect(sum, 'money').to.equal(ACCOUNTS * START);
      expect(await copy.count('accounts')).to.equal(names.length);
      const changes = await keysOf(copy, 'changes', { pageSize: 100 });
      expect([...changes].sort()).to.deep.equal([...names].sort());
      const revisions = (await copy.getMany(changes)).map((document) => document?.rev ?? 0);
      expect(revisions, 'in the order in which they changed').to.deep.equal([...revisions].sort((a, b) => a - b));
      expect((await copy.get('mark'))?.value).to.deep.equal({ copy: true });
    }

    it('is the store at one moment, while it is written to', async () => {
      for (let from = 0; from < ACCOUNTS; from += 100) {
        const some = Array.from({ length: 100 }, (_, n) => from + n);
        await commit(store, ...some.map((n) => put(name(n), { balance: START }, { indexes: indexes(START) })));
      }
      let moved = 0;
      let stopped = false;
      const worker = async (): Promise<void> => {
        while (!stopped) {
          const from = Math.floor(Math.random() * ACCOUNTS);
          const to = Math.floor(Math.random() * ACCOUNTS);
          if (from !== to) await transfer(from, to);
          moved += 1;
        }
      };
      const workers = Array.from({ length: 8 }, worker);
      try {
        await waitFor('it is written to', () => moved > 100);
        for (let round = 0; round < 3; round += 1) {
          const before = await commit(store, put(`before/${round}`, round));
          const began = moved;
          const path = await backup(store, `copy-${round}`);
          expect(moved, 'nobody was held up').to.be.above(began);
          const copy = await openSqliteStore({ path });
          await expectWhole(copy);
          expect((await copy.get(`before/${round}`))?.rev, 'what was acknowledged before is in it').to.equal(before);
          await copy.close();
        }
      } finally {
        stopped = true;
        await Promise.all(workers);
      }
    });

    it('becomes a store again, whose revisions mean nothing else in the original', async () => {
      await commit(
        store,
        ...Array.from({ length: ACCOUNTS }, (_, n) => put(name(n), { balance: START }, { indexes: indexes(START) })),
      );
      await transfer(0, 1);
      await transfer(5, 2);
      await commit(store, put('text', 'ä\u0000\n"', { indexes: [{ index: 'a\u0000b', sort: 'x\u0000y' }] }));
      await commit(store, remove(name(399)), put('rest', 1));
      await commit(store, put(name(398), { balance: 2 * START }, { indexes: indexes(2 * START) }));
      const path = await backup(store, 'copy');
      const later = await commit(store, put('later', 1));
      const restored = await restore(path);
      await expectWhole(restored);
      for (const key of [name(1), name(398), 'text', 'rest']) {
        expect(await restored.get(key)).to.deep.equal(await store.get(key));
      }
      expect(await keysOf(restored, 'a\u0000b')).to.deep.equal(['text']);
      expect(await restored.get('later')).to.equal(undefined);
      const next = await commit(restored, put(name(0), { balance: 0 }, { indexes: indexes(0) }));
      expect(next).to.be.above(later + 1_000_000);
      // Its entries are replaced as those of any other document.
      await commit(restored, remove(name(398)), put(name(397), { balance: 300 }, { indexes: indexes(300) }));
      await expectWhole(restored);
      // A copy of what was made of a copy is as good.
      await expectWhole(await restore(await backup(restored, 'second')));
    });

    it('takes no other store’s place, and reads nothing that is none', async () => {
      await commit(store, put('a', 1));
      const path = await backup(store, 'copy');
      const restored = await restore(path);
      expect(await rejection(harness.restoreOver(open[1] as StoreUnderTest, path))).to.have.property('kind', 'in-use');
      expect((await restored.get('a'))?.value).to.equal(1);
      expect(await rejection(harness.restore(join(directory, 'none')))).to.have.property('kind', 'unavailable');
    });
  });
}
