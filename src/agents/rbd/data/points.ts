import { setTimeout as delay } from 'node:timers/promises';
import { status } from '@grpc/grpc-js';
import { isCephError } from '../librbd/errors.js';
import type { RbdImage } from '../librbd/image.js';
import type { PoolContext } from '../librbd/pool-context.js';
import {
  createSnapshot,
  formerName,
  listSnapshots,
  removeSnapshot,
  removeSnapshotById,
  type Snapshot,
  snapshotTime,
} from '../librbd/snapshot.js';
import { notFound, StepError } from '../step-error.js';
import type { StepScope } from '../steps.js';
import type { PointRecord } from './record.js';
import { type RecordedImage, withVerifiedImage } from './verify.js';

/** How long to wait before the lock is asked for again, in milliseconds. */
const RETRY_MILLISECONDS = 50;

/**
 * Does something to an image that a node may have open. `flush` makes the exclusive lock change hands in good order; then
 * the operation runs here, with our rights. When the guest takes the lock back in between, librbd sends the operation to
 * the guest's client, which may not: EPERM, and it is tried again until the deadline. Never rbd_lock_acquire: that gives
 * the guest write errors.
 */
export async function whileHoldingLock(image: RbdImage, scope: StepScope, operate: () => Promise<void>): Promise<void> {
  for (;;) {
    await image.flush();
    try {
      await operate();
      return;
    } catch (error) {
      if (!isCephError(error, 'EPERM') || scope.remainingMilliseconds() < 2 * RETRY_MILLISECONDS) throw error;
    }
    await delay(RETRY_MILLISECONDS);
  }
}

/** A point that is there. */
export interface TakenPoint {
  readonly snapshotId: bigint;
  readonly sizeBytes: bigint;
  /** Milliseconds since 1970. */
  readonly time: number;
}

/**
 * The points that were taken by calls of this process that came to their end. librbd writes a snapshot into the header and
 * then tells the clients that have the image open; one that is killed in between leaves a snapshot that they do not know of.
 * They go on writing over the data that it should keep, until something else makes them read the header again.
 */
export class CompletePoints {
  readonly #points = new Set<string>();

  add(imageId: string, snapshotId: bigint): void {
    this.#points.add(`${imageId}/${snapshotId}`);
  }

  has(imageId: string, snapshotId: bigint): boolean {
    return this.#points.has(`${imageId}/${snapshotId}`);
  }

  delete(imageId: string, snapshotId: bigint): void {
    this.#points.delete(`${imageId}/${snapshotId}`);
  }
}

/**
 * Takes a point of an image, unless it has one of that name that is known to be complete. One that is not is removed and
 * taken anew: nothing can be made from a point before this has answered.
 * @throws CephError; StepError NOT_FOUND
 */
export async function takePoint(
  pool: PoolContext,
  recorded: RecordedImage,
  name: string,
  scope: StepScope,
  complete: CompletePoints,
): Promise<TakenPoint> {
  const { id: imageId } = recorded;
  return withVerifiedImage(pool, recorded, {}, async (image) => {
    const find = async (): Promise<Snapshot | undefined> =>
      (await listSnapshots(image)).find((each) => each.name === name && each.namespace === 'user');
    const present = await find();
    if (!present || !complete.has(imageId, present.id)) {
      await whileHoldingLock(image, scope, async () => {
        // Asked again each time: the try before may have been the owner's, and have come through.
        await removePointNow(image, { name, snapshotId: undefined });
        await createSnapshot(image, name).catch((error: unknown) => {
          if (!isCephError(error, 'EEXIST')) throw error;
          // A late try that this opening has not heard of: opened again, it is seen, and removed.
          throw new StepError(status.ABORTED, 'EEXIST', `point ${name} came in between; it is to be taken anew`, {
            cause: error,
          });
        });
      });
    }
    const snapshot = await find();
    if (!snapshot) throw notFound(`point ${name} of image id ${imageId} went away while it was taken`);
    complete.add(imageId, snapshot.id);
    return {
      snapshotId: snapshot.id,
      sizeBytes: snapshot.sizeBytes,
      time: await snapshotTime(image, snapshot.id),
    };
  });
}

/**
 * Removes a point. One that has clones goes to the trash namespace, and with the last of them; one that is there already
 * is removed if it has none any more. A point whose taking came to no end has no id on record: it goes by its name, which
 * never recurs, and so does what a removal that was cut short left of it in the trash namespace under another name.
 */
export async function removePoint(
  pool: PoolContext,
  recorded: RecordedImage,
  point: PointRecord,
  scope: StepScope,
  complete: CompletePoints,
): Promise<void> {
  const { id: imageId } = recorded;
  if (point.snapshotId !== undefined) complete.delete(imageId, point.snapshotId);
  try {
    await withVerifiedImage(pool, recorded, {}, async (image) => {
      // An image without it is left alone: its guest need not hand its lock over.
      if ((await findPoint(image, point)).length === 0) return;
      // Looked for again in each try: the try before may have moved it to the trash namespace.
      await whileHoldingLock(image, scope, () => removePointNow(image, point));
    });
  } catch (error) {
    if (!isCephError(error, 'ENOENT')) throw error;
  }
}

async function removePointNow(image: RbdImage, point: PointRecord): Promise<void> {
  for (const snapshot of await findPoint(image, point)) await removeOne(image, snapshot);
}

async function findPoint(image: RbdImage, { name, snapshotId }: PointRecord): Promise<Snapshot[]> {
  const found: Snapshot[] = [];
  for (const each of await listSnapshots(image)) {
    const same =
      snapshotId === undefined
        ? (each.namespace === 'trash' ? await formerName(image, each.id) : each.name) === name
        : each.id === snapshotId;
    if (same) found.push(each);
  }
  return found;
}

async function removeOne(image: RbdImage, snapshot: Snapshot): Promise<void> {
  try {
    if (snapshot.namespace === 'trash') await removeSnapshotById(image, snapshot.id);
    else await removeSnapshot(image, snapshot.name);
  } catch (error) {
    // EBUSY: it is in the trash namespace and has clones; it goes with the last of them.
    const gone = isCephError(error, 'ENOENT') || (snapshot.namespace === 'trash' && isCephError(error, 'EBUSY'));
    if (!gone) throw error;
  }
}

/** Grows an image; does nothing when it is that large already. @returns its size, in bytes */
export async function expandImage(
  pool: PoolContext,
  recorded: RecordedImage,
  sizeBytes: bigint,
  scope: StepScope,
): Promise<bigint> {
  return withVerifiedImage(pool, recorded, {}, async (image) => {
    if ((await image.sizeBytes()) < sizeBytes) {
      await whileHoldingLock(image, scope, async () => {
        // Asked again, after the flush has refreshed it: growing to a size that is smaller by now would be EINVAL.
        if ((await image.sizeBytes()) < sizeBytes) await image.grow(sizeBytes);
      });
    }
    return image.sizeBytes();
  });
}
