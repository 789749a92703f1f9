import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { type CommitOutcome, StoreError } from '../../core/ports/store.js';
import type { PreparedWrite } from '../writes.js';
import { ConnectionLost } from './connection.js';
import { parseOutcome, writeArguments } from './encoding.js';
import { isDemotion, refusalCode, translateRedisError } from './errors.js';
import type { Primary } from './primary.js';
import { barrierScript, commitScript } from './scripts.js';
import type { Session } from './session.js';

/** Most commits that are sent at once, and about how many arguments: what a server does in a small part of a call's time. */
const MAXIMUM_BATCH = 256;
const MAXIMUM_ARGUMENTS = 20_000;
/** Pause before it is asked again whether a server is still the primary, while nobody can say so, milliseconds. */
const RETRY_MILLISECONDS = 50;

/** A commit, or a barrier: nothing to write, but what is there must be on the replicas. */
interface Item {
  /** Undefined: a barrier. */
  readonly writes: readonly string[] | undefined;
  /** By which a commit that is sent twice takes place once. */
  readonly id: string;
  /** When its caller has waited long enough, monotonic milliseconds. */
  readonly deadline: number;
  /** The server that may have it; undefined while none can. */
  sentTo: string | undefined;
  /** What the server said; it still has to reach the replicas. */
  outcome: CommitOutcome | undefined;
  readonly resolve: (outcome: CommitOutcome) => void;
  readonly reject: (error: StoreError) => void;
}

/*
 * Sends commits in batches, in the order in which they were asked for, and answers each one when the replicas have it.
 * While a batch waits for the replicas the next one gathers.
 *
 * A commit whose answer was lost is sent again with its id, as long as the same start of the same server is there: it then
 * takes place once, and the answer is definite. On another primary it is not: the controller reconciles first. Its outcome
 * is then unknown, as it is when the replicas do not have it in time.
 */
export class Commits {
  readonly #primary: Primary;
  readonly #prefix: string;
  readonly #timeout: number;
  readonly #barrierTimeout: number;
  readonly #acknowledged: (session: Session, commits: number) => void;
  #waiting: Item[] = [];
  #barrier: Promise<CommitOutcome> | undefined;
  #draining: Promise<void> | undefined;

  /** @param acknowledged is told how many commits of a session are known to be on the replicas */
  constructor(options: {
    primary: Primary;
    prefix: string;
    commitTimeoutMilliseconds: number;
    callTimeoutMilliseconds: number;
    acknowledged: (session: Session, commits: number) => void;
  }) {
    this.#primary = options.primary;
    this.#prefix = options.prefix;
    this.#timeout = options.commitTimeoutMilliseconds;
    this.#barrierTimeout = options.callTimeoutMilliseconds;
    this.#acknowledged = options.acknowledged;
  }

  commit(writes: readonly PreparedWrite[]): Promise<CommitOutcome> {
    return this.#ask(writeArguments(writes), this.#timeout);
  }

  /** Resolves when all that the server has now is on the replicas. @throws {StoreError} `unavailable` */
  async barrier(): Promise<void> {
    // Everybody who asks before it is sent is served by the same one.
    this.#barrier ??= this.#ask(undefined, this.#barrierTimeout);
    await this.#barrier;
  }

  /** Waits for what was asked for. */
  async close(): Promise<void> {
    await this.#draining;
  }

  #ask(writes: readonly string[] | undefined, timeout: number): Promise<CommitOutcome> {
    return new Promise((resolve, reject) => {
      const deadline = performance.now() + timeout;
      this.#waiting.push({
        ...{ writes, id: randomUUID(), deadline, sentTo: undefined, outcome: undefined },
        ...{ resolve, reject },
      });
      this.#draining ??= this.#drain();
    });
  }

  async #drain(): Promise<void> {
    // Gathers what is asked for in this turn.
    await Promise.resolve();
    while (this.#waiting.length > 0) {
      const batch = this.#waiting.splice(0, this.#batchSize());
      if (batch.some(({ writes }) => writes === undefined)) this.#barrier = undefined;
      try {
        await this.#carryOut(batch);
      } catch (error) {
        for (const item of batch) this.#fail(item, error);
      }
    }
    this.#draining = undefined;
  }

  #batchSize(): number {
    let total = 0;
    const end = this.#waiting.slice(0, MAXIMUM_BATCH).findIndex(({ writes }) => {
      total += writes?.length ?? 1;
      return total > MAXIMUM_ARGUMENTS;
    });
    return end < 0 ? MAXIMUM_BATCH : Math.max(1, end);
  }

  async #carryOut(batch: readonly Item[]): Promise<void> {
    let left = [...batch];
    for (;;) {
      left = this.#withoutLate(left);
      if (left.length === 0) return;
      const session = await this.#session(left);
      if (session === undefined) return;
      left = this.#ofThisServer(left, session);
      if (left.length === 0) continue;
      left = await this.#send(left, session);
    }
  }

  /** The session to send to; undefined when there is none in time, and all have been told. */
  async #session(items: readonly Item[]): Promise<Session | undefined> {
    const sent = items.filter(({ sentTo }) => sentTo !== undefined);
    try {
      // Only what may have taken place is worth waiting for.
      if (sent.length === 0) return await this.#primary.session();
      return await this.#primary.sessionBy(Math.max(...sent.map(({ deadline }) => deadline)));
    } catch (error) {
      for (const item of items) this.#fail(item, error);
      return undefined;
    }
  }

  #withoutLate(items: readonly Item[]): Item[] {
    const now = performance.now();
    return items.filter((item) => {
      if (item.deadline > now) return true;
      this.#fail(
        item,
        new StoreError('unavailable', `the Redis server ${this.#primary.address} did not answer in time`),
      );
      return false;
    });
  }

  #ofThisServer(items: readonly Item[], session: Session): Item[] {
    return items.filter((item) => {
      if (item.sentTo === undefined || item.sentTo === session.runId) return true;
      this.#fail(item, new StoreError('unavailable', `the primary is now the Redis server ${session.address}`));
      return false;
    });
  }

  /** Sends a batch once. @returns what has to be sent again */
  async #send(items: readonly Item[], session: Session): Promise<Item[]> {
    const answers = items.map((item) => this.#sendOne(item, session));
    const rule = this.#primary.rule;
    const replicated = rule.leastReplicas > 0 || session.replicas.length > 0;
    const longest = Math.min(...items.map(({ deadline }) => deadline)) - performance.now();
    const settled = replicated ? session.settle(rule, longest) : undefined;
    // Heard below; until then it must not count as unheard.
    settled?.catch(() => undefined);
    const again: Item[] = [];
    for (const [position, answer] of (await Promise.allSettled(answers)).entries()) {
      const item = items[position];
      if (item === undefined) continue;
      if (answer.status === 'fulfilled') this.#take(item, answer.value, session, again);
      else await this.#refused(item, answer.reason, session, again);
    }
    let executed = items.filter((item) => item.outcome?.ok === true && !again.includes(item));
    try {
      let state = await settled;
      while (executed.length > 0 && state?.done === false) {
        executed = this.#withoutLate(executed);
        const longer = Math.max(0, ...executed.map(({ deadline }) => deadline - performance.now()));
        if (executed.length > 0) {
          state = { offset: state.offset, done: await session.replicated(state.offset, rule, longer) };
        }
      }
      executed = await this.#safe(executed, session);
    } catch (error) {
      if (!(error instanceof ConnectionLost)) throw error;
      // The answer is known, but not whether the replicas have it: asked again, the script says the same.
      return [...again, ...executed];
    }
    const revs = executed.flatMap(({ outcome }) => (outcome?.ok === true ? [outcome.rev] : []));
    if (revs.length > 0) this.#acknowledged(session, Math.max(...revs));
    for (const { outcome, resolve } of executed) if (outcome !== undefined) resolve(outcome);
    return again;
  }

  /** Waits until what the replicas have can count; those that are late by then are told. @throws ConnectionLost */
  async #safe(items: readonly Item[], session: Session): Promise<Item[]> {
    let left = [...items];
    while (left.length > 0) {
      const still = await this.#primary.isStillPrimary(session);
      if (still === true) break;
      if (still === false) throw new ConnectionLost(`${session.address} was replaced`);
      await sleep(RETRY_MILLISECONDS);
      left = this.#withoutLate(left);
    }
    return left;
  }

  #sendOne(item: Item, session: Session): Promise<readonly string[]> {
    item.sentTo = session.runId;
    if (item.writes === undefined) return session.run(session.writes, barrierScript, [this.#prefix, session.epoch]);
    // Kept for longer than anybody asks again.
    const parameters = [this.#prefix, item.id, String(4 * this.#timeout), session.epoch, ...item.writes];
    return session.run(session.writes, commitScript, parameters);
  }

  #take(item: Item, answer: readonly string[], session: Session, again: Item[]): void {
    const outcome = parseOutcome(answer);
    if (outcome === undefined) {
      // Somebody noted another primary's time: this one's is over, or begins anew. Nothing was written.
      item.sentTo = undefined;
      this.#primary.drop(session, new Error('another controller has seen another primary'));
      again.push(item);
    } else if (outcome.ok) item.outcome = outcome;
    else item.resolve(outcome);
  }

  async #refused(item: Item, error: unknown, session: Session, again: Item[]): Promise<void> {
    if (error instanceof ConnectionLost) again.push(item);
    else if (refusalCode(error) === 'NOSCRIPT') {
      await session.reload().catch(() => undefined);
      again.push(item);
    } else {
      item.sentTo = undefined;
      if (isDemotion(error)) this.#primary.drop(session, error instanceof Error ? error : new Error(String(error)));
      this.#fail(item, error);
    }
  }

  /** Tells a caller that its commit failed; whatever may have taken place is unknown. */
  #fail(item: Item, error: unknown): void {
    const failure = translateRedisError(error, this.#primary.address);
    if (item.sentTo === undefined || item.writes === undefined) {
      item.reject(failure);
      return;
    }
    const what = item.outcome === undefined ? 'took a commit' : 'has a commit on enough replicas';
    item.reject(
      new StoreError(
        'unknown',
        `whether the store on ${this.#primary.address} ${what} is not known: ${failure.message}`,
        {
          cause: failure,
        },
      ),
    );
  }
}
