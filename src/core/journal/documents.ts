import type { ImageRecord } from '../model/image.js';
import type { ControllerRecord, LockRecord, Operation, TokenRecord } from '../model/operation.js';
import type {
  CutOff,
  Debris,
  Enrollment,
  Export,
  FeedRecord,
  Grant,
  Node,
  PointInTime,
  Pool,
  Snapshot,
  Tombstone,
  Volume,
} from '../model/resources.js';
import {
  COMMIT_REVISION,
  type Expectation,
  type IndexEntry,
  type Store,
  type StoredDocument,
  type Write,
} from '../ports/store.js';
import type { LayoutRecord } from './layout.js';

/*
 * Which document has which key and stands in which indexes. This is the schema of the store: every put of the core is made
 * here, so that an index can never be forgotten at one place.
 */

/** Keys of documents. */
export const keys = {
  volume: (id: string) => `volume/${id}`,
  snapshot: (id: string) => `snapshot/${id}`,
  export: (id: string) => `export/${id}`,
  grant: (id: string) => `grant/${id}`,
  node: (id: string) => `node/${id}`,
  /** The enrollment that was last begun for a node's name. */
  enrollment: (nodeId: string) => `enrollment/${nodeId}`,
  /** Changes with each export that begins on a node ({@link putNewExport}). */
  nodeExports: (nodeId: string) => `node-exports/${nodeId}`,
  pool: (id: string) => `pool/${id}`,
  place: (cluster: string, cephPool: string) => `place/${encodeURIComponent(cluster)}/${cephPool}`,
  operation: (id: string) => `op/${id}`,
  lock: (resourceId: string, part = 0) => (part === 0 ? `lock/${resourceId}` : `lock/${resourceId}/${part}`),
  token: (principal: string, method: string, token: string) =>
    `token/${encodeURIComponent(principal)}/${method}/${token}`,
  point: (id: string) => `point/${id}`,
  debris: (poolId: string, name: string) => `debris/${poolId}/${name}`,
  cutOff: (cluster: string, address: string) => `cut-off/${encodeURIComponent(cluster)}/${address}`,
  /** What is left of a node or a pool: its name may be used again, so it cannot stand under its own key. */
  gone: (kind: 'node' | 'pool', id: string) => `gone/${kind}/${id}`,
  feed: 'feed',
  controller: (inc: string) => `controller/${inc}`,
  beat: (inc: string) => `beat/${inc}`,
  /** Which layout of documents is in use (journal/layout.ts). */
  layout: 'store/layout',
  /** There while the store is held because it was restored from a backup (services/admin/hold.ts). */
  restored: 'store/restored',
  /** Which primary of a replicated store was compared with the storage last (services/admin/reconcile.ts). */
  primary: 'store/primary',
} as const;

/** Names of indexes; those with a parameter are functions. */
export const indexes = {
  volumes: 'volumes',
  volumesAll: 'volumes-all',
  volumesOfPool: (poolId: string) => `volumes-of-pool/${poolId}`,
  volumesOfSnapshot: (snapshotId: string) => `volumes-of-snapshot/${snapshotId}`,
  snapshots: 'snapshots',
  snapshotsAll: 'snapshots-all',
  snapshotsOfPool: (poolId: string) => `snapshots-of-pool/${poolId}`,
  snapshotsOfVolume: (volumeId: string) => `snapshots-of-volume/${volumeId}`,
  exports: 'exports',
  exportsOfNode: (nodeId: string) => `exports-of-node/${nodeId}`,
  exportsOfVolume: (volumeId: string) => `exports-of-volume/${volumeId}`,
  /** Exports that pin a volume or snapshot. */
  pinsOf: (resourceId: string) => `pins-of/${resourceId}`,
  /** Volumes and snapshots whose image is, or is being, cloned from that of a resource. */
  childrenOf: (resourceId: string) => `children-of/${resourceId}`,
  nodes: 'nodes',
  pools: 'pools',
  operations: 'operations',
  operationsRunning: 'operations-running',
  operationsOf: (resourceId: string) => `operations-of/${resourceId}`,
  /** What the reaper looks at, by the time from when it may. */
  reap: 'reap',
  debris: 'debris',
  points: 'points',
  /** Everybody who is to stay cut off. */
  cutOffs: 'cut-offs',
  cutOffsOfNode: (nodeId: string) => `cut-offs-of-node/${nodeId}`,
  controllers: 'controllers',
  tokensOf: (resourceId: string) => `tokens-of/${resourceId}`,
  /** What is kept for a while only, by when it ends. */
  expiry: 'expiry',
  /** Everything that can be watched, in the order in which it last changed (services/events). */
  changes: 'changes',
  /** What is left of what is gone and still stands in `changes`, by when it went. */
  gone: 'gone',
} as const;

/** A time as a sort key. */
export function sortableTime(milliseconds: number): string {
  return Math.max(0, Math.floor(milliseconds)).toString().padStart(15, '0');
}

/** Everything that can be watched has this entry, so that each put moves it to the end of the changes. */
const CHANGED: IndexEntry = { index: indexes.changes, sort: COMMIT_REVISION };

function byAge(resource: { readonly id: string; readonly createTime: number }): string {
  return `${sortableTime(resource.createTime)}/${resource.id}`;
}

function put(key: string, expect: Expectation, value: unknown, entries: readonly IndexEntry[]): Write {
  return { kind: 'put', key, expect, value, indexes: entries };
}

/** How long finished operations, and the tokens and tombstones of what is gone, are kept: a day. */
export const KEPT_MILLISECONDS = 24 * 60 * 60 * 1000;

/** From its begin a clone counts as a child of its source; it stops to only when its image is known to have no parent. */
function mayHaveParent(resource: { readonly image?: ImageRecord }): boolean {
  return resource.image === undefined || resource.image.parent !== undefined;
}

/** Puts a volume. */
export function putVolume(volume: Volume, expect: Expectation): Write {
  const sort = byAge(volume);
  const live = volume.state !== 'deleted' && volume.state !== 'purging';
  const entries: IndexEntry[] = [
    CHANGED,
    { index: indexes.volumesAll, sort },
    { index: indexes.volumesOfPool(volume.poolId), sort },
  ];
  if (live) entries.push({ index: indexes.volumes, sort });
  if (volume.sourceSnapshotId !== undefined) {
    entries.push({ index: indexes.volumesOfSnapshot(volume.sourceSnapshotId), sort });
    if (mayHaveParent(volume)) entries.push({ index: indexes.childrenOf(volume.sourceSnapshotId), sort });
  }
  if (!live) entries.push({ index: indexes.reap, sort: `${sortableTime(volume.purgeTime ?? 0)}/${volume.id}` });
  return put(keys.volume(volume.id), expect, volume, entries);
}

/** Puts a snapshot. */
export function putSnapshot(snapshot: Snapshot, expect: Expectation): Write {
  const sort = byAge(snapshot);
  const live = snapshot.state !== 'deleted' && snapshot.state !== 'purging';
  const entries: IndexEntry[] = [
    CHANGED,
    { index: indexes.snapshotsAll, sort },
    { index: indexes.snapshotsOfPool(snapshot.poolId), sort },
    { index: indexes.snapshotsOfVolume(snapshot.volumeId), sort },
  ];
  if (mayHaveParent(snapshot)) entries.push({ index: indexes.childrenOf(snapshot.volumeId), sort });
  if (live) entries.push({ index: indexes.snapshots, sort });
  else entries.push({ index: indexes.reap, sort: `${sortableTime(snapshot.purgeTime ?? 0)}/${snapshot.id}` });
  return put(keys.snapshot(snapshot.id), expect, snapshot, entries);
}

/** Puts what is left of a purged volume, snapshot, or ended export, under the key that it had. */
export function putTombstone(key: string, tombstone: Tombstone, expect: Expectation): Write {
  return put(key, expect, tombstone, [CHANGED, goneEntry(key, tombstone)]);
}

function goneEntry(key: string, { goneTime }: Tombstone): IndexEntry {
  return { index: indexes.gone, sort: `${sortableTime(goneTime)}/${key}` };
}

/** Puts what is left of a removed node or a deleted pool, for those who watch. */
export function putGone(kind: 'node' | 'pool', tombstone: Tombstone): Write {
  return putTombstone(keys.gone(kind, tombstone.id), tombstone, 'any');
}

/** Takes what is left of something out of the changes, because nobody who watches can lack it any more. */
export function forgetGone(key: string, tombstone: Tombstone, expect: number): Write {
  return key.startsWith('gone/') ? { kind: 'delete', key, expect } : put(key, expect, tombstone, []);
}

/** Puts the feed's record. */
export function putFeed(record: FeedRecord, expect: Expectation): Write {
  return put(keys.feed, expect, record, []);
}

/** Puts an export. */
export function putExport(item: Export, expect: Expectation): Write {
  const sort = byAge(item);
  return put(keys.export(item.id), expect, item, [
    CHANGED,
    { index: indexes.exports, sort },
    { index: indexes.exportsOfNode(item.nodeId), sort },
    { index: indexes.exportsOfVolume(item.volumeId), sort },
    ...item.ancestorIds.map((id) => ({ index: indexes.pinsOf(id), sort })),
  ]);
}

/**
 * Puts an export that begins, with a document of its node that changes with each. Whoever removes the node reads that document
 * before it looks for exports: a revision that is only checked by a begin would not show it one that is committed after its
 * look. The node itself is not changed, so that exports on one node do not disturb each other, or those who watch.
 */
export function putNewExport(item: Export): readonly Write[] {
  return [putExport(item, 'absent'), put(keys.nodeExports(item.nodeId), 'any', { exportId: item.id }, [])];
}

/** Puts a grant; it goes a day after it could last be redeemed, unless it was: then it lives as long as its export, and a day. */
export function putGrant(grant: Grant, expect: Expectation): Write {
  const entries =
    grant.exportId === ''
      ? [{ index: indexes.expiry, sort: `${sortableTime(grant.expireTime + KEPT_MILLISECONDS)}/${grant.id}` }]
      : [{ index: indexes.tokensOf(grant.exportId), sort: keys.grant(grant.id) }];
  return put(keys.grant(grant.id), expect, grant, entries);
}

/**
 * The writes that let the tokens and grants of a resource go at a time (milliseconds since the epoch), because the resource
 * is gone or could not be made.
 */
export async function expireDependents(
  store: Store,
  resourceId: string,
  expireTime: number,
): Promise<readonly Write[]> {
  const writes: Write[] = [];
  let after: string | undefined;
  do {
    const page = await store.list<TokenRecord | Grant>(indexes.tokensOf(resourceId), {
      limit: 100,
      ...(after === undefined ? {} : { after }),
    });
    for (const { key, rev, value } of page.documents) {
      const expiry = { index: indexes.expiry, sort: `${sortableTime(expireTime)}/${key}` };
      writes.push(put(key, rev, value, [{ index: indexes.tokensOf(resourceId), sort: key }, expiry]));
    }
    after = page.cursor;
  } while (after !== undefined);
  return writes;
}

/** Removes a node, unless an export began on it since {@link keys.nodeExports} was read. @param now milliseconds since the epoch */
export function removeNode(
  node: StoredDocument<Node>,
  begun: StoredDocument<unknown> | undefined,
  now: number,
): readonly Write[] {
  const key = keys.nodeExports(node.value.id);
  return [
    { kind: 'delete', key: node.key, expect: node.rev },
    begun === undefined ? { kind: 'check', key, expect: 'absent' } : { kind: 'delete', key, expect: begun.rev },
    putGone('node', { id: node.value.id, state: 'gone', goneTime: now }),
  ];
}

/** Puts an enrollment; it goes a day after its token has expired, used or not. */
export function putEnrollment(enrollment: Enrollment, expect: Expectation): Write {
  const sort = `${sortableTime(enrollment.expireTime + KEPT_MILLISECONDS)}/${enrollment.nodeId}`;
  return put(keys.enrollment(enrollment.nodeId), expect, enrollment, [{ index: indexes.expiry, sort }]);
}

/** Removes an enrollment, if there is one: with its node what its token may still do ends. */
export function forgetEnrollment(document: StoredDocument<unknown> | undefined): readonly Write[] {
  return document === undefined ? [] : [{ kind: 'delete', key: document.key, expect: document.rev }];
}

/** Puts a node. */
export function putNode(node: Node, expect: Expectation): Write {
  return put(keys.node(node.id), expect, node, [CHANGED, { index: indexes.nodes, sort: node.id }]);
}

function poolDocument(pool: Pool, expect: Expectation): Write {
  return put(keys.pool(pool.id), expect, pool, [CHANGED, { index: indexes.pools, sort: pool.id }]);
}

/** Puts a new pool, with a document that names its place: of two calls at once for one place, one meets a conflict. */
export function putPool(pool: Pool, expect: 'absent'): readonly Write[] {
  return [poolDocument(pool, expect), putPlace(pool)];
}

/** Puts the document that names a pool's place. */
export function putPlace({ id, settings: { cluster, cephPool } }: Pool): Write {
  return put(keys.place(cluster, cephPool), 'absent', { poolId: id }, []);
}

/** Puts a pool that changed; its place stays what it is. */
export function putChangedPool(pool: Pool, expect: number): Write {
  return poolDocument(pool, expect);
}

/** Removes a pool and the document that names its place. @param now milliseconds since the epoch */
export function removePool(pool: Pool, expect: number, now: number): readonly Write[] {
  const { cluster, cephPool } = pool.settings;
  return [
    { kind: 'delete', key: keys.pool(pool.id), expect },
    { kind: 'delete', key: keys.place(cluster, cephPool), expect: 'any' },
    putGone('pool', { id: pool.id, state: 'gone', goneTime: now, poolId: pool.id }),
  ];
}

/** Puts an operation. A finished one goes after a day. */
export function putOperation(operation: Operation, expect: Expectation): Write {
  const sort = byAge(operation);
  const entries: IndexEntry[] = [
    CHANGED,
    { index: indexes.operations, sort },
    { index: indexes.operationsOf(operation.resourceId), sort },
  ];
  if (operation.state === 'running') entries.push({ index: indexes.operationsRunning, sort });
  else {
    const end = (operation.endTime ?? operation.updateTime) + KEPT_MILLISECONDS;
    entries.push({ index: indexes.expiry, sort: `${sortableTime(end)}/${operation.id}` });
  }
  return put(keys.operation(operation.id), expect, operation, entries);
}

/** Puts or removes a lock record. */
export function putLock(key: string, record: LockRecord, expect: Expectation): Write {
  return record.holders.length === 0 ? { kind: 'delete', key, expect } : put(key, expect, record, []);
}

/**
 * Puts what a client token made. It stays until `expireDependents` says when it goes, or until a time that is known already
 * (milliseconds since the epoch), because the call ended its resource.
 */
export function putToken(key: string, record: TokenRecord, expect: Expectation, expireTime?: number): Write {
  return put(key, expect, record, [
    expireTime === undefined
      ? { index: indexes.tokensOf(record.resourceId), sort: key }
      : { index: indexes.expiry, sort: `${sortableTime(expireTime)}/${key}` },
  ]);
}

/** Puts a shared point in time. */
export function putPoint(point: PointInTime, expect: Expectation): Write {
  return put(keys.point(point.id), expect, point, [{ index: indexes.points, sort: point.id }]);
}

/** Puts debris for the reaper. */
export function putDebris(debris: Debris, expect: Expectation): Write {
  const sort = `${sortableTime(debris.createTime)}/${debris.name}`;
  const entries: IndexEntry[] = [{ index: indexes.debris, sort }];
  if (debris.image.parent !== undefined)
    entries.push({ index: indexes.childrenOf(debris.image.parent.resourceId), sort });
  return put(keys.debris(debris.poolId, debris.name), expect, debris, entries);
}

/** Puts what is known of the layout. */
export function putLayout(record: LayoutRecord, expect: Expectation): Write {
  return put(keys.layout, expect, record, []);
}

/** Puts a controller's record. */
export function putController(record: ControllerRecord, expect: Expectation): Write {
  return put(keys.controller(record.inc), expect, record, [{ index: indexes.controllers, sort: record.inc }]);
}

/** Puts a controller's beat: a document of its own, so that a beat does not disturb the commits that check the record. */
export function putBeat(inc: string, beat: number, expect: Expectation): Write {
  return put(keys.beat(inc), expect, { beat }, []);
}

/** Puts somebody who is to stay cut off. */
export function putCutOff(cutOff: CutOff, expect: Expectation): Write {
  const key = keys.cutOff(cutOff.cluster, cutOff.address);
  return put(key, expect, cutOff, [
    { index: indexes.cutOffs, sort: key },
    ...(cutOff.nodeId === '' ? [] : [{ index: indexes.cutOffsOfNode(cutOff.nodeId), sort: key }]),
  ]);
}
