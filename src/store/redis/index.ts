/** The store for several controllers: Redis, with replicas and Sentinels. */
export {
  defaultRedisOptions,
  type RedisAccess,
  type RedisPersistence,
  type RedisPlace,
  type RedisStoreOptions,
  type RedisTls,
} from './options.js';
export { restoreRedisStore } from './restore.js';
export { openRedisStore } from './store.js';
