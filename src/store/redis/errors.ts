import { StoreError } from '../../core/ports/store.js';
import { ConnectionLost, ErrorReply } from './connection.js';

/**
 * What came of a command, as the port's error. A refusal by the server means that nothing was written: scripts are refused
 * before their first write.
 */
export function translateRedisError(error: unknown, address: string): StoreError {
  if (error instanceof StoreError) return error;
  if (error instanceof ConnectionLost) return new StoreError('unavailable', error.message, { cause: error });
  const message = error instanceof Error ? error.message : String(error);
  const code = refusalCode(error);
  if (code === 'OOM') {
    return new StoreError(
      'full',
      `the memory of the Redis server ${address} is full: nothing was written; raise its maxmemory`,
      { cause: error },
    );
  }
  if (code === 'WRONGTYPE') {
    return new StoreError('corrupt', `something that is not Moorage's lies among its keys on ${address}: ${message}`, {
      cause: error,
    });
  }
  if (
    code === 'NOAUTH' ||
    code === 'WRONGPASS' ||
    code === 'NOPERM' ||
    message.includes('The user executing the script')
  ) {
    return new StoreError(
      'unavailable',
      `the Redis server ${address} refuses this user: ${message} (docs/operations/redis.md says which rights it needs)`,
      { cause: error },
    );
  }
  return new StoreError('unavailable', `the Redis server ${address} cannot be used: ${message}`, { cause: error });
}

/** The word that a server's refusal begins with; undefined when it is no refusal. */
export function refusalCode(error: unknown): string | undefined {
  return error instanceof ErrorReply ? error.message.split(' ', 1)[0] : undefined;
}

/** Whether a refusal means that this server is not, or no longer, a primary that can be used. */
export function isDemotion(error: unknown): boolean {
  return ['READONLY', 'LOADING', 'MASTERDOWN', 'UNBLOCKED'].includes(refusalCode(error) ?? '');
}
