import { IMAGE_FEATURES, OBJECT_ORDER } from '../librbd/create.js';
import { dataPrefix, type RawHeader, readHeader, readSnapshot } from '../librbd/header.js';
import { RBD_FEATURES, RbdImage } from '../librbd/image.js';
import type { PoolContext } from '../librbd/pool-context.js';
import { refused, type StepError } from '../step-error.js';
import type { ParentRecord } from './record.js';

/*
 * HEADERS ARE NOT TRUSTED
 *
 * A node must be able to write the header of its own image, because a watch cannot be had without that. So it could name
 * another's image as its parent, another's data as its own, or say that it is being migrated from a file or a URL; then
 * whoever opens the image, or a clone of it, follows that with rights of his own. So before an image is opened, its header
 * and those of all below it are read raw and compared: with the record, and with what only the controller's user can have
 * written. That a parent lists the image as a child of that snapshot is such a thing: a node can write that list of its own
 * image only.
 */

/** Keys of a header as librbd writes them for the images that we make. Anything else makes librbd do something else. */
const ALLOWED_KEY =
  /^(size|order|features|flags|op_features|object_prefix|snap_seq|parent|create_timestamp|access_timestamp|modify_timestamp|snapshot_[0-9a-f]{16}|snap_children_[0-9a-f]{16})$/;

/** More levels than any chain of ours has: then it is a circle. */
const MOST_LEVELS = 64;

/** An image as the record has it. */
export interface RecordedImage {
  readonly id: string;
  /** What it was cloned from; undefined for none; "unrecorded" when the caller does not know. */
  readonly parent: ParentRecord | undefined | 'unrecorded';
  /** Whether its parent may list it no longer: a flattening was cut short there. Only of an image that no node can write. */
  readonly mayBeUnlisted?: boolean;
}

/**
 * Compares the headers of an image and of everything below it with what they should be.
 * @returns whether the image has a header at all
 * @throws StepError FAILED_PRECONDITION (HEADER_DIFFERS), which names the image and what is wrong
 */
export async function verifyChain(pool: PoolContext, image: RecordedImage): Promise<boolean> {
  let id = image.id;
  let recorded = image.parent;
  for (let level = 0; level < MOST_LEVELS; level += 1) {
    const header = await rawHeader(pool, id);
    if (header === undefined) {
      if (level === 0) return false;
      throw differs(id, 'it is named as a parent and has no header');
    }
    verifyOwn(id, header);
    const { parent } = header;
    // One that was flattened has none any more, whatever the record says yet.
    if (parent === undefined) return true;
    const isOurs = parent.poolId === pool.poolId() && parent.poolNamespace === '';
    if (!isOurs) throw differs(id, 'its parent is in another pool');
    if (recorded === undefined) throw differs(id, `it names a parent, ${parent.imageId}, and was cloned from nothing`);
    if (recorded !== 'unrecorded' && recorded.id !== parent.imageId) {
      throw differs(id, `it names another parent, ${parent.imageId}, than it was cloned from`);
    }
    const mayBeUnlisted = level === 0 && image.mayBeUnlisted === true;
    if (!mayBeUnlisted && !(await isListed(pool, parent.imageId, parent.snapshotId, id))) {
      throw differs(id, `it names ${parent.imageId} as its parent, which does not list it`);
    }
    id = parent.imageId;
    recorded = 'unrecorded';
  }
  throw differs(image.id, `more than ${MOST_LEVELS} images lie below it`);
}

/**
 * Opens an image once its headers are known to be as they should be.
 * @throws CephError; StepError FAILED_PRECONDITION (HEADER_DIFFERS)
 */
export async function withVerifiedImage<Result>(
  pool: PoolContext,
  image: RecordedImage,
  options: { readonly readOnly?: boolean },
  use: (open: RbdImage) => Promise<Result>,
): Promise<Result> {
  await verifyChain(pool, image);
  return RbdImage.with(pool, { id: image.id }, options, use);
}

/** The same as a question. */
export async function isAsRecorded(pool: PoolContext, image: RecordedImage): Promise<boolean> {
  try {
    return await verifyChain(pool, image);
  } catch (error) {
    if (isHeaderDifference(error)) return false;
    throw error;
  }
}

/** Whether an error says that a header is not as it should be. */
export function isHeaderDifference(error: unknown): boolean {
  return error instanceof Error && 'reason' in error && error.reason === HEADER_DIFFERS;
}

const HEADER_DIFFERS = 'HEADER_DIFFERS';

function differs(id: string, what: string): StepError {
  return refused(HEADER_DIFFERS, `the header of image ${id} is not as it was made: ${what}. It is not opened`, {
    backend_id: id,
  });
}

async function rawHeader(pool: PoolContext, id: string): Promise<RawHeader | undefined> {
  try {
    return await readHeader(pool, id);
  } catch (error) {
    if (error instanceof RangeError) throw differs(id, 'it cannot be read');
    throw error;
  }
}

function verifyOwn(id: string, header: RawHeader): void {
  const { features, objectPrefix, order, keys } = header;
  if (features === undefined || (features & ~RBD_FEATURES.operations) !== IMAGE_FEATURES) {
    throw differs(id, `its features are ${features ?? 'none'}`);
  }
  if (objectPrefix !== dataPrefix(id)) throw differs(id, 'its data lie under a foreign prefix');
  if (order !== OBJECT_ORDER) throw differs(id, `its objects have 2^${order ?? '?'} bytes`);
  const strange = keys.find((key) => !ALLOWED_KEY.test(key));
  if (strange !== undefined) throw differs(id, `it has the key ${JSON.stringify(strange.slice(0, 60))}`);
}

async function isListed(pool: PoolContext, parentId: string, snapshotId: bigint, id: string): Promise<boolean> {
  try {
    const at = await readSnapshot(pool, parentId, snapshotId);
    return at?.children.some((child) => child.imageId === id && child.poolId === pool.poolId()) ?? false;
  } catch (error) {
    if (error instanceof RangeError) throw differs(parentId, 'it cannot be read');
    throw error;
  }
}
