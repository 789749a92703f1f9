import koffi from 'koffi';
import type { RbdImage } from './image.js';
import { rbd } from './library.js';

const rbd_flatten_with_progress = rbd('int rbd_flatten_with_progress(void *image, void *progress, void *data)');

// int (*librbd_progress_fn_t)(uint64_t offset, uint64_t total, void *ptr)
const progressFunction = koffi.pointer(koffi.proto('int', ['uint64_t', 'uint64_t', 'void *']));

/** librbd gives up with ECANCELED when its progress function returns something negative. */
const GO_ON = 0;
const GIVE_UP = -1;

/**
 * Copies everything that a clone has of its parent into it, its snapshots included (deep-flatten), and cuts it loose
 * (rbd_flatten_with_progress). Begun again, it passes over what is there already.
 * @param hear told how many objects of how many have been begun; its thread of librbd waits for the answer, which says
 *   whether to go on. Must not throw, and must not wait for librbd.
 * @throws CephError ECANCELED when `hear` said no; EINVAL when the image has no parent
 */
export async function flattenImage(image: RbdImage, hear: (begun: number, total: number) => boolean): Promise<void> {
  // librbd calls it from threads of its own: koffi hands that over to this thread, which is free, since the call is
  // asynchronous.
  const progress = koffi.register(
    (begun: number | bigint, total: number | bigint): number => (hear(Number(begun), Number(total)) ? GO_ON : GIVE_UP),
    progressFunction,
  );
  try {
    await image.call(rbd_flatten_with_progress, progress, null);
  } finally {
    koffi.unregister(progress);
  }
}
