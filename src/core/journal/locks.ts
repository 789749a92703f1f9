import { MoorageError } from '../errors.js';
import type { Lock, LockRecord, Operation } from '../model/operation.js';
import type { Clock } from '../ports/clock.js';
import type { Store, Write } from '../ports/store.js';
import { keys, putLock } from './documents.js';

/*
 * Locks stand in the store beside the operation that holds them: they come with its begin and go with its finish, so a crash
 * never leaves one behind. They are never waited for: a conflict is told to the caller, with the operation in the way.
 */

/**
 * The writes that take an operation's locks.
 * @throws MoorageError ABORTED with the other operation's id, age and phase
 */
export async function takeLocks(store: Store, clock: Clock, operation: Operation): Promise<readonly Write[]> {
  const documents = await store.getMany<LockRecord>(operation.locks.map((lock) => keys.lock(lock.resourceId)));
  const writes: Write[] = [];
  for (const [position, lock] of operation.locks.entries()) {
    const document = documents[position];
    const holders = document?.value.holders ?? [];
    const other = holders.find((holder) => holder.mode === 'exclusive' || lock.mode === 'exclusive');
    if (other !== undefined) throw await conflictError(store, clock, lock, other.operationId);
    const record: LockRecord = { holders: [...holders, { operationId: operation.id, mode: lock.mode }] };
    writes.push(putLock(lock.resourceId, record, document?.rev ?? 'absent'));
  }
  return writes;
}

/** The writes that release an operation's locks. */
export async function releaseLocks(store: Store, operation: Operation): Promise<readonly Write[]> {
  const documents = await store.getMany<LockRecord>(operation.locks.map((lock) => keys.lock(lock.resourceId)));
  const writes: Write[] = [];
  for (const [position, lock] of operation.locks.entries()) {
    const document = documents[position];
    if (document === undefined) continue;
    const holders = document.value.holders.filter((holder) => holder.operationId !== operation.id);
    writes.push(putLock(lock.resourceId, { holders }, document.rev));
  }
  return writes;
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
        resource_id: lock.resourceId,
        operation_id: operationId,
        age_milliseconds: String(age),
        phase: other?.phase ?? '',
      },
      retryAfterMilliseconds: 500,
    },
  );
}
