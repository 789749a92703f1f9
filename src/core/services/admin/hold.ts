import { MoorageError } from '../../errors.js';
import { listAll } from '../../journal/agents.js';
import { indexes, keys, putOperation, putPoint } from '../../journal/documents.js';
import { releaseLocks } from '../../journal/locks.js';
import type { Operation } from '../../model/operation.js';
import type { Export, PointInTime, Snapshot, Tombstone, Volume } from '../../model/resources.js';
import type { Store, StoredDocument, Write } from '../../ports/store.js';
import type { CoreContext } from '../context.js';
import { unmark } from '../delete-pool.js';
import { settledExportWrites, settledWrites } from './settle.js';
import { resourceKey } from './survey.js';

/*
 * A STORE THAT WAS RESTORED
 *
 * A backup is older than the storage. With it alone a controller would take a volume for free that a node has open since,
 * and would destroy what was undeleted since. So a copy that BackupStore makes carries a mark; a controller that finds it
 *   1. ends the operations that ran when the copy was made, without a step: what they were doing has been done since, or
 *      was done otherwise;
 *   2. answers everything that reads, and holds whatever changes something, and the reaper, until a Repair has gone through
 *      everything and has mended all that it mends by itself.
 */

/** The mark in a copy of the store. */
export interface RestoredMark {
  /** When the copy was made, in milliseconds since the epoch. */
  readonly backupTime: number;
  /** Whether the operations of that time were ended. */
  readonly settled: boolean;
  /** Unset: it is a copy. Set: the storage knows of changes that a new primary lacks (reconcile.ts). */
  readonly lostChanges?: true;
}

/** The writes that mark a copy. Places in the change feed of the original mean nothing in it. */
export function markCopy(mark: RestoredMark): readonly Write[] {
  return [putMark(mark), { kind: 'delete', key: keys.feed, expect: 'any' }];
}

/** The writes that mark a store that lacks what was acknowledged: it is as a copy that was made before that. */
export function markLoss(now: number): readonly Write[] {
  return [
    putMark({ backupTime: now, settled: false, lostChanges: true }),
    { kind: 'delete', key: keys.feed, expect: 'any' },
  ];
}

function putMark(mark: RestoredMark): Write {
  return { kind: 'put', key: keys.restored, expect: 'any', value: mark, indexes: [] };
}

/** Whether the store is held because it was restored. */
export class Hold {
  readonly #store: Store;
  #free = false;

  constructor(store: Store) {
    this.#store = store;
  }

  /** The mark; undefined when the store is not held. Another controller may have taken it away. */
  async mark(): Promise<StoredDocument<RestoredMark> | undefined> {
    if (this.#free) return undefined;
    const document = await this.#store.get<RestoredMark>(keys.restored);
    this.#free = document === undefined;
    return document;
  }

  /** Forgets that it was not held: another controller may have put the mark since. */
  lookAgain(): void {
    this.#free = false;
  }

  /** @throws MoorageError FAILED_PRECONDITION while it is held */
  async check(): Promise<void> {
    const mark = await this.mark();
    if (mark === undefined) return;
    const when = new Date(mark.value.backupTime).toISOString();
    if (mark.value.lostChanges === true) {
      throw new MoorageError(
        'FAILED_PRECONDITION',
        'The store lacks changes that the storage knows of, since its primary changed: nothing is changed before a Repair of ' +
          'everything has gone through (moorage check, then moorage repair).',
        { reason: 'STORE_LOST_CHANGES', metadata: { found_time: when } },
      );
    }
    throw new MoorageError(
      'FAILED_PRECONDITION',
      `The store was restored from a backup of ${when} and is older than the storage: nothing is changed before a Repair of ` +
        'everything has gone through (moorage check, then moorage repair).',
      { reason: 'STORE_RESTORED', metadata: { backup_time: when } },
    );
  }

  /** Lets everything through again. */
  async release(core: CoreContext): Promise<void> {
    const mark = await this.mark();
    if (mark === undefined) return;
    const outcome = await core.store.commit([{ kind: 'delete', key: mark.key, expect: mark.rev }, core.liveCheck()]);
    if (!outcome.ok) await core.refreshMembership();
    this.#free = outcome.ok;
  }
}

/** Ends what ran when the copy was made. Once, when a controller starts on a restored store. */
export async function settleRestored(core: CoreContext, hold: Hold): Promise<void> {
  const mark = await hold.mark();
  if (mark === undefined || mark.value.settled) return;
  const message =
    mark.value.lostChanges === true
      ? 'The store lost changes while this operation ran: its primary was replaced.'
      : 'The store was restored from a backup that was made while this operation ran.';
  for (const { key } of await listAll<Operation>(core.store, indexes.operationsRunning)) {
    await commit(core, async () => {
      // Another controller may be at it too.
      const operation = await core.store.get<Operation>(key);
      return operation?.value.state === 'running' ? endedWrites(core, operation, message) : [];
    });
  }
  for (const { key } of await listAll<PointInTime>(core.store, indexes.points)) {
    await commit(core, async () => {
      const document = await core.store.get<PointInTime>(key);
      if (document === undefined) return [];
      const { connection: _, ...value } = document.value;
      const point = value.point ?? { name: value.id, backendId: '' };
      return [putPoint({ ...value, point, operationIds: [] }, document.rev)];
    });
  }
  await commit(core, async () => [putMark({ ...mark.value, settled: true })]);
}

async function endedWrites(
  core: CoreContext,
  document: StoredDocument<Operation>,
  message: string,
): Promise<readonly Write[]> {
  const operation = document.value;
  const now = core.clock.now();
  const ended: Operation = {
    ...operation,
    state: 'failed',
    phase: 'ended',
    plan: null,
    statusMessage: message,
    failure: { code: 'ABORTED', message, reason: 'STORE_RESTORED', metadata: {} },
    updateTime: now,
    endTime: now,
  };
  const { resourceId } = operation;
  const writes: Write[] = [putOperation(ended, document.rev), ...(await releaseLocks(core.store, operation))];
  if (operation.kind === 'pool.delete') return [...writes, ...(await unmark(core, resourceId))];
  const isExport = resourceId.startsWith('exp-');
  const key = isExport ? keys.export(resourceId) : resourceKey(resourceId);
  const resource = await core.store.get<Volume | Snapshot | Export | Tombstone>(key);
  if (resource === undefined || resource.value.state === 'gone') return writes;
  const settled = isExport
    ? await settledExportWrites(core, resource as StoredDocument<Export>)
    : await settledWrites(core, resource as StoredDocument<Volume | Snapshot>);
  return [...writes, ...settled];
}

async function commit(core: CoreContext, build: () => Promise<readonly Write[]>): Promise<void> {
  for (;;) {
    const outcome = await core.store.commit([...(await build()), core.liveCheck()]);
    if (outcome.ok) return;
    if (!(await core.refreshMembership())) throw new Error('This controller is no longer live.');
  }
}
