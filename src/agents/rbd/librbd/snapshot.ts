import { isCephError } from './errors.js';
import { unlessAbsent } from './header.js';
import type { RbdImage } from './image.js';
import { outCell, pointerIn, rbd, stringAt } from './library.js';

const rbd_snap_create = rbd('int rbd_snap_create(void *image, const char *snapname)');
const rbd_snap_remove = rbd('int rbd_snap_remove(void *image, const char *snapname)');
const rbd_snap_remove_by_id = rbd('int rbd_snap_remove_by_id(void *image, uint64_t snap_id)');
const rbd_snap_list = rbd('int rbd_snap_list(void *image, void *snaps, void *max_snaps)');
const rbd_snap_list_end = rbd('void rbd_snap_list_end(void *snaps)');
const rbd_snap_get_namespace_type = rbd(
  'int rbd_snap_get_namespace_type(void *image, uint64_t snap_id, void *namespace_type)',
);
const rbd_snap_get_trash_namespace = rbd(
  'int rbd_snap_get_trash_namespace(void *image, uint64_t snap_id, void *original_name, size_t max_length)',
);
const rbd_snap_get_timestamp = rbd('int rbd_snap_get_timestamp(void *image, uint64_t snap_id, void *timestamp)');

/** Where a snapshot lives; one that was removed while it has clones is in "trash", under another name. */
export type SnapshotNamespace = 'user' | 'group' | 'trash' | 'mirror';

const NAMESPACES: readonly SnapshotNamespace[] = ['user', 'group', 'trash', 'mirror'];

/** A snapshot of an image. */
export interface Snapshot {
  readonly id: bigint;
  readonly name: string;
  /** Size of the image at that point, in bytes. */
  readonly sizeBytes: bigint;
  readonly namespace: SnapshotNamespace;
}

/**
 * Takes a snapshot (rbd_snap_create); waits for a proposal of the monitors, up to ~1 s.
 * @throws CephError EEXIST; EPERM when the owner of the lock was asked and may not
 */
export async function createSnapshot(image: RbdImage, name: string): Promise<void> {
  await image.call(rbd_snap_create, name);
}

/** Removes a snapshot by name; with clones it goes to the trash namespace. @throws CephError ENOENT, EPERM */
export async function removeSnapshot(image: RbdImage, name: string): Promise<void> {
  await image.call(rbd_snap_remove, name);
}

/** Removes a snapshot by id, also one in the trash namespace. @throws CephError ENOENT, EBUSY (it has clones), EPERM */
export async function removeSnapshotById(image: RbdImage, id: bigint): Promise<void> {
  await image.call(rbd_snap_remove_by_id, id);
}

/** The snapshots of an image; reads its header again when that was changed since. */
export async function listSnapshots(image: RbdImage): Promise<Snapshot[]> {
  for (let capacity = 16; ; capacity *= 4) {
    // struct { uint64_t id; uint64_t size; const char *name; }, and one more entry with a NULL name at the end.
    const list = Buffer.alloc(24 * (capacity + 1));
    const maximum = Buffer.alloc(4);
    maximum.writeInt32LE(capacity);
    let count = 0;
    try {
      count = await image.call(rbd_snap_list, list, maximum);
    } catch (error) {
      if (!isCephError(error, 'ERANGE') || capacity > 100_000) throw error;
      continue;
    }
    const found = Array.from({ length: count }, (_, index) => ({
      id: list.readBigUInt64LE(index * 24),
      sizeBytes: list.readBigUInt64LE(index * 24 + 8),
      name: stringAt(pointerIn(list, index * 24 + 16)),
    }));
    if (count > 0) rbd_snap_list_end.now(list);
    const snapshots: Snapshot[] = [];
    for (const each of found) {
      // Another client may remove one in between: then it is no more.
      const namespace = await unlessAbsent(undefined, () => namespaceOf(image, each.id));
      if (namespace !== undefined) snapshots.push({ ...each, namespace });
    }
    return snapshots;
  }
}

async function namespaceOf(image: RbdImage, id: bigint): Promise<SnapshotNamespace> {
  const cell = outCell();
  await image.call(rbd_snap_get_namespace_type, id, cell);
  return NAMESPACES[cell.readInt32LE()] ?? 'user';
}

/**
 * The name that a snapshot in the trash namespace had before (rbd_snap_get_trash_namespace); undefined when it has gone
 * since.
 */
export async function formerName(image: RbdImage, id: bigint): Promise<string | undefined> {
  const buffer = Buffer.alloc(4096);
  return unlessAbsent(undefined, async () => {
    await image.call(rbd_snap_get_trash_namespace, id, buffer, buffer.length);
    return buffer.toString('utf8', 0, buffer.indexOf(0));
  });
}

/** When a snapshot was taken, in milliseconds since 1970, by the clock of the OSD. */
export async function snapshotTime(image: RbdImage, id: bigint): Promise<number> {
  const time = Buffer.alloc(16);
  await image.call(rbd_snap_get_timestamp, id, time);
  return Number(time.readBigInt64LE(0)) * 1000 + Math.floor(Number(time.readBigInt64LE(8)) / 1e6);
}

const rbd_list_children3 = rbd('int rbd_list_children3(void *image, void *images, void *max_images)');
const rbd_linked_image_spec_list_cleanup = rbd(
  'void rbd_linked_image_spec_list_cleanup(void *images, size_t num_images)',
);

/** A clone of a snapshot. */
export interface ChildImage {
  readonly poolId: bigint;
  readonly poolName: string;
  readonly imageId: string;
  readonly imageName: string;
  readonly trashed: boolean;
}

/**
 * Clones of the image, or of the snapshot that it was opened at (rbd_list_children3); ones in the trash too.
 * @throws CephError ENOENT when the list names a child that is no more
 */
export async function listChildren(image: RbdImage): Promise<ChildImage[]> {
  const size = 48;
  for (let capacity = 16; ; capacity *= 4) {
    const list = Buffer.alloc(size * capacity);
    const count = outCell();
    count.writeBigUInt64LE(BigInt(capacity));
    try {
      await image.call(rbd_list_children3, list, count);
    } catch (error) {
      if (!isCephError(error, 'ERANGE') || capacity > 100_000) throw error;
      continue;
    }
    const found = Number(count.readBigUInt64LE());
    const text = (index: number, at: number): string => stringAt(pointerIn(list, index * size + at));
    const children = Array.from({ length: found }, (_, index) => ({
      poolId: list.readBigInt64LE(index * size),
      poolName: text(index, 8),
      imageId: text(index, 24),
      imageName: text(index, 32),
      trashed: list.readUInt8(index * size + 40) !== 0,
    }));
    rbd_linked_image_spec_list_cleanup.now(list, found);
    return children;
  }
}
