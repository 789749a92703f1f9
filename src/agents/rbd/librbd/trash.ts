import { rbd } from './library.js';
import type { PoolContext } from './pool-context.js';

const rbd_trash_move = rbd('int rbd_trash_move(void *io, const char *name, uint64_t delay)');
const rbd_trash_restore = rbd('int rbd_trash_restore(void *io, const char *id, const char *name)');

/*
 * What is in the trash is read raw (header.ts). rbd_trash_remove is not here on purpose: interrupted, it leaves an image
 * that a restore still "restores", and it believes the header.
 */

/**
 * Moves an image to the trash (rbd_trash_move). Refuses nothing: not writers, locks, snapshots or clones. The agent moves by
 * single requests (data/trash.ts), which take a fifth of the time; this is what it is measured against.
 * @param deferSeconds how long RBD itself refuses to remove it
 * @throws CephError ENOENT
 */
export async function moveToTrash(pool: PoolContext, name: string, deferSeconds: bigint): Promise<void> {
  await pool.call(rbd_trash_move, `image ${name}`, name, deferSeconds);
}

/** Brings an image back under a name (rbd_trash_restore). @throws CephError ENOENT; EEXIST (the name is taken) */
export async function restoreFromTrash(pool: PoolContext, id: string, name: string): Promise<void> {
  await pool.call(rbd_trash_restore, `image id ${id}`, id, name);
}
