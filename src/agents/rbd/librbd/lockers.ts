import { CephError, isCephError } from './errors.js';
import { outCell, rados } from './library.js';
import type { PoolContext } from './pool-context.js';

const rados_list_lockers = rados(
  'long rados_list_lockers(void *io, const char *o, const char *name, void *exclusive, void *tag, void *tag_len, void *clients, void *clients_len, void *cookies, void *cookies_len, void *addrs, void *addrs_len)',
);
const rados_break_lock = rados(
  'int rados_break_lock(void *io, const char *o, const char *name, const char *client, const char *cookie)',
);

/** Name of the lock on an image's header that is RBD's exclusive lock. */
export const RBD_LOCK_NAME = 'rbd_lock';

/** Who holds a lock on an object. */
export interface Locker {
  /** Name of the client, as "client.4123". */
  readonly client: string;
  /** Its cookie, as "auto 94123". */
  readonly cookie: string;
  /** Its address with nonce, as "10.0.0.5:0/1234567". */
  readonly address: string;
}

/** Lists who holds a lock on an object (rados_list_lockers); none when the object is not there. */
export async function listLockers(pool: PoolContext, object: string, lockName: string): Promise<Locker[]> {
  for (let capacity = 4096; capacity <= 16 * 1024 * 1024; capacity *= 8) {
    const lengths = Array.from({ length: 4 }, () => {
      const cell = outCell();
      cell.writeBigUInt64LE(BigInt(capacity));
      return cell;
    }) as [Buffer, Buffer, Buffer, Buffer];
    const lists = Array.from({ length: 4 }, () => Buffer.alloc(capacity)) as [Buffer, Buffer, Buffer, Buffer];
    try {
      const count = await pool.call(
        rados_list_lockers,
        `lock ${lockName} of ${object}`,
        object,
        lockName,
        outCell(),
        lists[0],
        lengths[0],
        lists[1],
        lengths[1],
        lists[2],
        lengths[2],
        lists[3],
        lengths[3],
      );
      const [clients, cookies, addresses] = lists.slice(1).map((list) => list.toString('utf8').split('\0'));
      return Array.from({ length: count }, (_, index) => ({
        client: clients?.[index] ?? '',
        cookie: cookies?.[index] ?? '',
        // The lock's record says which messenger; addresses elsewhere do not.
        address: (addresses?.[index] ?? '').replace(/^(v1|v2|any):/, ''),
      }));
    } catch (error) {
      if (isCephError(error, 'ENOENT')) return [];
      if (!isCephError(error, 'ERANGE')) throw error;
    }
  }
  throw new CephError(rados_list_lockers.functionName, 34, `lock ${lockName} of ${object}`);
}

/**
 * Breaks one locker's lock, by exact owner (rados_break_lock); blocklists nobody.
 * @returns whether that locker still held it
 */
export async function breakLock(
  pool: PoolContext,
  object: string,
  lockName: string,
  locker: Pick<Locker, 'client' | 'cookie'>,
): Promise<boolean> {
  try {
    const subject = `lock ${lockName} of ${object}`;
    await pool.call(rados_break_lock, subject, object, lockName, locker.client, locker.cookie);
    return true;
  } catch (error) {
    if (isCephError(error, 'ENOENT')) return false;
    throw error;
  }
}
