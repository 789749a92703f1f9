import { MoorageError, notFound } from '../errors.js';
import { indexes, keys } from '../journal/documents.js';
import type { Journal } from '../journal/journal.js';
import { requireId } from '../model/ids.js';
import type { Operation } from '../model/operation.js';
import type { CoreContext } from './context.js';
import { listPage } from './page-tokens.js';
import type { Caller, ListOperations, OperationService } from './types.js';

/** The use cases of operations. */
export class Operations implements OperationService {
  private readonly core: CoreContext;
  private readonly journal: Journal;

  constructor(core: CoreContext, journal: Journal) {
    this.core = core;
    this.journal = journal;
  }

  async get(id: string, _caller: Caller): Promise<Operation> {
    requireId('op', 'operation_id', id);
    const document = await this.core.store.get<Operation>(keys.operation(id));
    if (document === undefined) throw notFound('operation', id);
    return document.value;
  }

  async list(request: ListOperations, caller: Caller): Promise<{ items: readonly Operation[]; nextPageToken: string }> {
    const { resourceId } = request;
    const wanted = new Set(request.states.length === 0 ? (['running'] as const) : request.states);
    const onlyRunning = wanted.size === 1 && wanted.has('running');
    const index =
      resourceId !== ''
        ? indexes.operationsOf(resourceId)
        : onlyRunning
          ? indexes.operationsRunning
          : indexes.operations;
    const page = await listPage<Operation>(this.core.store, this.core.vault, request, caller, {
      filter: ['ListOperations', resourceId, [...wanted].sort()],
      index,
      fits: (operation) => wanted.has(operation.state),
    });
    return { items: page.items.map((item) => item.value), nextPageToken: page.nextPageToken };
  }

  async wait(id: string, timeoutMilliseconds: number | undefined, caller: Caller): Promise<Operation> {
    requireId('op', 'operation_id', id);
    const now = this.core.clock.monotonic();
    const left = Math.max(0, caller.deadline - now);
    const latest = caller.deadline - Math.min(1_000, left * 0.2);
    const until = timeoutMilliseconds === undefined ? latest : Math.min(latest, now + timeoutMilliseconds);
    const operation = await this.journal.waiters.wait(id, until, caller.signal);
    if (operation === undefined) throw notFound('operation', id);
    return operation;
  }

  async cancel(id: string, caller: Caller): Promise<Operation> {
    requireId('op', 'operation_id', id);
    const outcome = await this.journal.cancel(id);
    if (outcome === undefined) throw notFound('operation', id);
    if (outcome === 'refused') throw notCancellable(await this.get(id, caller));
    return this.wait(id, undefined, caller);
  }
}

function notCancellable({ id, kind, phase, resourceId }: Operation): MoorageError {
  return new MoorageError(
    'FAILED_PRECONDITION',
    `The operation ${id} (${kind} of ${resourceId}, at ${phase}) cannot be cancelled: only the flattening of a new snapshot can. ` +
      'What it makes can be deleted when it has ended.',
    { reason: 'NOT_CANCELLABLE', metadata: { operation_id: id, kind, phase } },
  );
}
