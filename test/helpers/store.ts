import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Store } from '../../src/core/ports/store.js';
import { defaultRedisOptions, openRedisStore } from '../../src/store/redis/index.js';
import { openSqliteStore } from '../../src/store/sqlite/index.js';
import { type RedisGroup, startRedis } from './redis.js';

/** Data of a store of a test's own, of the kind that the variable STORE names: sqlite, the default, or redis. */
export interface TestStore {
  /** As the controller's configuration has it. */
  readonly settings: Readonly<Record<string, unknown>>;
  /** Whether its data lies in the controller's own folder. */
  readonly embedded: boolean;
  /** Opens it beside whatever uses it; one that is embedded only while no controller runs. */
  open(): Promise<Store>;
  /** Loses all its data. While no controller runs. */
  lose(): Promise<void>;
  /** The Redis on which it is, if it is on one. */
  readonly redis?: RedisGroup;
  /** Ends what serves it, and removes its data where it does not lie in the test's folder. */
  remove(): Promise<void>;
}

/**
 * Makes an empty store.
 * @param directory where its data lies.
 * @param stateDirectory the controller's state_directory, when that is another one.
 * @param beatTimeout journal.beat_timeout of the controllers that use it: a commit may take half of it.
 */
export async function makeTestStore(
  directory: string,
  beatTimeout: unknown = '10s',
  kind: string = process.env.STORE ?? 'sqlite',
  stateDirectory: string = directory,
): Promise<TestStore> {
  if (kind === 'sqlite') {
    const path = join(directory, 'store.db');
    return {
      settings: { sqlite: { path } },
      embedded: true,
      open: () => openSqliteStore({ path }),
      lose: async () => {
        for (const end of ['', '-wal', '-shm']) await rm(`${path}${end}`, { force: true });
      },
      remove: () => Promise.resolve(),
    };
  }
  if (kind !== 'redis') throw new Error(`STORE must be sqlite or redis, not ${kind}`);
  const group = await startRedis({ directory });
  const address = group.servers[0]?.address ?? '';
  const stateFile = join(stateDirectory, 'redis-store.json');
  const commitTimeout = Math.min(5_000, millisecondsOf(beatTimeout) / 2);
  return {
    settings: {
      redis: {
        ...{ server: address, replicas: 0, commit_timeout: `${commitTimeout}ms` },
        ...{ replica_timeout: `${commitTimeout / 2}ms` },
      },
    },
    embedded: false,
    redis: group,
    open: () => openRedisStore({ ...defaultRedisOptions, place: { kind: 'server', address }, leastReplicas: 0 }),
    lose: async () => {
      await group.servers[0]?.call('FLUSHALL');
      // Whoever lost its store to the last document tells the controller so.
      await rm(stateFile, { force: true });
    },
    remove: () => group.remove(),
  };
}

/** journal.beat_timeout of a test's settings; undefined when they have none. */
export function beatTimeoutOf(settings: Readonly<Record<string, unknown>> = {}): unknown {
  return (settings.journal as { readonly beat_timeout?: unknown } | undefined)?.beat_timeout;
}

/** Milliseconds of a duration of the configuration: seconds or milliseconds, which is what tests use. */
function millisecondsOf(duration: unknown): number {
  const match = /^(\d+)(ms|s)$/.exec(String(duration));
  if (match === null) throw new Error(`${duration} is no duration in s or ms`);
  return Number(match[1]) * (match[2] === 's' ? 1000 : 1);
}
