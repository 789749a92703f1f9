import { IMAGE_FEATURES, OBJECT_ORDER } from '../librbd/create.js';
import {
  dataPrefix,
  findPrefixConflict,
  type HeaderSnapshot,
  readDirectoryName,
  readHeader,
  readImageId,
  readSnapshot,
} from '../librbd/header.js';
import { RBD_FEATURES } from '../librbd/image.js';
import type { PoolContext } from '../librbd/pool-context.js';
import type { ParentRecord } from './record.js';

/** What should be there. */
export interface WantedImage {
  readonly name: string;
  readonly sizeBytes: bigint;
  readonly parent: ParentRecord | undefined;
  /** Size of the parent at the point, in bytes; 0 without a parent. */
  readonly parentSizeBytes: bigint;
}

/** What is there: a whole image, or something that cannot be used, with as much as is known of it. */
export type FoundImage =
  | {
      readonly whole: true;
      readonly id: string;
      readonly sizeBytes: bigint;
      readonly snapshots: readonly HeaderSnapshot[];
    }
  | {
      readonly whole: false;
      readonly id: string | undefined;
      readonly sizeBytes: bigint;
      readonly snapshots: readonly HeaderSnapshot[];
      readonly reason: string;
    };

/**
 * Looks at something that has the wanted name already. A kill in the middle leaves images with the right name and size that
 * have no parent, or one that does not list them. Raw reads only: an image that is half made is not opened.
 */
export async function inspectImage(pool: PoolContext, wanted: WantedImage): Promise<FoundImage> {
  const id = await readImageId(pool, wanted.name);
  if (id === undefined) return unusable(undefined, 'its name stands for no image');
  const [header, directoryName, conflict] = await Promise.all([
    readHeader(pool, id),
    readDirectoryName(pool, id),
    findPrefixConflict(pool, id),
  ]);
  if (header === undefined) return unusable(id, 'it has no header');
  const { sizeBytes, snapshots } = header;
  const no = (reason: string): FoundImage => unusable(id, reason, sizeBytes, snapshots);
  if (directoryName !== wanted.name) return no('it is not in the list of images under its name');
  if (sizeBytes === undefined || (sizeBytes !== wanted.sizeBytes && sizeBytes !== wanted.parentSizeBytes)) {
    return no(`it has ${sizeBytes ?? 'no'} bytes instead of ${wanted.sizeBytes}`);
  }
  if (header.order !== OBJECT_ORDER) return no(`its objects have 2^${header.order} bytes`);
  if (header.features === undefined || (header.features & ~RBD_FEATURES.operations) !== IMAGE_FEATURES) {
    return no(`its features are ${header.features} instead of ${IMAGE_FEATURES}`);
  }
  if (header.objectPrefix !== dataPrefix(id)) return no('its data lie under a foreign prefix');
  if (conflict !== undefined) return no(prefixReason(id, conflict));
  const { parent } = wanted;
  if (!parent) return header.parent ? no('it has a parent') : { whole: true, id, sizeBytes, snapshots };
  if (!header.parent) return no('it has no parent');
  const { poolId, imageId, snapshotId, poolNamespace } = header.parent;
  const mine = poolId === pool.poolId() && poolNamespace === '' && imageId === parent.id;
  if (!mine || snapshotId !== parent.point.snapshotId) return no('it has another parent');
  const atParent = await readSnapshot(pool, parent.id, snapshotId);
  if (!atParent?.children.some((child) => child.imageId === id && child.poolId === poolId)) {
    return no('its parent does not list it');
  }
  return { whole: true, id, sizeBytes, snapshots };
}

/** Why an id cannot be used although the image is whole. */
export function prefixReason(id: string, other: string): string {
  return `its id ${id} and the id ${other} of another image begin alike, so access by prefix would mean both`;
}

function unusable(
  id: string | undefined,
  reason: string,
  sizeBytes = 0n,
  snapshots: readonly HeaderSnapshot[] = [],
): FoundImage {
  return { whole: false, id, reason, sizeBytes, snapshots };
}
