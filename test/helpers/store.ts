import { join } from 'node:path';
import { startRedis } from './redis.js';

/** Data of a store of a test's own, of the kind that the variable STORE names: sqlite, the default, or redis. */
export interface TestStore {
  /** As the controller's configuration has it. */
  readonly settings: Readonly<Record<string, unknown>>;
  /** Whether its data lies in the controller's own folder. */
  readonly embedded: boolean;
  /** Ends what serves it, and removes its data where it does not lie in the test's folder. */
  remove(): Promise<void>;
}

/**
 * Makes an empty store.
 * @param directory where its data lies.
 * @param beatTimeout journal.beat_timeout of the controllers that use it: a commit may take half of it.
 */
export async function makeTestStore(
  directory: string,
  beatTimeout: unknown = '10s',
  kind: string = process.env.STORE ?? 'sqlite',
): Promise<TestStore> {
  if (kind === 'sqlite') {
    const settings = { sqlite: { path: join(directory, 'store.db') } };
    return { settings, embedded: true, remove: () => Promise.resolve() };
  }
  if (kind !== 'redis') throw new Error(`STORE must be sqlite or redis, not ${kind}`);
  const group = await startRedis({ directory });
  const address = group.servers[0]?.address ?? '';
  const commitTimeout = Math.min(5_000, millisecondsOf(beatTimeout) / 2);
  return {
    settings: {
      redis: {
        ...{ server: address, replicas: 0, commit_timeout: `${commitTimeout}ms` },
        ...{ replica_timeout: `${commitTimeout / 2}ms` },
      },
    },
    embedded: false,
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
