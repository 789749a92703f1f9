import type { Store } from '../../src/core/ports/store.js';
import {
  defaultRedisOptions,
  openRedisStore,
  type RedisStoreOptions,
  restoreRedisStore,
} from '../../src/store/redis/index.js';
import { type RedisGroup, type RedisOptions, startRedis } from '../helpers/redis.js';
import { type StoreUnderTest, storeContract } from './store-contract.js';

/** Runs the contract on stores of one Redis, each behind a prefix of its own. */
function redisContract(name: string, redis: RedisOptions): void {
  describe(`a real Redis: ${name}`, () => {
    let group: RedisGroup;
    let stores = 0;
    before(async () => {
      group = await startRedis(redis);
    });
    after(() => group.remove());

    const openFresh = async (copy?: string): Promise<StoreUnderTest> => {
      stores += 1;
      const options: RedisStoreOptions = {
        ...defaultRedisOptions,
        place: { kind: 'server', address: group.servers[0]?.address ?? '' },
        prefix: `store-${stores}:`,
        leastReplicas: redis.replicas ?? 0,
      };
      const opened: Store[] = [];
      const reopen = async (): Promise<Store> => {
        const store = await openRedisStore(options);
        opened.push(store);
        return store;
      };
      if (copy !== undefined) await restoreRedisStore(options, copy);
      return {
        store: await reopen(),
        location: JSON.stringify(options),
        reopen,
        dispose: async () => {
          for (const store of opened) await store.close();
        },
      };
    };
    storeContract(`Redis, ${name}`, {
      kind: 'redis',
      open: openFresh,
      restore: openFresh,
      restoreOver: ({ location }, copy) => restoreRedisStore(JSON.parse(location) as RedisStoreOptions, copy),
    });
  });
}

redisContract('one server', {});
redisContract('a primary with two replicas', { replicas: 2 });
