import { MoorageError } from '../errors.js';
import type { Lock, Operation, OperationKind } from '../model/operation.js';
import { BackendError, type StepContext } from '../ports/backend.js';
import type { Clock } from '../ports/clock.js';
import type { CoreEvents, CoreMetrics } from '../ports/metrics.js';
import { type Store, type StoredDocument, StoreError, type Write } from '../ports/store.js';
import type { CoreSettings } from '../settings.js';
import type { Next, OperationDefinition, PhaseContext } from './definition.js';
import { putOperation } from './documents.js';
import { releaseLocks } from './locks.js';
import type { Membership } from './membership.js';
import type { Waiters } from './waiters.js';

/** The first wait between two tries of a step, in milliseconds; it doubles with each. */
const FIRST_RETRY_MILLISECONDS = 20;
/** How often at most an operation's status message is committed while it is tried again, in milliseconds. */
const STATUS_INTERVAL_MILLISECONDS = 5_000;

/** How many ids of operations that ran are remembered: more than can end between two looks at the store. */
const RAN_KEPT = 10_000;

/** Carries operations out, phase by phase, until they end or this controller does. See the essay in journal.ts. */
export class OperationRunner {
  private readonly store: Store;
  private readonly clock: Clock;
  private readonly events: CoreEvents;
  private readonly metrics: CoreMetrics;
  private readonly settings: CoreSettings;
  private readonly membership: Membership;
  private readonly waiters: Waiters;
  private readonly definitions: ReadonlyMap<OperationKind, OperationDefinition<unknown>>;
  private readonly running = new Map<string, Promise<void>>();
  /** Ids of those that ran last, in that order. */
  private readonly ran = new Set<string>();
  /** How many of them are on each pool. */
  private readonly runningByPool = new Map<string, number>();

  constructor(options: {
    store: Store;
    clock: Clock;
    events: CoreEvents;
    metrics: CoreMetrics;
    settings: CoreSettings;
    membership: Membership;
    waiters: Waiters;
    definitions: readonly OperationDefinition<never>[];
  }) {
    this.store = options.store;
    this.clock = options.clock;
    this.events = options.events;
    this.metrics = options.metrics;
    this.settings = options.settings;
    this.membership = options.membership;
    this.waiters = options.waiters;
    // Each definition reads only the plans that its own service wrote; the kind ties them together.
    this.definitions = new Map(
      options.definitions.map((definition) => [definition.kind, definition as unknown as OperationDefinition<unknown>]),
    );
  }

  /** Operations that run now. */
  get length(): number {
    return this.running.size;
  }

  /** Operations on that pool that run now. */
  lengthOn(poolId: string): number {
    return this.runningByPool.get(poolId) ?? 0;
  }

  /**
   * Runs an operation that is recorded as this controller's and was never run by it: its begin had an unknown outcome, and
   * nobody came back to ask.
   */
  runUnlessRan(document: StoredDocument<Operation>): void {
    if (!this.ran.has(document.value.id)) this.run(document);
  }

  /** Whether this controller runs that operation now. */
  runs(operationId: string): boolean {
    return this.running.has(operationId);
  }

  private knows({ kind, phase }: Operation): boolean {
    return this.definitions.get(kind)?.phases[phase] !== undefined;
  }

  /** Whether something of it can be left out. */
  cancellable(operation: Operation): boolean {
    return this.definitions.get(operation.kind)?.cancellable?.(operation) ?? false;
  }

  /**
   * Runs an operation in the background. One that runs already is left alone. One that a newer version has begun stays as it
   * is: whoever takes over from this controller may know it.
   */
  run(document: StoredDocument<Operation>): void {
    const { id, poolId } = document.value;
    if (this.running.has(id)) return;
    if (!this.knows(document.value)) {
      if (this.ran.has(id)) return;
      this.ran.add(id);
      const { kind, phase } = document.value;
      const message = 'an operation that this version does not know waits for a controller that does';
      this.events.notice({ level: 'warn', message, fields: { operation: id, kind, phase } });
      return;
    }
    this.ran.add(id);
    for (const oldest of this.ran) {
      if (this.ran.size <= RAN_KEPT) break;
      this.ran.delete(oldest);
    }
    this.runningByPool.set(poolId, this.lengthOn(poolId) + 1);
    const running = this.carryOut(document)
      .catch((error: unknown) => {
        if (this.membership.signal.aborted) return;
        this.events.notice({
          level: 'error',
          message: 'an operation stopped on an error of ours',
          fields: { operation: id },
          error,
        });
      })
      .finally(() => {
        this.running.delete(id);
        const left = this.lengthOn(poolId) - 1;
        if (left > 0) this.runningByPool.set(poolId, left);
        else this.runningByPool.delete(poolId);
        this.metrics.journalLength(this.running.size);
        this.waiters.ended(id);
      });
    this.running.set(id, running);
    this.metrics.journalLength(this.running.size);
  }

  /** Waits until nothing runs, at most so long (milliseconds). */
  async drain(milliseconds: number): Promise<void> {
    const until = this.clock.monotonic() + milliseconds;
    while (this.running.size > 0 && this.clock.monotonic() < until) {
      const left = new AbortController();
      await Promise.race([
        Promise.all(this.running.values()),
        this.clock.sleep(Math.min(100, until - this.clock.monotonic()), left.signal),
      ]);
      left.abort();
    }
  }

  /** Waits until nothing runs. */
  async settled(): Promise<void> {
    await Promise.all(this.running.values());
  }

  private async carryOut(first: StoredDocument<Operation>): Promise<void> {
    let document: StoredDocument<Operation> | undefined = first;
    let tries = 0;
    let statusCommitted = this.clock.monotonic();
    while (document?.value.state === 'running') {
      let current: StoredDocument<Operation> = document;
      this.membership.signal.throwIfAborted();
      if (current.value.owner !== this.membership.inc) return;
      try {
        // A try that failed may have been overtaken by a commit of another part (a shared point in time): look first.
        const found = tries === 0 ? current : await this.read(current.key);
        if (found !== undefined && found.rev !== current.rev) {
          document = found;
          current = found;
          if (found.value.state !== 'running') continue;
        }
        const next = await this.takePhase(current.value);
        document = next.kind === 'reload' ? await this.read(current.key) : await this.commitNext(current, next);
        tries = 0;
      } catch (error) {
        if (this.membership.signal.aborted) return;
        const sentence = describeRetry(error);
        if (this.clock.monotonic() - statusCommitted > STATUS_INTERVAL_MILLISECONDS) {
          statusCommitted = this.clock.monotonic();
          this.events.notice({
            level: 'warn',
            message: 'a step is tried again',
            fields: { operation: current.value.id, kind: current.value.kind, phase: current.value.phase, tries },
            error,
          });
          document = await this.commitStatus(current, sentence);
        }
        await this.clock.sleep(this.pause(tries), this.membership.signal);
        tries += 1;
      }
    }
  }

  private async takePhase(operation: Operation): Promise<Next<unknown>> {
    const definition = this.definitions.get(operation.kind);
    const phase = definition?.phases[operation.phase];
    if (definition === undefined || phase === undefined) {
      throw new Error(`This version does not know the phase ${operation.phase} of ${operation.kind}.`);
    }
    const context = this.context(operation);
    try {
      return await phase(context);
    } catch (error) {
      if (error instanceof BackendError && error.failure === 'permanent') return definition.onRefused(context, error);
      throw error;
    }
  }

  private context(operation: Operation): PhaseContext<unknown> {
    const { membership, settings } = this;
    return {
      operation,
      plan: operation.plan,
      signal: membership.signal,
      step: async <T>(name: string, take: (context: StepContext) => Promise<T>): Promise<T> => {
        while (!membership.mayStep()) {
          membership.signal.throwIfAborted();
          await this.clock.sleep(settings.beatTimeoutMilliseconds / 50, membership.signal);
        }
        return take({
          operationId: operation.id,
          name,
          timeoutMilliseconds: settings.stepTimeoutMilliseconds,
          signal: membership.signal,
        });
      },
    };
  }

  /** Commits what comes next, rebuilding the writes on a conflict. Undefined: the operation is somebody else's now. */
  private async commitNext(
    document: StoredDocument<Operation>,
    next: Exclude<Next<unknown>, { kind: 'reload' }>,
  ): Promise<StoredDocument<Operation> | undefined> {
    for (;;) {
      const now = this.clock.now();
      const value = following(document.value, next, now);
      const writes: Write[] = [
        putOperation(value, document.rev),
        this.membership.liveCheck(),
        ...((await next.writes?.()) ?? []),
      ];
      const released = document.value.locks.filter((lock) => value.state !== 'running' || !value.locks.includes(lock));
      if (released.length > 0) writes.push(...(await releaseLocks(this.store, { ...document.value, locks: released })));
      let rev: number | undefined;
      try {
        const outcome = await this.store.commit(writes);
        if (outcome.ok) rev = outcome.rev;
        else await this.membership.refresh();
      } catch (error) {
        if (!(error instanceof StoreError && error.kind === 'unknown')) throw error;
      }
      if (rev === undefined) {
        // A conflict with another document, or a commit of unknown outcome: what the operation's own document says decides.
        this.membership.signal.throwIfAborted();
        const found = await this.read(document.key);
        if (found === undefined || found.rev !== document.rev) return found;
        await this.clock.sleep(Math.random() * 2, this.membership.signal);
        continue;
      }
      if (value.state !== 'running') {
        this.metrics.operationEnded(value.kind, value.state, Math.max(0, now - value.createTime));
      }
      return { key: document.key, rev, value };
    }
  }

  private async commitStatus(
    document: StoredDocument<Operation>,
    statusMessage: string,
  ): Promise<StoredDocument<Operation> | undefined> {
    const value = { ...document.value, statusMessage, updateTime: this.clock.now() };
    try {
      const outcome = await this.store.commit([putOperation(value, document.rev), this.membership.liveCheck()]);
      if (outcome.ok) return { key: document.key, rev: outcome.rev, value };
      await this.membership.refresh();
      return await this.read(document.key);
    } catch (error) {
      this.events.notice({
        level: 'warn',
        message: 'the status of an operation could not be committed',
        fields: { operation: document.value.id },
        error,
      });
      return document;
    }
  }

  private read(key: string): Promise<StoredDocument<Operation> | undefined> {
    return this.store.get<Operation>(key);
  }

  private pause(tries: number): number {
    const longest = Math.min(this.settings.retryLimitMilliseconds, FIRST_RETRY_MILLISECONDS * 2 ** Math.min(tries, 16));
    return longest * (0.5 + Math.random() / 2);
  }
}

/** The operation after a phase. */
function following(operation: Operation, next: Exclude<Next<unknown>, { kind: 'reload' }>, now: number): Operation {
  const base = { ...operation, statusMessage: '', updateTime: now };
  if (next.kind === 'phase') {
    const { phase, plan, progressPercent = 0 } = next;
    const kept = next.locks;
    const locks = kept === undefined ? operation.locks : operation.locks.filter((lock) => isAmong(kept, lock));
    return { ...base, phase, plan, progressPercent, locks };
  }
  const ended = { ...base, endTime: now, plan: null, phase: 'ended', progressPercent: 100 };
  if (next.kind === 'succeeded') return { ...ended, state: 'succeeded' };
  const { code, message, reason, metadata } = next.failure;
  return { ...ended, state: 'failed', statusMessage: message, failure: { code, message, reason, metadata } };
}

function isAmong(locks: readonly Lock[], { resourceId, mode }: Lock): boolean {
  return locks.some((lock) => lock.resourceId === resourceId && lock.mode === mode);
}

/** A sentence about why a step is tried again. Backend errors are meant for callers; anything else stays in the log. */
function describeRetry(error: unknown): string {
  if (error instanceof BackendError || error instanceof StoreError || error instanceof MoorageError)
    return error.message;
  return 'An error of the controller itself; its log says more.';
}

/** The failure of an ended operation, as its caller is told. */
export function operationFailure(operation: Operation): MoorageError | undefined {
  const failure = operation.failure;
  if (failure === undefined) return undefined;
  return new MoorageError(failure.code, failure.message, {
    reason: failure.reason,
    metadata: { ...failure.metadata, operation_id: operation.id },
  });
}
