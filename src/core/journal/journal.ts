import { createHash } from 'node:crypto';
import { MoorageError } from '../errors.js';
import type { Operation, OperationKind, TokenRecord } from '../model/operation.js';
import type { Clock } from '../ports/clock.js';
import type { CoreEvents, CoreMetrics } from '../ports/metrics.js';
import { type Store, type StoredDocument, StoreError, type Write } from '../ports/store.js';
import type { CoreSettings } from '../settings.js';
import type { Intent, NewOperation, OperationDefinition } from './definition.js';
import { KEPT_MILLISECONDS, keys, putOperation, putToken } from './documents.js';
import type { Layout } from './layout.js';
import { takeLocks } from './locks.js';
import type { Membership } from './membership.js';
import { OperationRunner } from './runner.js';
import { Waiters } from './waiters.js';

/*
 * THE JOURNAL
 *
 * A volume is a document in the store and an image on a backend; no transaction spans both, and anything may die between
 * any two instructions. The journal makes one change out of both all the same. What it keeps true:
 *
 * 1. Nothing happens on a backend that is not recorded. `begin` commits the resource in its transitional state, the
 *    operation with its plan, its locks and the caller's token at once. Only then is a step taken.
 *
 * 2. A step uses only values of the plan. What a step observes and a later step needs (the id of an image, the address of a
 *    connection) is committed to the plan before that later step. So whoever resumes the operation, at any phase, does
 *    exactly what its dead owner did or would have done.
 *
 * 3. Every step may be done again. Three things come of one: ok; refused for good, which leads to the way back that the
 *    operation's definition names; unknown (a timeout, a dead agent), which leads to the same step again, for as long as it
 *    takes, and never to a compensation: what may have happened must not be undone by guess.
 *
 * 4. An operation has one owner. Every commit checks that its controller's record is live and that the operation has the
 *    revision that was read. A step begins only if the last beat that succeeded started less than T/2 ago; a controller that
 *    did not beat for T kills its agents; another one takes over only after 2T, and after it has cut those agents off. So no
 *    two owners take steps at once, and no commit of a former owner passes.
 *
 * 5. Late steps are harmless (a request that was under way when its sender died): names on a backend are never used twice,
 *    resize never shrinks, a key that is made late is known to nobody, and only `purging` destroys.
 *
 * 6. `finish` commits the final resource, the release of the locks, and the operation's end at once. What the caller is told
 *    after it is true and stays true.
 *
 * 7. A client token is recorded in `begin`. A second call with the same token and parameters joins the operation, or gets
 *    what it made; with other parameters it is refused. A token lives as long as what it made, and a day.
 *
 * Writes are rebuilt from the store when a commit meets a conflict, so that operations that share a lock (two exports of a
 * volume, say) both get through.
 */

/** A mutating call to record. */
export interface Call {
  readonly method: string;
  readonly principal: string;
  readonly clientToken: string;
  /** Everything that must be the same for the same token. */
  readonly parameters: unknown;
  /** Whether it is let through while the store is held (services/admin/hold.ts). */
  readonly passesHold?: boolean;
  /** Works out what the call comes to; called again when the commit met a conflict. */
  readonly intend: () => Promise<Intent>;
}

/** What a call was recorded as. */
export interface Recorded {
  readonly resourceId: string;
  /** Empty when no operation is needed. */
  readonly operationId: string;
}

/** What one commit records of a call. */
interface Begin {
  readonly writes: readonly Write[];
  readonly token: TokenRecord;
  /** Undefined when the call is done with the commit. */
  readonly operation: Operation | undefined;
}

/** Conflicts in a row after which a call is told to come again. */
const CONFLICT_LIMIT = 100;

/** Records, carries out and resumes operations. */
export class Journal {
  readonly waiters: Waiters;
  private readonly store: Store;
  private readonly clock: Clock;
  private readonly settings: CoreSettings;
  private readonly membership: Membership;
  private readonly layout: Layout;
  private readonly hold: { check(): Promise<void> } | undefined;
  private readonly runner: OperationRunner;

  constructor(options: {
    store: Store;
    clock: Clock;
    events: CoreEvents;
    metrics: CoreMetrics;
    settings: CoreSettings;
    membership: Membership;
    layout: Layout;
    definitions: readonly OperationDefinition<never>[];
    /** Throws while nothing may be changed. */
    hold?: { check(): Promise<void> };
  }) {
    this.store = options.store;
    this.hold = options.hold;
    this.clock = options.clock;
    this.settings = options.settings;
    this.membership = options.membership;
    this.layout = options.layout;
    this.waiters = new Waiters(options.store, options.clock);
    this.runner = new OperationRunner({ ...options, waiters: this.waiters });
  }

  /**
   * Records a call in one commit and starts its operation.
   * @throws MoorageError ALREADY_EXISTS when the token was used with other parameters; ABORTED when another operation holds
   *   a lock; RESOURCE_EXHAUSTED when too many operations run; UNAVAILABLE when the store cannot be written (nothing was
   *   recorded); what `intend` throws
   */
  async record(call: Call): Promise<Recorded> {
    if (call.passesHold !== true) await this.hold?.check();
    const tokenKey = keys.token(call.principal, call.method, call.clientToken);
    const parametersHash = hashParameters(call.parameters);
    for (let conflicts = 0; conflicts < CONFLICT_LIMIT; conflicts += 1) {
      const known = await this.store.get<TokenRecord>(tokenKey);
      if (known !== undefined) return await this.joinToken(call, known.value, parametersHash);
      let begin: Begin;
      try {
        begin = await this.prepare(call, tokenKey, parametersHash);
      } catch (error) {
        // What is in the way may be this very call: made at another controller too, and recorded since the token was read.
        const since = await this.store.get<TokenRecord>(tokenKey);
        if (since !== undefined) return await this.joinToken(call, since.value, parametersHash);
        throw error;
      }
      const { writes, token, operation } = begin;
      const rev = await this.commitOrConflict(writes);
      if (rev === undefined) continue;
      if (operation !== undefined)
        this.runner.runUnlessRan({ key: keys.operation(operation.id), rev, value: operation });
      return { resourceId: token.resourceId, operationId: token.operationId };
    }
    throw new MoorageError('ABORTED', 'Too many others are changing the same thing. Try again.', {
      reason: 'CONTENTION',
      retryAfterMilliseconds: 100,
    });
  }

  /**
   * Asks an operation to leave out what it can do without. Whoever runs it, another controller perhaps, sees it at its next
   * commit or look.
   * @returns "refused" when there is nothing of it that can be left out now; undefined when there is no such operation
   * @throws StoreError
   */
  async cancel(operationId: string): Promise<'requested' | 'ended' | 'refused' | undefined> {
    for (;;) {
      const document = await this.store.get<Operation>(keys.operation(operationId));
      if (document === undefined) return undefined;
      const operation = document.value;
      if (operation.state !== 'running') return 'ended';
      if (operation.cancelRequested === true) return 'requested';
      if (!this.runner.cancellable(operation)) return 'refused';
      const cancelled: Operation = { ...operation, cancelRequested: true, updateTime: this.clock.now() };
      const writes = [putOperation(cancelled, document.rev), this.membership.liveCheck()];
      if ((await this.commitOrConflict(writes)) !== undefined) return 'requested';
    }
  }

  /** Takes up every operation that is recorded as this controller's and not yet run by it. */
  resume(operations: readonly { readonly key: string; readonly rev: number; readonly value: Operation }[]): void {
    for (const operation of operations) this.runner.run(operation);
  }

  /**
   * Takes up what is recorded as this controller's and was never run: the outcome of its begin was unknown, and its caller
   * did not ask again. Only a store that others serve leaves such behind.
   */
  resumeUnheard(operations: readonly StoredDocument<Operation>[]): void {
    for (const operation of operations) this.runner.runUnlessRan(operation);
  }

  /** Operations that this controller runs now. */
  get length(): number {
    return this.runner.length;
  }

  /** Waits for what runs, at most so long (milliseconds). What has not ended then stays recorded and is taken up later. */
  async drain(milliseconds: number): Promise<void> {
    await this.runner.drain(milliseconds);
  }

  /** Waits until nothing runs any more after the membership's signal was aborted. */
  async settled(): Promise<void> {
    await this.runner.settled();
  }

  /** Works out what a call comes to, and the writes that record it. @throws what `intend` throws; MoorageError */
  private async prepare(call: Call, tokenKey: string, parametersHash: string): Promise<Begin> {
    const intent = await call.intend();
    if (intent.intent === 'operation') {
      this.requireLayout(intent.kind);
      this.requireRoom(intent.poolId);
    }
    const now = this.clock.now();
    const token: TokenRecord = {
      parametersHash,
      resourceId: intent.resourceId,
      operationId: intent.operationId ?? '',
      createTime: now,
    };
    // Also where nothing is to be done: asked again, when what was found has changed since, it must not do it after all.
    const tokenExpireTime =
      intent.intent === 'nothing'
        ? now + KEPT_MILLISECONDS
        : intent.intent === 'immediate'
          ? intent.tokenExpireTime
          : undefined;
    const writes: Write[] = [
      ...(intent.intent === 'nothing' ? [] : intent.writes),
      putToken(tokenKey, token, 'absent', tokenExpireTime),
      this.membership.liveCheck(),
    ];
    let operation: Operation | undefined;
    if (intent.intent === 'operation') {
      operation = this.newOperation(intent, call.principal, now);
      writes.push(putOperation(operation, 'absent'), ...(await takeLocks(this.store, this.clock, operation)));
    }
    return { writes, token, operation };
  }

  private newOperation(intent: NewOperation, principal: string, now: number): Operation {
    return {
      id: intent.operationId,
      kind: intent.kind,
      resourceId: intent.resourceId,
      poolId: intent.poolId,
      owner: this.membership.inc,
      state: 'running',
      phase: intent.firstPhase,
      plan: intent.plan,
      locks: intent.locks,
      progressPercent: 0,
      statusMessage: '',
      principal,
      createTime: now,
      updateTime: now,
    };
  }

  private async joinToken(call: Call, token: TokenRecord, parametersHash: string): Promise<Recorded> {
    if (token.parametersHash === parametersHash) {
      await this.adoptUnrun(token.operationId);
      return { resourceId: token.resourceId, operationId: token.operationId };
    }
    throw new MoorageError(
      'ALREADY_EXISTS',
      `client_token was used before for ${call.method} with other parameters (it made ${token.resourceId}). Use a new one.`,
      { reason: 'TOKEN_REUSED', metadata: { resource_id: token.resourceId } },
    );
  }

  /** A begin whose commit had an unknown outcome, and took place, has recorded an operation that nobody runs yet. */
  private async adoptUnrun(operationId: string): Promise<void> {
    if (operationId === '' || this.runner.runs(operationId)) return;
    const document = await this.store.get<Operation>(keys.operation(operationId));
    if (document?.value.state === 'running' && document.value.owner === this.membership.inc) this.runner.run(document);
  }

  /** What a controller of an earlier version could not take over is not begun while one lives. */
  private requireLayout(kind: OperationKind): void {
    if (this.layout.allows(kind)) return;
    throw new MoorageError(
      'FAILED_PRECONDITION',
      `A controller of an earlier version still runs, which does not know ${kind}. Upgrade it first.`,
      { reason: 'UPGRADE_UNDER_WAY', metadata: { operation_kind: kind } },
    );
  }

  /** Each pool has its own room: one that is stuck fills up, and takes nothing from the others. */
  private requireRoom(poolId: string): void {
    if (this.runner.lengthOn(poolId) < this.settings.maximumRunningOperations) return;
    throw new MoorageError(
      'RESOURCE_EXHAUSTED',
      `Too many operations run at once on the pool ${poolId}. Try again a little later.`,
      { reason: 'TOO_MANY_OPERATIONS', metadata: { pool_id: poolId }, retryAfterMilliseconds: 1_000 },
    );
  }

  /** The revision of the commit; undefined after a conflict. */
  private async commitOrConflict(writes: readonly Write[]): Promise<number | undefined> {
    try {
      const outcome = await this.store.commit(writes);
      if (outcome.ok) return outcome.rev;
      const live = await this.membership.refresh();
      if (!live) throw new StoreError('unavailable', 'This controller has been replaced by another one.');
      await this.clock.sleep(Math.random() * 2);
      return undefined;
    } catch (error) {
      // A commit of unknown outcome is looked up by its token in the next round.
      if (error instanceof StoreError && error.kind === 'unknown') return undefined;
      throw error;
    }
  }
}

/** SHA-256 over the parameters in a form that does not depend on the order of their fields. */
function hashParameters(parameters: unknown): string {
  return createHash('sha256').update(canonical(parameters)).digest('hex');
}

function canonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`;
  if (value !== null && typeof value === 'object') {
    const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
    return `{${entries.map(([name, item]) => `${JSON.stringify(name)}:${canonical(item)}`).join(',')}}`;
  }
  return JSON.stringify(value) ?? 'null';
}
