import type { LockRecord, Operation } from '../model/operation.js';
import type { Export, Node, Pool, Snapshot, Volume } from '../model/resources.js';
import type { Store, StoredDocument, Write } from '../ports/store.js';
import { listAll } from './agents.js';
import {
  indexes,
  keys,
  putChangedPool,
  putExport,
  putLock,
  putNode,
  putOperation,
  putPlace,
  putSnapshot,
  putVolume,
} from './documents.js';
import { lockKeys, lockRecords } from './locks.js';

/*
 * From each layout of the store to the next one. A step that was released is never changed; a change of the layout is one
 * more at the end. A step may be done again from its start at any time, also half done, and while other controllers of this
 * version serve: so each commit names the revisions that it read.
 */

/** What a step works with. */
export interface LayoutStepContext {
  readonly store: Store;
  /** Commits while this controller is live. @returns false after a conflict: read again */
  readonly commit: (writes: readonly Write[]) => Promise<boolean>;
}

/** Brings all documents from one layout to the next. */
export type LayoutStep = (context: LayoutStepContext) => Promise<void>;

/** Documents of one commit. */
const PAGE = 100;

/**
 * To layout 2: everything that can be watched stands in the index of changes, each pool has a document that names its place,
 * and the locks of snapshots lie in parts.
 */
const toSecond: LayoutStep = async (context) => {
  await putAgain<Volume>(context, indexes.volumesAll, putVolume);
  await putAgain<Snapshot>(context, indexes.snapshotsAll, putSnapshot);
  await putAgain<Export>(context, indexes.exports, putExport);
  await putAgain<Node>(context, indexes.nodes, putNode);
  await putAgain<Pool>(context, indexes.pools, putChangedPool);
  await putAgain<Operation>(context, indexes.operations, putOperation);
  for (const { value } of await listAll<Pool>(context.store, indexes.pools)) await namePlace(context, value);
  const running = await listAll<Operation>(context.store, indexes.operationsRunning);
  const locked = running.flatMap(({ value }) => value.locks.map(({ resourceId }) => resourceId));
  for (const resourceId of new Set(locked)) await divideLock(context, resourceId);
};

/** The steps, in order: the first one leads from layout 1 to layout 2. */
export const layoutSteps: readonly LayoutStep[] = [toSecond];

/** Writes every document of an index as this version writes it, which puts it into the indexes that it belongs to now. */
async function putAgain<T>(
  { store, commit }: LayoutStepContext,
  index: string,
  put: (value: T, expect: number) => Write,
): Promise<void> {
  let after: string | undefined;
  for (;;) {
    const page = await store.list<T>(index, { limit: PAGE, ...(after === undefined ? {} : { after }) });
    const writes = page.documents.map(({ value, rev }) => put(value, rev));
    // A page that changed meanwhile is read again.
    if (writes.length > 0 && !(await commit(writes))) continue;
    if (page.cursor === undefined) return;
    after = page.cursor;
  }
}

/** Of two pools in one place, which layout 1 let pass, the first one is named. */
async function namePlace({ store, commit }: LayoutStepContext, pool: Pool): Promise<void> {
  const { cluster, cephPool } = pool.settings;
  while ((await store.get(keys.place(cluster, cephPool))) === undefined) await commit([putPlace(pool)]);
}

/** Writes a lock as this version would have taken it, for those that hold it. */
async function divideLock({ store, commit }: LayoutStepContext, resourceId: string): Promise<void> {
  const all = lockKeys(resourceId);
  if (all.length === 1) return;
  for (;;) {
    const documents = await store.getMany<LockRecord>(all);
    // After the locks were read: whoever begins or ends since then changes one of them.
    const running = await listAll<Operation>(store, indexes.operationsRunning);
    const records = lockRecords(
      resourceId,
      running.map(({ value }) => value),
    );
    const writes = all.flatMap((key, part) => changed(key, documents[part], records.get(key) ?? { holders: [] }));
    if (writes.length === 0 || (await commit(writes))) return;
  }
}

function changed(key: string, document: StoredDocument<LockRecord> | undefined, wanted: LockRecord): readonly Write[] {
  if (document === undefined && wanted.holders.length === 0) return [];
  return [putLock(key, wanted, document?.rev ?? 'absent')];
}
