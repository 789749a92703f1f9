import { StoreError } from '../../core/ports/store.js';
import { type Connection, ErrorReply } from './connection.js';
import { INFORMATION, parseInformation, type ServerInformation } from './information.js';
import type { RedisPersistence } from './options.js';

/** The oldest version whose scripts refuse before their first write ("#!lua"). */
const LEAST_MAJOR_VERSION = 7;

/**
 * Looks at a server before it is used as the primary.
 * @throws {StoreError} `unavailable` with a sentence that says what to set: no primary, too old, or a server that would lose
 *   what it acknowledged.
 */
export async function inspectPrimary(
  connection: Connection,
  persistence: RedisPersistence,
  timeout: number,
): Promise<ServerInformation> {
  const information = parseInformation(await connection.call<string>(INFORMATION, timeout));
  const { address } = connection;
  if (information.role !== 'master') {
    throw new StoreError('unavailable', `the Redis server ${address} is a replica now, not the primary`);
  }
  if (Number.parseInt(information.version, 10) < LEAST_MAJOR_VERSION) {
    throw new StoreError(
      'unavailable',
      `the Redis server ${address} is version ${information.version}; ${LEAST_MAJOR_VERSION}.0 or newer is needed`,
    );
  }
  await refuseVolatile(connection, information, persistence, timeout);
  return information;
}

/**
 * Looks at a replica that may become the primary: found volatile then, nothing could be served.
 * @throws {StoreError} `unavailable` with a sentence that says what to set.
 */
export async function inspectReplica(
  connection: Connection,
  persistence: RedisPersistence,
  timeout: number,
): Promise<void> {
  const information = parseInformation(await connection.call<string>(INFORMATION, timeout));
  await refuseVolatile(connection, information, persistence, timeout);
}

async function refuseVolatile(
  connection: Connection,
  information: ServerInformation,
  persistence: RedisPersistence,
  timeout: number,
): Promise<void> {
  if (persistence === 'unchecked') return;
  const wrong = await volatility(connection, information, persistence, timeout);
  if (wrong.length === 0) return;
  throw new StoreError(
    'unavailable',
    `the Redis server ${connection.address} would lose what it acknowledged: ${wrong.join('; ')}. ` +
      'Set that there (docs/operations/redis.md), or store.redis.persistence here if a loss does not matter',
  );
}

/** What makes a server volatile, each with what to set. */
async function volatility(
  connection: Connection,
  { appendOnly, evictionPolicy }: ServerInformation,
  persistence: 'always' | 'everysec',
  timeout: number,
): Promise<readonly string[]> {
  const wrong: string[] = [];
  if (!appendOnly) wrong.push('it keeps no append-only file: set "appendonly yes"');
  if (evictionPolicy !== 'noeviction') {
    wrong.push(
      `it drops data when its memory is full (maxmemory-policy ${evictionPolicy}): set "maxmemory-policy noeviction"`,
    );
  }
  const settings = await readSettings(connection, timeout);
  const fsync = settings.get('appendfsync');
  if (fsync !== 'always' && !(fsync === 'everysec' && persistence === 'everysec')) {
    const allowed = persistence === 'everysec' ? '"appendfsync everysec" or "always"' : '"appendfsync always"';
    wrong.push(`it writes to its disk later (appendfsync ${fsync}): set ${allowed}`);
  }
  if (persistence === 'always' && settings.get('no-appendfsync-on-rewrite') === 'yes') {
    wrong.push('it does not write to its disk while it rewrites its file: set "no-appendfsync-on-rewrite no"');
  }
  return wrong;
}

async function readSettings(connection: Connection, timeout: number): Promise<ReadonlyMap<string, string>> {
  try {
    // One name a call: several at once is Redis 7, but not what all that speak its protocol can do.
    const names = ['appendfsync', 'no-appendfsync-on-rewrite'];
    const answers = await Promise.all(
      names.map((name) => connection.call<readonly string[]>(['CONFIG', 'GET', name], timeout)),
    );
    return new Map(answers.map(([name = '', value = '']) => [name, value]));
  } catch (error) {
    if (!(error instanceof ErrorReply)) throw error;
    throw new StoreError(
      'unavailable',
      `the Redis server ${connection.address} does not say how it keeps data (${error.message}): allow this user ` +
        '"+config|get", or set store.redis.persistence to "unchecked"',
      { cause: error },
    );
  }
}
