import { randomUUID } from 'node:crypto';
import { rmSync } from 'node:fs';
import { StoreError } from '../../core/ports/store.js';
import { type CopiedDocument, openCopy } from '../sqlite/copy.js';
import { readCredentials } from './access.js';
import { Connection } from './connection.js';
import { keyPattern } from './encoding.js';
import { translateRedisError } from './errors.js';
import { inspectPrimary } from './inspect.js';
import type { RedisStoreOptions } from './options.js';
import { FORMAT, loadEndScript, loadScript, type Script } from './scripts.js';
import { Sentinels } from './sentinels.js';

/** How many documents are put at once, and about how much text. */
const BATCH = 500;
const BATCH_CHARACTERS = 4_000_000;

/**
 * Makes a store of a copy, behind a prefix where there is none. One that was cut short is done again. Forgets what this
 * controller saw acknowledged of the store before.
 * @throws {StoreError} `in-use` when a store is there; `unavailable`, also when fewer replicas have it than must; `corrupt`,
 *   `newer-version` for the copy
 */
export async function restoreRedisStore(options: RedisStoreOptions, path: string): Promise<void> {
  const copy = openCopy(path);
  let connection: Connection | undefined;
  try {
    const { prefix, persistence, access, tls, callTimeoutMilliseconds: timeout } = options;
    const address = await primaryOf(options);
    connection = await Connection.open(address, readCredentials(access, tls), timeout);
    await inspectPrimary(connection, persistence, timeout);
    await clear(connection, options);
    await put(connection, options, copy.documents());
    await evaluate(connection, options, loadEndScript, [prefix, randomUUID(), String(FORMAT), String(copy.last)]);
    await replicate(connection, options);
    if (options.stateFile !== undefined) rmSync(options.stateFile, { force: true });
  } catch (error) {
    throw translateRedisError(error, connection?.address ?? '');
  } finally {
    connection?.close();
    copy.close();
  }
}

async function primaryOf({ place, tls, callTimeoutMilliseconds }: RedisStoreOptions): Promise<string> {
  if (place.kind === 'server') return place.address;
  const sentinels = new Sentinels(place, tls, callTimeoutMilliseconds);
  try {
    return (await sentinels.ask()).primary;
  } finally {
    sentinels.close();
  }
}

/** Removes what a restore that was cut short has left. */
async function clear(
  connection: Connection,
  { prefix, callTimeoutMilliseconds: timeout }: RedisStoreOptions,
): Promise<void> {
  const meta = `${prefix}meta`;
  if ((await connection.call<string | null>(['HGET', meta, 'loading'], timeout)) === null) return;
  let cursor = '0';
  do {
    const parameters = ['SCAN', cursor, 'MATCH', keyPattern(prefix), 'COUNT', String(BATCH)];
    const [next, names] = await connection.call<[string, string[]]>(parameters, timeout);
    const others = names.filter((name) => name !== meta);
    if (others.length > 0) await connection.call(['DEL', ...others], timeout);
    cursor = next;
  } while (cursor !== '0');
}

async function put(
  connection: Connection,
  options: RedisStoreOptions,
  documents: Iterable<CopiedDocument>,
): Promise<void> {
  let batch: string[] = [];
  let size = 0;
  for (const { key, rev, entries, value } of documents) {
    batch.push(key, String(rev), JSON.stringify(entries), value);
    size += key.length + value.length;
    if (batch.length < 4 * BATCH && size < BATCH_CHARACTERS) continue;
    await evaluate(connection, options, loadScript, [options.prefix, ...batch]);
    batch = [];
    size = 0;
  }
  await evaluate(connection, options, loadScript, [options.prefix, ...batch]);
}

async function evaluate(
  connection: Connection,
  { callTimeoutMilliseconds: timeout }: RedisStoreOptions,
  { text, sha }: Script,
  parameters: readonly string[],
): Promise<void> {
  await connection.call(['SCRIPT', 'LOAD', text], timeout);
  const [answer] = await connection.call<readonly string[]>(['EVALSHA', sha, '0', ...parameters], timeout);
  if (answer === 'ok') return;
  throw new StoreError(
    'in-use',
    `there is a store on the Redis server ${connection.address} behind the prefix ${JSON.stringify(parameters[0])}: stop its ` +
      'controllers and empty it, or set another store.redis.prefix, and restore then',
  );
}

async function replicate(
  connection: Connection,
  { leastReplicas, commitTimeoutMilliseconds, callTimeoutMilliseconds }: RedisStoreOptions,
): Promise<void> {
  if (leastReplicas === 0) return;
  const parameters = ['WAIT', String(leastReplicas), String(commitTimeoutMilliseconds)];
  const found = await connection.call<number>(parameters, commitTimeoutMilliseconds + callTimeoutMilliseconds);
  if (found >= leastReplicas) return;
  throw new StoreError(
    'unavailable',
    `the store is restored on ${connection.address}, but only ${found} replicas have it in time, and store.redis.replicas ` +
      `asks for ${leastReplicas}: see to the replicas before a controller starts`,
  );
}
