import { status } from '@grpc/grpc-js';
import type { CreateImageRequest__Output } from '../../../generated/moorage/backend/v1/CreateImageRequest.js';
import type { CreateImageResponse } from '../../../generated/moorage/backend/v1/CreateImageResponse.js';
import type { Image } from '../../../generated/moorage/backend/v1/Image.js';
import { cloneImage, createImage } from '../librbd/create.js';
import { isCephError } from '../librbd/errors.js';
import { findPrefixConflict, readImageId, readSnapshot } from '../librbd/header.js';
import { RbdImage } from '../librbd/image.js';
import type { PoolContext } from '../librbd/pool-context.js';
import { createSnapshot, listSnapshots } from '../librbd/snapshot.js';
import { notFound, StepError } from '../step-error.js';
import { putCatalogueEntry } from './catalogue.js';
import { inspectImage, prefixReason, type WantedImage } from './inspect.js';
import { checkName, checkSize, type ParentRecord, type PointRecord, readCatalogueEntry, readParent } from './record.js';
import { verifyChain } from './verify.js';

/** CreateImage: the catalogue entry, then the image, then its point; adopts what an earlier try left whole. */
export async function createImageStep(
  pool: PoolContext,
  request: CreateImageRequest__Output,
): Promise<CreateImageResponse> {
  const entry = readCatalogueEntry('catalogue_entry', request.catalogueEntry);
  const name = checkName('name', request.name);
  const sizeBytes = checkSize('size_bytes', request.sizeBytes);
  const pointName = request.pointName === '' ? undefined : checkName('point_name', request.pointName);
  const parent = request.parent ? readParent('parent', request.parent) : undefined;
  // To clone is to open it, and all that lies below it.
  if (parent) await verifyChain(pool, { id: parent.id, parent: 'unrecorded' });
  const [parentSizeBytes] = await Promise.all([
    parent ? sizeOfPoint(pool, parent, sizeBytes) : 0n,
    putCatalogueEntry(pool, entry),
  ]);
  const wanted: WantedImage = { name, sizeBytes, parent, parentSizeBytes };
  const made = await make(pool, wanted);
  if ('unusable' in made) return { unusable: made.unusable };
  const points = await finish(pool, made, wanted, pointName);
  return { image: imageOf(wanted, made.id, sizeBytes, points) };
}

interface MadeImage {
  readonly id: string;
  readonly sizeBytes: bigint;
  /** Names of the snapshots that it has already. */
  readonly snapshots: readonly { readonly name: string; readonly id: bigint }[];
}

async function make(
  pool: PoolContext,
  wanted: WantedImage,
): Promise<MadeImage | { readonly unusable: { readonly image: Image; readonly reason: string } }> {
  const { name, parent } = wanted;
  try {
    if (parent) await cloneImage(pool, { name: parent.name, snapshot: parent.point.name }, pool, name);
    else await createImage(pool, name, wanted.sizeBytes);
  } catch (error) {
    if (!isCephError(error, 'EEXIST')) throw error;
    const found = await inspectImage(pool, wanted);
    if (found.whole) return found;
    const points = found.snapshots.map((each) => ({ name: each.name, snapshotId: each.id }));
    return {
      unusable: { image: imageOf(wanted, found.id, found.sizeBytes, points), reason: found.reason },
    };
  }
  const id = await readImageId(pool, name);
  if (id === undefined) throw notFound(`image ${name} went away while it was made`);
  const conflict = await findPrefixConflict(pool, id);
  const size = parent ? wanted.parentSizeBytes : wanted.sizeBytes;
  if (conflict !== undefined) {
    return { unusable: { image: imageOf(wanted, id, size, []), reason: prefixReason(id, conflict) } };
  }
  return { id, sizeBytes: size, snapshots: [] };
}

/** Grows it, when it is larger than its parent, and takes the point. Nobody else has it open. */
async function finish(
  pool: PoolContext,
  made: MadeImage,
  wanted: WantedImage,
  pointName: string | undefined,
): Promise<PointRecord[]> {
  const present = made.snapshots.find((each) => each.name === pointName);
  const grow = made.sizeBytes < wanted.sizeBytes;
  const take = pointName !== undefined && !present;
  if (grow || take) {
    return RbdImage.with(pool, { id: made.id }, {}, async (image) => {
      if (grow) await image.grow(wanted.sizeBytes);
      if (pointName === undefined) return [];
      if (take) {
        await createSnapshot(image, pointName).catch((error: unknown) => {
          if (!isCephError(error, 'EEXIST')) throw error;
        });
      }
      const snapshot = (await listSnapshots(image)).find((each) => each.name === pointName);
      if (!snapshot) throw notFound(`point ${pointName} of image ${wanted.name} went away while it was taken`);
      return [{ name: pointName, snapshotId: snapshot.id }];
    });
  }
  return present ? [{ name: present.name, snapshotId: present.id }] : [];
}

/** Size of the parent at the point. @throws StepError NOT_FOUND, OUT_OF_RANGE (the new image would be smaller) */
async function sizeOfPoint(pool: PoolContext, parent: ParentRecord, wantedBytes: bigint): Promise<bigint> {
  const { id, point } = parent;
  const found = point.snapshotId === undefined ? undefined : await readSnapshot(pool, id, point.snapshotId);
  if (!found || found.snapshot.trashed || found.snapshot.name !== point.name) {
    throw notFound(`parent: image ${parent.name} (${id}) has no point "${point.name}" (${point.snapshotId ?? '?'})`);
  }
  if (wantedBytes < found.snapshot.sizeBytes) {
    throw new StepError(
      status.OUT_OF_RANGE,
      'SMALLER_THAN_PARENT',
      `size_bytes: must be at least ${found.snapshot.sizeBytes}, the size of what it is made from`,
      { metadata: { field: 'size_bytes' } },
    );
  }
  return found.snapshot.sizeBytes;
}

function imageOf(wanted: WantedImage, id: string | undefined, size: bigint, points: readonly PointRecord[]): Image {
  const { parent } = wanted;
  const point = (each: PointRecord) => ({ name: each.name, backendId: each.snapshotId?.toString() ?? '' });
  return {
    name: wanted.name,
    backendId: id ?? '',
    sizeBytes: size.toString(),
    largestSizeBytes: (size > wanted.sizeBytes ? size : wanted.sizeBytes).toString(),
    points: points.map(point),
    ...(parent ? { parent: { name: parent.name, backendId: parent.id, point: point(parent.point) } } : {}),
  };
}
