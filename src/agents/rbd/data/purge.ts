import { OBJECT_SIZE_BYTES } from '../librbd/create.js';
import { isCephError } from '../librbd/errors.js';
import {
  dataObject,
  detachChild,
  headerObject,
  idObject,
  readDirectoryId,
  readDirectoryName,
  readHeader,
  readImageId,
  readSnapshot,
  removeFromDirectory,
  removeFromTrash,
} from '../librbd/header.js';
import { listLockers, RBD_LOCK_NAME } from '../librbd/lockers.js';
import { removeObjects } from '../librbd/objects.js';
import type { PoolContext } from '../librbd/pool-context.js';
import { removeSnapshotById } from '../librbd/snapshot.js';
import { refused } from '../step-error.js';
import type { StepScope } from '../steps.js';
import { removeCatalogueEntry } from './catalogue.js';
import type { ImageRecord, ParentRecord, PointRecord } from './record.js';
import { type ImageHolder, inUse, listWatchers } from './usage.js';
import { isHeaderDifference, withVerifiedImage } from './verify.js';

/** Snapshot ids of one image that are given back at once. */
const SNAPSHOTS_AT_ONCE = 8;

/** What to purge. */
export interface PurgeRequest {
  readonly image: ImageRecord;
  /** Every name that it ever had. */
  readonly names: readonly string[];
  /** Empty leaves the catalogue alone. */
  readonly catalogueKey: string;
}

/**
 * Destroys an image from the controller's record: a node may have written anything into its header, and a removal that
 * follows it would destroy another tenant's data. Each part may be done again. Its entries in RBD's lists go last but for
 * the catalogue's, so that its id counts in the check of prefixes as long as an object of it may be there.
 * @param unhurried runs a piece of it when nobody who waits is in the way
 * @throws StepError FAILED_PRECONDITION while it has a watcher or a child
 */
export async function purgeImage(
  pool: PoolContext,
  request: PurgeRequest,
  own: ReadonlySet<string>,
  unhurried: StepScope['background'],
): Promise<void> {
  const { image, catalogueKey } = request;
  const names = [...new Set([image.name, ...request.names])];
  const id = image.id ?? (await findId(pool, names));
  if (id !== undefined) {
    await unhurried(() => refuseInUse(pool, image.name, id, own));
    await removeObjects(pool, dataObjects(id, image), unhurried);
    await removeSnapshots(pool, image.points);
    if (image.parent) await leaveParent(pool, image.parent, id);
    await pool.remove(headerObject(id));
    await removeNames(pool, names, id);
    await removeFromTrash(pool, id);
  }
  if (catalogueKey !== '') await removeCatalogueEntry(pool, catalogueKey);
}

/** The id of an image whose making was cut short before anybody learned it. Names never recur, so it is ours. */
async function findId(pool: PoolContext, names: readonly string[]): Promise<string | undefined> {
  for (const name of names) {
    // Cut short at once, an image is in the list of images and nowhere else.
    const id = (await readImageId(pool, name)) ?? (await readDirectoryId(pool, name));
    if (id !== undefined) return id;
  }
  return undefined;
}

async function refuseInUse(pool: PoolContext, name: string, id: string, own: ReadonlySet<string>): Promise<void> {
  const header = await readHeader(pool, id).catch((error: unknown) => {
    // Written over by its node: it says nothing, and needs not be opened.
    if (error instanceof RangeError) return undefined;
    throw error;
  });
  if (header === undefined) return;
  if (header.hasChildren) throw refused('HAS_CHILDREN', `image ${name} (${id}) has clones`);
  const watchers = await listWatchers(pool, { id, parent: 'unrecorded' });
  const holders = watchers
    .filter((watcher) => !own.has(watcher.address))
    .map(
      (watcher): ImageHolder => ({
        address: watcher.address,
        watches: true,
        locks: false,
        cookie: '',
        client: `client.${watcher.clientId}`,
      }),
    );
  if (holders.length > 0) throw inUse(name, holders);
}

function* dataObjects(id: string, image: ImageRecord): Generator<string> {
  for (let index = 0n; index * OBJECT_SIZE_BYTES < largestSize(image); index += 1n) yield dataObject(id, index);
}

function largestSize({ sizeBytes, largestSizeBytes }: ImageRecord): bigint {
  if (largestSizeBytes > sizeBytes) return largestSizeBytes;
  return sizeBytes;
}

/** A few at a time: each takes a thread for as long as the monitors need, and a volume may have had thousands. */
async function removeSnapshots(pool: PoolContext, points: readonly PointRecord[]): Promise<void> {
  for (let from = 0; from < points.length; from += SNAPSHOTS_AT_ONCE) {
    const few = points.slice(from, from + SNAPSHOTS_AT_ONCE);
    await Promise.all(few.map((point) => removeSnapshot(pool, point.snapshotId)));
  }
}

async function removeSnapshot(pool: PoolContext, id: bigint | undefined): Promise<void> {
  if (id === undefined) return;
  try {
    await pool.removeSelfManagedSnapshot(id);
  } catch (error) {
    if (!isCephError(error, 'ENOENT')) throw error;
  }
}

/** Takes the image off its parent's list, and the parent's point away when it was waiting for its last clone. */
async function leaveParent(pool: PoolContext, parent: ParentRecord, id: string): Promise<void> {
  const { snapshotId } = parent.point;
  if (snapshotId === undefined) return;
  await detachChild(pool, parent.id, snapshotId, { poolId: pool.poolId(), imageId: id, poolNamespace: '' });
  const left = await readSnapshot(pool, parent.id, snapshotId);
  if (!left?.snapshot.trashed || left.children.length > 0) return;
  // Where a node holds the lock it takes a connection of its own: RemovePoint does it then.
  if ((await listLockers(pool, headerObject(parent.id), RBD_LOCK_NAME)).length > 0) return;
  try {
    await withVerifiedImage(pool, { id: parent.id, parent: 'unrecorded' }, {}, (image) =>
      removeSnapshotById(image, snapshotId),
    );
  } catch (error) {
    // A parent whose node wrote over its header keeps its point: that takes its own space, and nobody else's.
    if (!isCephError(error, 'ENOENT', 'EBUSY', 'EPERM') && !isHeaderDifference(error)) throw error;
  }
}

async function removeNames(pool: PoolContext, names: readonly string[], id: string): Promise<void> {
  const listed = await readDirectoryName(pool, id);
  for (const name of new Set(listed === undefined ? names : [...names, listed])) {
    if ((await readImageId(pool, name)) === id) await pool.remove(idObject(name));
    await removeFromDirectory(pool, name, id);
  }
}
