import { MoorageError } from '../errors.js';
import { isId } from '../model/ids.js';
import type { Lock, LockRecord, Operation } from '../model/operation.js';
import type { Clock } from '../ports/clock.js';
import type { Store, Write } from '../ports/store.js';
import { keys, putLock } from './documents.js';

/*
 * Locks stand in the store beside the operation that holds them: they come with its begin and go with its finish, so a crash
 * never leaves one behind. They are never waited for: a conflict is told to the caller, with the operation in the way.
 *
 * The lock of a snapshot is in several parts, because hundreds of volumes may be made from one at the same time, and each
 * begin and each finish that wrote the same document would make all others read and try again. Who shares the lock writes
 * one part, which its operation's id chooses; who wants it alone writes every part. So the two meet in a document whichever
 * comes first, and those that share hardly ever do.
 */

/** Parts of a snapshot's lock; the first has the key that a lock of one part has. */
const SNAPSHOT_PARTS = 8;

/** The keys of a resource's lock: all are absent when nobody holds it. */
export function lockKeys(resourceId: string): readonly string[] {
  const parts = isId('snap', resourceId) ? SNAPSHOT_PARTS : 1;
  return Array.from({ length: parts }, (_, part) => keys.lock(resourceId, part));
}

/**
 * The writes that take an operation's locks.
 * @throws MoorageError ABORTED with the other operation's id, age and phase
 */
export async function takeLocks(store: Store, clock: Clock, operation: Operation): Promise<readonly Write[]> {
  const wanted = operation.locks.flatMap((lock) => keysToWrite(lock, operation.id).map((key) => ({ lock, key })));
  const documents = await store.getMany<LockRecord>(wanted.map(({ key }) => key));
  const writes: Write[] = [];
  for (const [position, { lock, key }] of wanted.entries()) {
    const document = documents[position];
    const holders = document?.value.holders ?? [];
    const other = holders.find((holder) => holder.mode === 'exclusive' || lock.mode === 'exclusive');
    if (other !== undefined) throw await conflictError(store, clock, lock, other.operationId);
    const record: LockRecord = { holders: [...holders, { operationId: operation.id, mode: lock.mode }] };
    writes.push(putLock(key, record, document?.rev ?? 'absent'));
  }
  return writes;
}

/** What the parts of a resource's lock hold when these operations, and no others, have it; by key. */
export function lockRecords(resourceId: string, operations: readonly Operation[]): ReadonlyMap<string, LockRecord> {
  const records = new Map<string, LockRecord>();
  for (const { id, locks } of operations) {
    for (const lock of locks.filter((each) => each.resourceId === resourceId)) {
      for (const key of keysToWrite(lock, id)) {
        const holders = records.get(key)?.holders ?? [];
        records.set(key, { holders: [...holders, { operationId: id, mode: lock.mode }] });
      }
    }
  }
  return records;
}

/** The writes that release an operation's locks. */
export async function releaseLocks(store: Store, operation: Operation): Promise<readonly Write[]> {
  const wanted = operation.locks.flatMap((lock) => keysToWrite(lock, operation.id));
  const documents = await store.getMany<LockRecord>(wanted);
  const writes: Write[] = [];
  for (const document of documents) {
    if (document === undefined) continue;
    const holders = document.value.holders.filter((holder) => holder.operationId !== operation.id);
    writes.push(putLock(document.key, { holders }, document.rev));
  }
  return writes;
}

function keysToWrite(lock: Lock, operationId: string): readonly string[] {
  const all = lockKeys(lock.resourceId);
  if (lock.mode === 'exclusive') return all;
  // Ids end in random hexadecimal digits.
  const part = Number.parseInt(operationId.slice(-4), 16) % all.length;
  return all.slice(part, part + 1);
}

async function conflictError(store: Store, clock: Clock, lock: Lock, operationId: string): Promise<MoorageError> {
  const other = (await store.get<Operation>(keys.operation(operationId)))?.value;
  const age = other === undefined ? 0 : Math.max(0, clock.now() - other.createTime);
  const what = other === undefined ? operationId : `${operationId} (${other.kind}, for ${age} ms, at ${other.phase})`;
  return new MoorageError(
    'ABORTED',
    `${lock.resourceId} is being changed by operation ${what}. Try again when it has ended.`,
    {
      reason: 'OPERATION_IN_PROGRESS',
      metadata: {
        resource_id: lock.resourceId.replace(/\/.*/, ''),
        operation_id: operationId,
        age_milliseconds: String(age),
        phase: other?.phase ?? '',
      },
      retryAfterMilliseconds: 500,
    },
  );
}
