import { listCatalogueEntries } from '../../src/agents/rbd/data/catalogue.js';
import { Decoder } from '../../src/agents/rbd/librbd/encoding.js';
import {
  DIRECTORY_OBJECT,
  decodeTrashEntry,
  type RawHeader,
  readHeader,
  readSnapshot,
  TRASH_OBJECT,
  unlessAbsent,
} from '../../src/agents/rbd/librbd/header.js';
import { listObjects } from '../../src/agents/rbd/librbd/objects.js';
import type { PoolContext } from '../../src/agents/rbd/librbd/pool-context.js';
import { type Export, pages, type Snapshot, type Volume } from '../../src/client/index.js';
import type { Cluster } from './cluster.js';
import type { System } from './system.js';
import { openAsAdministrator } from './test-node.js';

/** What the API says there is: everything that is not gone. */
export interface Inventory {
  readonly volumes: readonly Volume[];
  readonly snapshots: readonly Snapshot[];
  readonly exports: readonly Export[];
}

const VOLUME_STATES = ['CREATING', 'AVAILABLE', 'DELETING', 'DELETED', 'PURGING', 'ERROR'] as const;
const SNAPSHOT_STATES = ['PENDING', 'COMPLETED', 'DELETING', 'DELETED', 'PURGING', 'ERROR'] as const;

/** Reads all lists of the API to their ends. */
export async function takeInventory({ client }: System): Promise<Inventory> {
  const volumes: Volume[] = [];
  const states = VOLUME_STATES.map((state) => `VOLUME_STATE_${state}` as const);
  for await (const page of pages((pageToken) => client.listVolumes({ pageSize: 1000, pageToken, states }))) {
    volumes.push(...page.volumes);
  }
  const snapshots: Snapshot[] = [];
  const snapshotStates = SNAPSHOT_STATES.map((state) => `SNAPSHOT_STATE_${state}` as const);
  for await (const page of pages((pageToken) =>
    client.listSnapshots({ pageSize: 1000, pageToken, states: snapshotStates }),
  )) {
    snapshots.push(...page.snapshots);
  }
  const exports: Export[] = [];
  for await (const page of pages((pageToken) => client.listExports({ pageSize: 1000, pageToken }))) {
    exports.push(...page.exports);
  }
  return { volumes, snapshots, exports };
}

/** An RBD image as Ceph has it. */
export interface FoundImage {
  readonly id: string;
  readonly name: string;
  readonly trashed: boolean;
  readonly header: RawHeader | undefined;
}

/** What a look at a Ceph pool came to. */
export interface Audit {
  /** Each a sentence; none when the pool and the store agree in everything. */
  readonly problems: readonly string[];
  /** RBD images by the id of the volume or snapshot that they belong to. */
  readonly images: ReadonlyMap<string, FoundImage>;
  readonly inventory: Inventory;
}

/**
 * Compares a Ceph pool with what the API says, by raw reads and as an administrator: every volume and snapshot has exactly
 * its image, with the right parent that lists it as its child; no image, object, snapshot, child or catalogue entry is there
 * that belongs to none of them. Everything must have come to rest.
 */
export async function auditPool(system: System): Promise<Audit> {
  const inventory = await takeInventory(system);
  const { cluster, pool } = await openAsAdministrator(system);
  try {
    return await auditInventory(pool, inventory);
  } finally {
    pool.close();
    await cluster.close();
  }
}

/** The same, with a pool that is open already and what the API said a moment ago. */
export async function auditInventory(pool: PoolContext, inventory: Inventory): Promise<Audit> {
  return { ...(await compare(pool, inventory)), inventory };
}

/**
 * Lets the OSDs drop the clones of removed snapshots at once. On what they take for a rotating disk they pause for 5 s after
 * each object, so that an audit would find the objects of purged images for minutes.
 */
export async function trimAtOnce(cluster: Cluster): Promise<void> {
  await cluster.ceph('config', 'set', 'osd', 'osd_snap_trim_sleep_hdd', '0');
}

/** "vol-….3" is the third name of the image of "vol-…". */
const ownerOf = (name: string): string => name.split('.')[0] ?? name;

async function compare(pool: PoolContext, inventory: Inventory): Promise<Omit<Audit, 'inventory'>> {
  const problems: string[] = [];
  const found = await findImages(pool);
  const images = new Map<string, FoundImage>();
  const resources = [...inventory.volumes, ...inventory.snapshots];
  const known = new Set(resources.map((resource) => resource.id));
  for (const image of found) {
    const owner = ownerOf(image.name);
    if (!known.has(owner)) problems.push(`the image ${image.name} (${image.id}) belongs to nothing`);
    else if (images.has(owner)) problems.push(`${owner} has two images: ${image.id} and ${images.get(owner)?.id}`);
    else images.set(owner, image);
  }
  const byId = new Map(found.map((image) => [image.id, image]));
  for (const { id, state } of resources) {
    const image = images.get(id);
    const usable = state === 'VOLUME_STATE_AVAILABLE' || state === 'SNAPSHOT_STATE_COMPLETED';
    const deleted = state === 'VOLUME_STATE_DELETED' || state === 'SNAPSHOT_STATE_DELETED';
    if (!usable && !deleted) problems.push(`${id} has not come to rest: ${state}`);
    else if (image === undefined) problems.push(`${id} is ${state} and has no image`);
    else if (image.trashed !== deleted) problems.push(`${id} is ${state} and its image is the other way`);
  }
  for (const volume of inventory.volumes) {
    problems.push(...(await checkParent(pool, byId, images.get(volume.id), volume.source?.snapshotId)));
  }
  for (const snapshot of inventory.snapshots) {
    const image = images.get(snapshot.id);
    // One that was flattened stands alone.
    const parentId = snapshot.cloneDepth === 0 ? undefined : snapshot.volumeId;
    problems.push(...(await checkParent(pool, byId, image, parentId)));
    const points = image?.header?.snapshots ?? [];
    if (image !== undefined && (points.length !== 1 || points[0]?.name !== 'base' || points[0].trashed)) {
      problems.push(`${snapshot.id} has not one point "base" but ${points.map((point) => point.name).join(', ')}`);
    }
  }
  for (const volume of inventory.volumes) {
    const image = images.get(volume.id);
    for (const point of image?.header?.snapshots ?? []) {
      const children = (await readSnapshot(pool, image?.id ?? '', point.id))?.children ?? [];
      const stale = children.filter((child) => !byId.has(child.imageId));
      if (!point.trashed) problems.push(`${volume.id} has kept its point ${point.name}`);
      if (children.length === 0) problems.push(`${volume.id} has kept its point ${point.id}, which has no clone`);
      if (stale.length > 0) problems.push(`${volume.id} lists clones that are not there`);
    }
  }
  problems.push(...(await checkObjects(pool, found)), ...(await checkCatalogue(pool, inventory)));
  return { problems, images };
}

async function findImages(pool: PoolContext): Promise<FoundImage[]> {
  const found: { id: string; name: string; trashed: boolean }[] = [];
  for (const entry of await omap(pool, DIRECTORY_OBJECT)) {
    found.push({ id: entry.key.slice(3), name: new Decoder(entry.value).text(), trashed: false });
  }
  for (const entry of await omap(pool, TRASH_OBJECT)) {
    const { id, name } = decodeTrashEntry(entry.key.slice(3), entry.value);
    found.push({ id, name, trashed: true });
  }
  return Promise.all(found.map(async (image) => ({ ...image, header: await readHeader(pool, image.id) })));
}

async function omap(pool: PoolContext, object: string): Promise<{ key: string; value: Buffer }[]> {
  const entries: { key: string; value: Buffer }[] = [];
  for (let more = true, after = ''; more; after = entries.at(-1)?.key ?? '') {
    const page = await unlessAbsent({ entries: [], more: false }, () => pool.omapList(object, after, 'id_', 1000));
    entries.push(...page.entries);
    more = page.more;
  }
  return entries;
}

async function checkParent(
  pool: PoolContext,
  byId: ReadonlyMap<string, FoundImage>,
  image: FoundImage | undefined,
  parentId: string | undefined,
): Promise<string[]> {
  if (image === undefined) return [];
  const { header, name, id } = image;
  if (header === undefined) return [`the image ${name} (${id}) has no header`];
  const parent = header.parent;
  if (parentId === undefined) return parent === undefined ? [] : [`the image ${name} has a parent`];
  if (parent === undefined) return [`the image ${name} has no parent instead of ${parentId}`];
  const parentName = byId.get(parent.imageId)?.name;
  if (parentName === undefined || ownerOf(parentName) !== parentId) {
    return [`the image ${name} has the parent ${parentName ?? parent.imageId} instead of ${parentId}`];
  }
  const listed = (await readSnapshot(pool, parent.imageId, parent.snapshotId))?.children ?? [];
  return listed.some((child) => child.imageId === id) ? [] : [`${parentName} does not list its clone ${name}`];
}

async function checkObjects(pool: PoolContext, found: readonly FoundImage[]): Promise<string[]> {
  const problems: string[] = [];
  const names = new Set(found.filter((image) => !image.trashed).map((image) => `rbd_id.${image.name}`));
  const ids = new Set(found.map((image) => image.id));
  for await (const object of listObjects(pool)) {
    const [kind, id = ''] = object.split('.');
    const ours =
      kind === 'rbd_id' ? names.has(object) : kind !== 'rbd_header' && kind !== 'rbd_data' ? true : ids.has(id);
    if (!ours) problems.push(`the object ${object} belongs to no image`);
  }
  return problems;
}

async function checkCatalogue(pool: PoolContext, { volumes, snapshots, exports }: Inventory): Promise<string[]> {
  const wanted = new Set([...volumes, ...snapshots, ...exports].map((resource) => resource.id));
  const problems: string[] = [];
  for (let cursor = ''; ; ) {
    const page = await listCatalogueEntries(pool, cursor, 1000);
    for (const { key } of page.entries) {
      const id = key.slice(key.lastIndexOf('/') + 1);
      if (!wanted.delete(id)) problems.push(`the catalogue has an entry ${key} for nothing`);
    }
    if (page.nextCursor === '') break;
    cursor = page.nextCursor;
  }
  return [...problems, ...[...wanted].map((id) => `the catalogue has no entry of ${id}`)];
}
