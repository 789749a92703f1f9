import { join } from 'node:path';
import type { Configuration } from '../config/index.js';
import type { CoreEvents } from '../core/ports/metrics.js';
import type { Store } from '../core/ports/store.js';
import type { RedisAccess, RedisPlace, RedisStoreOptions } from '../store/redis/index.js';
import { openSqliteStore, restoreSqliteStore } from '../store/sqlite/index.js';

type RedisSettings = NonNullable<Configuration['store']['redis']>;

/**
 * Opens the store that the configuration names.
 * @throws StoreError with one sentence for the operator
 */
export async function openStore({ store, state_directory }: Configuration, events: CoreEvents): Promise<Store> {
  if (store.redis !== undefined) {
    // Only then: the client's library is a quarter of a controller's start, which comes after every crash.
    const { openRedisStore } = await import('../store/redis/index.js');
    return openRedisStore(redisOptions(store.redis, state_directory, events));
  }
  if (store.sqlite === undefined) throw new Error('The configuration has no store.');
  return openSqliteStore({ path: store.sqlite.path });
}

/**
 * Makes the store that the configuration names of a copy that `moorage store backup` made, of whichever kind of store.
 * @throws StoreError with one sentence for the operator: when there is a store already, above all
 */
export async function restoreStore({ store, state_directory }: Configuration, copy: string): Promise<void> {
  if (store.redis !== undefined) {
    const silent: CoreEvents = { notice: () => undefined };
    const { restoreRedisStore } = await import('../store/redis/index.js');
    await restoreRedisStore(redisOptions(store.redis, state_directory, silent), copy);
  } else if (store.sqlite !== undefined) restoreSqliteStore(store.sqlite.path, copy);
  else throw new Error('The configuration has no store.');
}

function redisOptions(settings: RedisSettings, stateDirectory: string, events: CoreEvents): RedisStoreOptions {
  const { tls } = settings;
  return {
    place: placeOf(settings),
    ...accessOf(settings),
    ...(tls && {
      tls: {
        ca: tls.ca,
        ...(tls.certificate !== undefined && { certificate: tls.certificate }),
        ...(tls.key !== undefined && { key: tls.key }),
      },
    }),
    prefix: settings.prefix,
    leastReplicas: settings.replicas,
    persistence: settings.persistence,
    commitTimeoutMilliseconds: settings.commit_timeout,
    callTimeoutMilliseconds: settings.call_timeout,
    replicaTimeoutMilliseconds: settings.replica_timeout,
    stateFile: join(stateDirectory, 'redis-store.json'),
    events,
  };
}

function placeOf({ server, sentinel }: RedisSettings): RedisPlace {
  if (server !== undefined) return { kind: 'server', address: server };
  if (sentinel === undefined) throw new Error('The store on Redis has neither a server nor Sentinels.');
  return { kind: 'sentinels', name: sentinel.name, addresses: sentinel.servers, ...accessOf(sentinel) };
}

function accessOf({ user, password_file }: Pick<RedisSettings, 'user' | 'password_file'>): {
  readonly access?: RedisAccess;
} {
  if (password_file === undefined) return {};
  return { access: { passwordFile: password_file, ...(user !== undefined && { user }) } };
}
