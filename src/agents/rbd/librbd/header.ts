import { Decoder, Encoder } from './encoding.js';
import { isCephError } from './errors.js';
import type { PoolContext } from './pool-context.js';

/*
 * Raw reads and single changes of RBD's own objects, without opening an image: nothing here can hang on what a half-made
 * or forged header says, and nothing follows it.
 */

/** Object that maps a name to an image's id. */
export const idObject = (name: string): string => `rbd_id.${name}`;
/** An image's header. */
export const headerObject = (id: string): string => `rbd_header.${id}`;
/** Prefix of an image's data objects. */
export const dataPrefix = (id: string): string => `rbd_data.${id}`;
/** One data object of an image. */
export const dataObject = (id: string, index: bigint): string =>
  `${dataPrefix(id)}.${index.toString(16).padStart(16, '0')}`;
/** The list of images of a pool: omap keys name_<name> and id_<id>. */
export const DIRECTORY_OBJECT = 'rbd_directory';
/** The trash of a pool: omap keys id_<id>. */
export const TRASH_OBJECT = 'rbd_trash';

/** Runs a read that an absent object makes fail. */
export async function unlessAbsent<Result>(absent: Result, read: () => Promise<Result>): Promise<Result> {
  try {
    return await read();
  } catch (error) {
    if (isCephError(error, 'ENOENT')) return absent;
    throw error;
  }
}

/** The id that a name stands for, from its rbd_id object; undefined when there is none. */
export async function readImageId(pool: PoolContext, name: string): Promise<string | undefined> {
  return unlessAbsent(undefined, async () => {
    const bytes = await pool.read(idObject(name), 1024);
    return bytes.length === 0 ? undefined : new Decoder(bytes).text();
  });
}

/** What a clone's header says of its parent. */
export interface HeaderParent {
  readonly poolId: bigint;
  readonly poolNamespace: string;
  readonly imageId: string;
  readonly snapshotId: bigint;
}

/** A snapshot as the header records it. */
export interface HeaderSnapshot {
  readonly id: bigint;
  readonly name: string;
  readonly sizeBytes: bigint;
  /** Whether it was removed while it had clones. */
  readonly trashed: boolean;
}

/** An image's header, raw. Nothing of it may be trusted that a node could have written. */
export interface RawHeader {
  readonly sizeBytes: bigint | undefined;
  readonly features: bigint | undefined;
  readonly order: number | undefined;
  readonly objectPrefix: string | undefined;
  readonly parent: HeaderParent | undefined;
  readonly snapshots: readonly HeaderSnapshot[];
  /** Clones by the id of the snapshot that they were made from. */
  readonly children: ReadonlyMap<bigint, readonly ChildSpec[]>;
  /** Whether any snapshot has a child. */
  readonly hasChildren: boolean;
  /** Everything that it has a value for. */
  readonly keys: readonly string[];
}

/** Reads a header; undefined when there is none. @throws RangeError when it is not encoded as Ceph does */
export async function readHeader(pool: PoolContext, id: string): Promise<RawHeader | undefined> {
  const values = new Map<string, Buffer>();
  const object = headerObject(id);
  const found = await unlessAbsent(false, async () => {
    for (let after = ''; ; ) {
      const page = await pool.omapList(object, after, '', 1000);
      for (const entry of page.entries) values.set(entry.key, entry.value);
      const last = page.entries.at(-1);
      if (!page.more || last === undefined) return true;
      after = last.key;
    }
  });
  if (!found) return undefined;
  const value = <Result>(key: string, decode: (decoder: Decoder) => Result): Result | undefined => {
    const bytes = values.get(key);
    return bytes === undefined ? undefined : decode(new Decoder(bytes));
  };
  const children = new Map(
    [...values]
      // A node may have written a key that only looks like one.
      .filter(([key]) => CHILDREN_KEY.test(key))
      .map(([key, bytes]) => [BigInt(`0x${key.slice(CHILDREN_PREFIX.length)}`), decodeChildren(bytes)] as const),
  );
  return {
    sizeBytes: value('size', (decoder) => decoder.u64()),
    features: value('features', (decoder) => decoder.u64()),
    order: value('order', (decoder) => decoder.u8()),
    objectPrefix: value('object_prefix', (decoder) => decoder.text()),
    parent: value('parent', decodeParent),
    snapshots: [...values]
      .filter(([key]) => key.startsWith('snapshot_'))
      .map(([, bytes]) => decodeSnapshot(new Decoder(bytes))),
    children,
    hasChildren: [...children.values()].some((specs) => specs.length > 0),
    keys: [...values.keys()],
  };
}

const CHILDREN_PREFIX = 'snap_children_';
const CHILDREN_KEY = /^snap_children_[0-9a-f]{16}$/;

const hexadecimal = (id: bigint): string => id.toString(16).padStart(16, '0');

/** One snapshot of a header and its clones; undefined when the snapshot, or the image, is not there. */
export async function readSnapshot(
  pool: PoolContext,
  imageId: string,
  snapshotId: bigint,
): Promise<{ readonly snapshot: HeaderSnapshot; readonly children: readonly ChildSpec[] } | undefined> {
  const [snapshotKey, childrenKey] = [
    `snapshot_${hexadecimal(snapshotId)}`,
    `${CHILDREN_PREFIX}${hexadecimal(snapshotId)}`,
  ];
  const values = await unlessAbsent(new Map<string, Buffer>(), () =>
    pool.omapGet(headerObject(imageId), [snapshotKey, childrenKey]),
  );
  const bytes = values.get(snapshotKey);
  if (bytes === undefined) return undefined;
  const children = values.get(childrenKey);
  return {
    snapshot: decodeSnapshot(new Decoder(bytes)),
    children: children === undefined ? [] : decodeChildren(children),
  };
}

function decodeParent(decoder: Decoder): HeaderParent | undefined {
  const { version, body } = decoder.structure();
  const poolId = body.i64();
  const poolNamespace = version >= 2 ? body.text() : '';
  const imageId = body.text();
  const snapshotId = body.u64();
  return poolId < 0n || imageId === '' ? undefined : { poolId, poolNamespace, imageId, snapshotId };
}

const SNAPSHOT_NAMESPACE_TRASH = 2;

function decodeSnapshot(decoder: Decoder): HeaderSnapshot {
  const { compatible, body } = decoder.structure();
  const id = body.u64();
  const name = body.text();
  const sizeBytes = body.u64();
  if (compatible < 8) {
    // Before Nautilus the parent stood here.
    body.u64();
    body.structure();
  }
  body.u8();
  body.u64();
  const namespace = body.structure().body.u32();
  return { id, name, sizeBytes, trashed: namespace === SNAPSHOT_NAMESPACE_TRASH };
}

/** A clone as its parent's header lists it. */
export interface ChildSpec {
  readonly poolId: bigint;
  readonly imageId: string;
  readonly poolNamespace: string;
}

function decodeChildren(bytes: Buffer): ChildSpec[] {
  const decoder = new Decoder(bytes);
  return Array.from({ length: decoder.u32() }, () => {
    const { version, body } = decoder.structure();
    return { poolId: body.i64(), imageId: body.text(), poolNamespace: version >= 2 ? body.text() : '' };
  });
}

/**
 * Takes a clone off its parent's list of children (class method child_detach).
 * @returns whether it was there
 */
export async function detachChild(
  pool: PoolContext,
  parentId: string,
  snapshotId: bigint,
  child: ChildSpec,
): Promise<boolean> {
  return unlessAbsent(false, async () => {
    await pool.exec(headerObject(parentId), 'rbd', 'child_detach', encodeChild(snapshotId, child));
    return true;
  });
}

/** Puts a clone on its parent's list of children (class method child_attach). @returns whether it was not there */
export async function attachChild(
  pool: PoolContext,
  parentId: string,
  snapshotId: bigint,
  child: ChildSpec,
): Promise<boolean> {
  try {
    await pool.exec(headerObject(parentId), 'rbd', 'child_attach', encodeChild(snapshotId, child));
    return true;
  } catch (error) {
    if (isCephError(error, 'EEXIST')) return false;
    throw error;
  }
}

function encodeChild(snapshotId: bigint, child: ChildSpec): Buffer {
  const input = new Encoder().u64(snapshotId).structure(2, 1, (body) => {
    body.u64(child.poolId).text(child.imageId).text(child.poolNamespace);
  });
  return input.bytes();
}

/** Removes a name and its id from the list of images (class method dir_remove_image). @returns whether they were there */
export async function removeFromDirectory(pool: PoolContext, name: string, id: string): Promise<boolean> {
  try {
    await pool.exec(DIRECTORY_OBJECT, 'rbd', 'dir_remove_image', new Encoder().text(name).text(id).bytes());
    return true;
  } catch (error) {
    // ESTALE: that name is another image's by now.
    if (isCephError(error, 'ENOENT', 'ESTALE')) return false;
    throw error;
  }
}

/** The name that the list of images has for an id; undefined when it has none. */
export async function readDirectoryName(pool: PoolContext, id: string): Promise<string | undefined> {
  const values = await unlessAbsent(new Map<string, Buffer>(), () => pool.omapGet(DIRECTORY_OBJECT, [`id_${id}`]));
  const bytes = values.get(`id_${id}`);
  return bytes === undefined ? undefined : new Decoder(bytes).text();
}

/** The id that the list of images has for a name; undefined when it has none. librbd writes it before all else of an image. */
export async function readDirectoryId(pool: PoolContext, name: string): Promise<string | undefined> {
  const values = await unlessAbsent(new Map<string, Buffer>(), () => pool.omapGet(DIRECTORY_OBJECT, [`name_${name}`]));
  const bytes = values.get(`name_${name}`);
  return bytes === undefined ? undefined : new Decoder(bytes).text();
}

/** An image in the trash. */
export interface TrashEntry {
  readonly id: string;
  /** Its name before. */
  readonly name: string;
  /** "moving" and "restoring" are left behind by a client that died in the middle. */
  readonly state: 'normal' | 'moving' | 'removing' | 'restoring';
  /** When it came here, in milliseconds since 1970. */
  readonly time: number;
  /** Until when RBD itself refuses to remove it, in milliseconds since 1970. */
  readonly keptUntil: number;
}

const TRASH_SOURCE_USER = 0;
const TRASH_STATES = ['normal', 'moving', 'removing', 'restoring'] as const;

/** Decodes a value of the trash's omap. */
export function decodeTrashEntry(id: string, bytes: Buffer): TrashEntry {
  const { version, body } = new Decoder(bytes).structure();
  body.u8();
  const name = body.text();
  const time = decodeTime(body);
  const keptUntil = decodeTime(body);
  return { id, name, time, keptUntil, state: (version >= 2 ? TRASH_STATES[body.u8()] : undefined) ?? 'normal' };
}

function decodeTime(decoder: Decoder): number {
  const seconds = decoder.u32();
  return seconds * 1000 + Math.floor(decoder.u32() / 1_000_000);
}

/** What the trash knows of an id; undefined when nothing. */
export async function readTrashEntry(pool: PoolContext, id: string): Promise<TrashEntry | undefined> {
  const values = await unlessAbsent(new Map<string, Buffer>(), () => pool.omapGet(TRASH_OBJECT, [`id_${id}`]));
  const bytes = values.get(`id_${id}`);
  return bytes === undefined ? undefined : decodeTrashEntry(id, bytes);
}

/**
 * Writes a trash entry in the state "moving" (class method trash_add), as librbd's own move begins.
 * @param now milliseconds since 1970
 * @param deferSeconds how long RBD itself refuses to remove it
 * @throws CephError EEXIST
 */
export async function addToTrash(
  pool: PoolContext,
  image: { readonly id: string; readonly name: string },
  now: number,
  deferSeconds: bigint,
): Promise<void> {
  const seconds = Math.floor(now / 1000);
  // Ceph's times have 32 bits of seconds.
  const end = Math.min(seconds + Number(deferSeconds), 0xffff_ffff);
  const nanoseconds = (now % 1000) * 1_000_000;
  const input = new Encoder().text(image.id).structure(2, 1, (body) => {
    body.u8(TRASH_SOURCE_USER).text(image.name);
    body.u32(seconds).u32(nanoseconds).u32(end).u32(nanoseconds).u8(TRASH_STATES.indexOf('moving'));
  });
  await pool.exec(TRASH_OBJECT, 'rbd', 'trash_add', input.bytes());
}

/** Changes the state of a trash entry (class method trash_state_set). */
export async function setTrashState(
  pool: PoolContext,
  id: string,
  state: TrashEntry['state'],
  expected: TrashEntry['state'],
): Promise<void> {
  const input = new Encoder().text(id).u8(TRASH_STATES.indexOf(state)).u8(TRASH_STATES.indexOf(expected));
  await pool.exec(TRASH_OBJECT, 'rbd', 'trash_state_set', input.bytes());
}

/** Removes an id from the trash (class method trash_remove). @returns whether it was there */
export async function removeFromTrash(pool: PoolContext, id: string): Promise<boolean> {
  return unlessAbsent(false, async () => {
    await pool.exec(TRASH_OBJECT, 'rbd', 'trash_remove', new Encoder().text(id).bytes());
    return true;
  });
}

/**
 * Whether an id is a prefix of another image's in the pool, or has another's as its prefix; trashed and foreign ones
 * count. Then a grant by object prefix would mean two images.
 * @returns the other id, or undefined
 */
export async function findPrefixConflict(pool: PoolContext, id: string): Promise<string | undefined> {
  const shorter = Array.from({ length: id.length - 1 }, (_, index) => `id_${id.slice(0, index + 1)}`);
  const found = await Promise.all(
    [DIRECTORY_OBJECT, TRASH_OBJECT].map((object) =>
      unlessAbsent<readonly string[]>([], () => pool.omapKeysAndPrefix(object, shorter, `id_${id}`)),
    ),
  );
  return found
    .flat()
    .map((key) => key.slice('id_'.length))
    .find((other) => other !== id);
}
