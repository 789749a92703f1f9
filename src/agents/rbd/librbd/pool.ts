import { rbd } from './library.js';
import type { PoolContext } from './pool-context.js';

const rbd_pool_init = rbd('int rbd_pool_init(void *io, bool force)');

/**
 * Makes a pool one for RBD (rbd_pool_init): its application tag, and the proof that self-managed snapshots work on it. Again:
 * does nothing.
 * @throws CephError EPERM (it belongs to another application), EINVAL (its snapshots are the pool's own)
 */
export async function initialiseForRbd(pool: PoolContext): Promise<void> {
  await pool.call(rbd_pool_init, `pool ${pool.poolName}`, false);
}
