import type { HeaderFacts } from '../../../generated/moorage/backend/v1/HeaderFacts.js';
import type { ImageFacts } from '../../../generated/moorage/backend/v1/ImageFacts.js';
import {
  attachChild,
  type ChildSpec,
  decodeTrashEntry,
  detachChild,
  type RawHeader,
  readDirectoryId,
  readDirectoryName,
  readHeader,
  readImageId,
  readSnapshot,
  readTrashEntry,
  TRASH_OBJECT,
  unlessAbsent,
} from '../librbd/header.js';
import type { PoolContext } from '../librbd/pool-context.js';
import { notFound, refused } from '../step-error.js';
import type { ImageRecord, ParentRecord } from './record.js';

/*
 * Looking at images without opening them: raw reads of RBD's own objects. Nothing that a header says is followed but to ask
 * whether the clones that it lists are there.
 */

/** Images that are looked at at once. */
const AT_ONCE = 16;

/** What a look at each of them came to, in their order. */
export async function inspectImages(pool: PoolContext, images: readonly ImageRecord[]): Promise<ImageFacts[]> {
  const facts: ImageFacts[] = Array.from({ length: images.length }, () => ({}));
  const inTrash = namesInTrash(pool);
  const work = images.entries();
  const worker = async (): Promise<void> => {
    for (const [position, image] of work) facts[position] = await inspect(pool, image, inTrash);
  };
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, images.length) }, worker));
  return facts;
}

/** The trash is a list by id: read whole, and once, when a name is in no other list. */
function namesInTrash(pool: PoolContext): () => Promise<ReadonlyMap<string, string>> {
  let names: Promise<ReadonlyMap<string, string>> | undefined;
  const read = async (): Promise<ReadonlyMap<string, string>> => {
    const found = new Map<string, string>();
    for (let after = '', more = true; more; ) {
      const from = after;
      const page = await unlessAbsent({ entries: [], more: false }, () =>
        pool.omapList(TRASH_OBJECT, from, 'id_', 1000),
      );
      for (const { key, value } of page.entries) found.set(decodeTrashEntry(key.slice(3), value).name, key.slice(3));
      after = page.entries.at(-1)?.key ?? after;
      more = page.more;
    }
    return found;
  };
  return () => {
    names ??= read();
    return names;
  };
}

async function inspect(
  pool: PoolContext,
  image: ImageRecord,
  inTrash: () => Promise<ReadonlyMap<string, string>>,
): Promise<ImageFacts> {
  const id =
    image.id ??
    (await readDirectoryId(pool, image.name)) ??
    (await readImageId(pool, image.name)) ??
    (await inTrash()).get(image.name);
  if (id === undefined) return {};
  const [listedName, trashed, header] = await Promise.all([
    readDirectoryName(pool, id),
    readTrashEntry(pool, id),
    readHeader(pool, id).catch((error: unknown) => {
      if (error instanceof RangeError) return 'unreadable' as const;
      throw error;
    }),
  ]);
  if (listedName === undefined && trashed === undefined && header === undefined) return {};
  return {
    backendId: id,
    listedName: listedName ?? '',
    trashedName: trashed?.name ?? '',
    trashTime: trashed === undefined ? null : timestamp(trashed.time),
    keptUntilTime: trashed === undefined ? null : timestamp(trashed.keptUntil),
    headerUnreadable: header === 'unreadable',
    header: header === undefined || header === 'unreadable' ? null : await headerFacts(pool, header),
    parentListsIt: image.parent !== undefined && (await isListed(pool, image.parent, id)),
  };
}

function timestamp(milliseconds: number): { seconds: string; nanos: number } {
  return { seconds: String(Math.floor(milliseconds / 1000)), nanos: (milliseconds % 1000) * 1_000_000 };
}

async function headerFacts(pool: PoolContext, header: RawHeader): Promise<HeaderFacts> {
  const { parent } = header;
  const own = parent === undefined || (parent.poolId === pool.poolId() && parent.poolNamespace === '');
  const points = header.snapshots.map(async (point) => {
    const children = header.children.get(point.id) ?? [];
    const missing: string[] = [];
    for (const child of children) if (!(await isThere(pool, child))) missing.push(childName(pool, child));
    return {
      name: point.name,
      backendId: point.id.toString(),
      trashed: point.trashed,
      children: children.map((child) => childName(pool, child)),
      missingChildren: missing,
    };
  });
  return {
    sizeBytes: (header.sizeBytes ?? 0n).toString(),
    parentBackendId: parent === undefined ? '' : own ? parent.imageId : `${parent.poolId}/${parent.imageId}`,
    parentPointBackendId: parent?.snapshotId.toString() ?? '',
    points: await Promise.all(points),
  };
}

function childName(pool: PoolContext, child: ChildSpec): string {
  const own = child.poolId === pool.poolId() && child.poolNamespace === '';
  return own ? child.imageId : `${child.poolId}/${child.imageId}`;
}

/** Clones in other pools are not ours to look for. */
async function isThere(pool: PoolContext, child: ChildSpec): Promise<boolean> {
  if (child.poolId !== pool.poolId() || child.poolNamespace !== '') return true;
  const [name, trashed] = await Promise.all([
    readDirectoryName(pool, child.imageId),
    readTrashEntry(pool, child.imageId),
  ]);
  return name !== undefined || trashed !== undefined;
}

async function isListed(pool: PoolContext, parent: ParentRecord, childId: string): Promise<boolean> {
  const { snapshotId } = parent.point;
  if (snapshotId === undefined) return false;
  const at = await readSnapshot(pool, parent.id, snapshotId).catch((error: unknown) => {
    // The parent's node has written over it: it lists nothing that can be read.
    if (error instanceof RangeError) return undefined;
    throw error;
  });
  return at?.children.some((child) => child.imageId === childId && child.poolId === pool.poolId()) ?? false;
}

/**
 * Puts a clone on its parent's list, or takes one off that is gone.
 * @throws StepError NOT_FOUND (the parent has no such point), FAILED_PRECONDITION (the clone is there)
 */
export async function setChild(
  pool: PoolContext,
  parent: ParentRecord,
  childId: string,
  listed: boolean,
): Promise<void> {
  const { snapshotId, name } = parent.point;
  if (snapshotId === undefined) throw notFound(`parent: the point ${name} has no id`);
  const child: ChildSpec = { poolId: pool.poolId(), imageId: childId, poolNamespace: '' };
  if (listed) {
    if ((await readSnapshot(pool, parent.id, snapshotId)) === undefined) {
      throw notFound(`parent: image ${parent.name} (${parent.id}) has no point ${snapshotId}`);
    }
    await attachChild(pool, parent.id, snapshotId, child);
    return;
  }
  const header = await readHeader(pool, childId).catch(() => 'unreadable' as const);
  if (header !== undefined || (await isThere(pool, child))) {
    throw refused('CHILD_EXISTS', `child_backend_id: the image ${childId} is there`);
  }
  await detachChild(pool, parent.id, snapshotId, child);
}
