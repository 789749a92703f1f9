import type { Store } from '../../src/core/ports/store.js';
import { openRedisStore, type RedisStoreOptions } from '../../src/store/redis/index.js';
import { openSqliteStore } from '../../src/store/sqlite/index.js';

/** How a process of its own opens a store, by the harness's kind. */
export const storeKinds: Readonly<Record<string, (location: string) => Promise<Store>>> = {
  sqlite: (path) => openSqliteStore({ path }),
  redis: (options) => openRedisStore(JSON.parse(options) as RedisStoreOptions),
};
