import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Store } from '../../src/core/ports/store.js';
import { openSqliteStore, restoreSqliteStore } from '../../src/store/sqlite/index.js';
import { type StoreUnderTest, storeContract } from './store-contract.js';

async function openFresh(copy?: string): Promise<StoreUnderTest> {
  const directory = await mkdtemp(join(tmpdir(), 'moorage-store-'));
  const location = join(directory, 'store.db');
  if (copy !== undefined) restoreSqliteStore(location, copy);
  const opened: Store[] = [];
  const reopen = async () => {
    const store = await openSqliteStore({ path: location });
    opened.push(store);
    return store;
  };
  return {
    store: await reopen(),
    location,
    reopen,
    dispose: async () => {
      for (const store of opened) await store.close();
      await rm(directory, { recursive: true });
    },
  };
}

storeContract('SQLite', {
  kind: 'sqlite',
  open: openFresh,
  restore: openFresh,
  restoreOver: async ({ location }, copy) => restoreSqliteStore(location, copy),
});
