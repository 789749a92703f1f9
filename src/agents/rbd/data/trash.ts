import { isCephError } from '../librbd/errors.js';
import {
  addToTrash,
  idObject,
  readDirectoryName,
  readImageId,
  readTrashEntry,
  removeFromDirectory,
  setTrashState,
  type TrashEntry,
} from '../librbd/header.js';
import type { OmapEntry, PoolContext } from '../librbd/pool-context.js';
import { restoreFromTrash } from '../librbd/trash.js';
import { notFound, refused } from '../step-error.js';
import { putCatalogueEntry } from './catalogue.js';
import { findHolders, inUse } from './usage.js';

interface KnownImage {
  readonly name: string;
  readonly id: string;
}

/**
 * Moves an image to the trash. RBD's own move refuses nothing, so who holds it is asked before.
 * @throws StepError FAILED_PRECONDITION (IN_USE, or the name is another image's), NOT_FOUND
 */
export async function trashImage(
  pool: PoolContext,
  image: KnownImage,
  deferSeconds: bigint,
  own: ReadonlySet<string>,
): Promise<void> {
  const [entry, currentId, holders] = await Promise.all([
    readTrashEntry(pool, image.id),
    readImageId(pool, image.name),
    findHolders(pool, { id: image.id, parent: 'unrecorded' }, own),
  ]);
  if (entry && entry.state !== 'moving') return;
  if (holders.length > 0) throw inUse(image.name, holders);
  if (entry) {
    await completeMove(pool, entry);
    return;
  }
  if (currentId === undefined) throw notFound(`image ${image.name} is not there`);
  if (currentId !== image.id) {
    throw refused('NAME_TAKEN', `image.backend_id: ${image.name} is image ${currentId} by now, not ${image.id}`);
  }
  // What librbd's own move does, in its order, without opening the image: that would cost more than all the rest, and
  // would read a header that a node can write.
  await addToTrash(pool, image, Date.now(), deferSeconds);
  await completeMove(pool, image);
}

/** Does the rest of a move that was cut short: the entry is in the trash, the name may still be in use. */
async function completeMove(pool: PoolContext, entry: Pick<TrashEntry, 'id' | 'name'>): Promise<void> {
  if ((await readImageId(pool, entry.name)) === entry.id) await pool.remove(idObject(entry.name));
  await removeFromDirectory(pool, entry.name, entry.id);
  try {
    await setTrashState(pool, entry.id, 'normal', 'moving');
  } catch (error) {
    // ESTALE: it is in another state already.
    if (!isCephError(error, 'ESTALE')) throw error;
  }
}

/**
 * Brings an image back under a new name.
 * @throws StepError NOT_FOUND, FAILED_PRECONDITION (the name is taken)
 */
export async function restoreImage(
  pool: PoolContext,
  entry: OmapEntry,
  image: KnownImage,
  newName: string,
): Promise<void> {
  await putCatalogueEntry(pool, entry);
  const [trashed, directoryName, currentId] = await Promise.all([
    readTrashEntry(pool, image.id),
    readDirectoryName(pool, image.id),
    readImageId(pool, newName),
  ]);
  if (!trashed) {
    if (directoryName === newName && currentId === image.id) return;
    throw notFound(`image ${image.name} (${image.id}) is not in the trash`);
  }
  if (currentId !== undefined && currentId !== image.id) {
    throw refused('NAME_TAKEN', `new_name: ${newName} is image ${currentId} already`);
  }
  // A move that was cut short must be whole before it can be taken back.
  if (trashed.state === 'moving') await completeMove(pool, trashed);
  await restoreFromTrash(pool, image.id, newName);
}
