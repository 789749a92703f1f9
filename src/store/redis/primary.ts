import { setTimeout as sleep } from 'node:timers/promises';
import { type PrimaryChange, StoreError } from '../../core/ports/store.js';
import { readCredentials } from './access.js';
import { Connection } from './connection.js';
import { translateRedisError } from './errors.js';
import type { Acknowledged } from './history.js';
import { type ReplicationRule, replicasInSync } from './information.js';
import { inspectReplica } from './inspect.js';
import type { RedisStoreOptions } from './options.js';
import { Sentinels, type SentinelView } from './sentinels.js';
import { Session } from './session.js';
import { Successors } from './successors.js';

const FIRST_PAUSE_MILLISECONDS = 50;
const LONGEST_PAUSE_MILLISECONDS = 2_000;
/** How often the primary, its replicas and the Sentinels are looked at, milliseconds. */
const WATCH_INTERVAL_MILLISECONDS = 1_000;

/**
 * Keeps a session with the primary, whoever it is. While there is none, calls fail at once with the reason, except right
 * after a loss, when the first try to come back decides.
 */
export class Primary {
  readonly rule: ReplicationRule;
  readonly #options: RedisStoreOptions;
  readonly #sentinels: Sentinels | undefined;
  readonly #known: () => Acknowledged | undefined;
  readonly #changed: (change: PrimaryChange) => void;
  readonly #end = new AbortController();
  #neverPromoted: ReadonlySet<string> = new Set();
  /** Every replica that the Sentinels know of. */
  #replicas: ReadonlySet<string> = new Set();
  readonly #successors: Successors;
  #session: Session | undefined;
  /** Why there is no session; undefined while the first try to come back runs. */
  #failure: StoreError | undefined;
  /** Ends with the try that runs now. */
  #trying: Promise<void> = Promise.resolve();
  /** What runs in the background. */
  readonly #running = new Set<Promise<void>>();
  #noticed = '';

  /**
   * @param known what was acknowledged to this controller so far.
   * @param changed is told of another primary before anything is sent to it.
   */
  constructor(
    options: RedisStoreOptions,
    known: () => Acknowledged | undefined,
    changed: (change: PrimaryChange) => void,
  ) {
    this.#options = options;
    this.#known = known;
    this.#changed = changed;
    const { place, tls, callTimeoutMilliseconds, leastReplicas, replicaTimeoutMilliseconds } = options;
    this.#successors = new Successors(options);
    this.#sentinels = place.kind === 'sentinels' ? new Sentinels(place, tls, callTimeoutMilliseconds) : undefined;
    this.rule = {
      leastReplicas,
      replicaTimeoutMilliseconds,
      promotable: (address) => !this.#neverPromoted.has(address),
    };
  }

  /** Begins, and keeps going until {@link close}. @throws {StoreError} when the first session does not come about. */
  async start(): Promise<Session> {
    const session = await this.#open();
    try {
      await this.#inspectReplicas(session);
    } catch (error) {
      session.close();
      throw error;
    }
    this.#begin(session, undefined);
    this.#inBackground(this.#watch());
    return session;
  }

  /** Where the primary is or was. */
  get address(): string {
    const { place } = this.#options;
    return this.#session?.address ?? (place.kind === 'server' ? place.address : `of "${place.name}"`);
  }

  /** @throws {StoreError} why there is no session. */
  async session(): Promise<Session> {
    if (this.#usable === undefined && this.#failure === undefined) {
      const late = new AbortController();
      const timeout = this.#options.callTimeoutMilliseconds;
      const timer = sleep(timeout, undefined, { signal: late.signal }).catch(() => undefined);
      await Promise.race([this.#trying, timer]);
      late.abort();
    }
    const session = this.#usable;
    if (session !== undefined) return session;
    throw this.#failure ?? new StoreError('unavailable', `the Redis server ${this.address} was lost a moment ago`);
  }

  /** Waits for a session up to a time (monotonic milliseconds). @throws {StoreError} when there was none by then */
  async sessionBy(time: number): Promise<Session> {
    for (;;) {
      try {
        return await this.session();
      } catch (error) {
        const left = time - performance.now();
        if (left <= 0 || this.#end.signal.aborted) throw error;
        await sleep(Math.min(20, left));
      }
    }
  }

  /** Ends a session whose server turned out to be none that can be used. */
  drop(session: Session, reason: Error): void {
    if (this.#session === session) this.#lose(session, reason);
  }

  /**
   * Says whether what the replicas that follow have now is safe: none of the others has been promoted already. A primary
   * that was frozen and goes on does not know that it was replaced, and may have replicas that do not know it either: what
   * those have goes when they follow the new one.
   * @returns undefined when it is not known; a session whose server was replaced is dropped
   */
  async isStillPrimary(session: Session): Promise<boolean | undefined> {
    if (this.#sentinels === undefined) return true;
    const following = new Set(replicasInSync(session.replicas, this.rule).map(({ address }) => address));
    const isApart = (address: string): boolean =>
      address !== session.address && !following.has(address) && this.rule.promotable(address);
    if (![...this.#replicas].some(isApart)) return true;
    let view: SentinelView;
    try {
      view = await this.#sentinels.ask();
    } catch {
      return undefined;
    }
    this.#heed(view);
    const replaced = (by: string): false => {
      this.drop(session, new Error(`${by} has been made the primary`));
      return false;
    };
    if (view.primary !== session.address) return replaced(view.primary);
    // The Sentinels promote none that they take for dead; one that they do not must say so itself: they tell late.
    const apart = [...view.replicas].filter(([address, state]) => state === 'seen' && isApart(address));
    const found = await Promise.all(apart.map(([address]) => this.#successors.isOne(address, session.epoch)));
    const position = found.indexOf(true);
    if (position >= 0) return replaced(apart[position]?.[0] ?? '');
    return found.includes(undefined) ? undefined : true;
  }

  async close(): Promise<void> {
    this.#end.abort();
    this.#successors.close();
    this.#failure = new StoreError('unavailable', 'the store is closed');
    this.#session?.close();
    this.#sentinels?.close();
    await Promise.all(this.#running);
  }

  #heed(view: SentinelView): void {
    this.#neverPromoted = view.neverPromoted;
    this.#replicas = new Set(view.replicas.keys());
  }

  get #usable(): Session | undefined {
    return this.#session?.lost === false ? this.#session : undefined;
  }

  async #open(): Promise<Session> {
    const { place } = this.#options;
    let address = place.kind === 'server' ? place.address : '';
    try {
      if (this.#sentinels !== undefined) {
        const view = await this.#sentinels.ask();
        address = view.primary;
        this.#heed(view);
      }
      return await Session.open(address, this.#known(), this.#options);
    } catch (error) {
      throw translateRedisError(error, address);
    }
  }

  /** @throws {StoreError} when a replica that may become the primary would be refused then; one that is away is not asked */
  async #inspectReplicas(session: Session): Promise<void> {
    const { access, tls, persistence, callTimeoutMilliseconds: timeout } = this.#options;
    const credentials = readCredentials(access, tls);
    for (const { address } of replicasInSync(session.replicas, this.rule)) {
      let connection: Connection | undefined;
      try {
        connection = await Connection.open(address, credentials, timeout);
        await inspectReplica(connection, persistence, timeout);
      } catch (error) {
        if (error instanceof StoreError) throw error;
        this.#notice('warn', 'a replica of the Redis server cannot be looked at', { address }, error);
      } finally {
        connection?.close();
      }
    }
  }

  #begin(session: Session, before: Session | undefined): void {
    if (before !== undefined && (before.runId !== session.runId || before.epoch !== session.epoch)) {
      this.#changed({
        from: before.address,
        to: session.address,
        kind: before.address === session.address ? 'restarted' : 'replaced',
        commits: session.commits,
      });
    }
    this.#session = session;
    this.#failure = undefined;
    this.#noticed = '';
    session.onLost((error) => this.#lose(session, error));
    // It may have broken before somebody listened.
    if (session.lost) this.#lose(session, new Error('the connection broke'));
  }

  #lose(session: Session, reason: Error): void {
    if (this.#session !== session || this.#end.signal.aborted) return;
    session.close();
    this.#failure = undefined;
    this.#session = undefined;
    this.#notice('warn', 'the Redis server is lost', { address: session.address }, reason);
    this.#trying = new Promise((resolve) => this.#inBackground(this.#comeBack(session, resolve)));
  }

  /** Tries until there is a session. @param tried is called after the first try */
  async #comeBack(before: Session, tried: () => void): Promise<void> {
    for (let tries = 0; !this.#end.signal.aborted; tries += 1) {
      try {
        const session = await this.#open();
        if (this.#end.signal.aborted) session.close();
        else {
          this.#notice('info', 'the Redis server is back', { address: session.address }, undefined);
          this.#begin(session, before);
        }
        return;
      } catch (error) {
        if (this.#end.signal.aborted) return;
        const failure = translateRedisError(error, this.address);
        this.#failure = failure;
        const level = failure.kind === 'unavailable' ? 'warn' : 'error';
        this.#notice(level, 'the Redis server cannot be used', { address: this.address, kind: failure.kind }, failure);
      } finally {
        tried();
      }
      await this.#pause(pauseAfter(tries));
    }
  }

  #pause(milliseconds: number): Promise<void> {
    return sleep(milliseconds, undefined, { signal: this.#end.signal, ref: false }).catch(() => undefined);
  }

  #inBackground(running: Promise<void>): void {
    this.#running.add(running);
    // Neither of those that run here ends with an error.
    void running.finally(() => this.#running.delete(running));
  }

  /** Notices what breaks no connection: a frozen server, a primary that the Sentinels replaced, replicas that come and go. */
  async #watch(): Promise<void> {
    while (!this.#end.signal.aborted) {
      await this.#pause(WATCH_INTERVAL_MILLISECONDS);
      const session = this.#usable;
      if (session === undefined) continue;
      await Promise.all([this.#lookAtServer(session), this.#askSentinels(session)]);
    }
  }

  async #lookAtServer(session: Session): Promise<void> {
    try {
      if (!(await session.look())) this.drop(session, new Error(`${session.address} is a replica now`));
    } catch (error) {
      // A broken connection has said so itself.
      if (!session.lost) this.drop(session, error instanceof Error ? error : new Error(String(error)));
    }
  }

  async #askSentinels(session: Session): Promise<void> {
    if (this.#sentinels === undefined) return;
    try {
      const view = await this.#sentinels.ask();
      this.#heed(view);
      if (view.primary !== session.address) {
        this.drop(session, new Error(`the Sentinels have made ${view.primary} the primary`));
      }
    } catch (error) {
      // Without Sentinels nobody replaces the primary; it serves on.
      if (this.#end.signal.aborted) return;
      this.#notice('warn', 'the Sentinels of the Redis server cannot be asked', {}, error);
    }
  }

  /** Says how many replicas a commit would be on now. */
  inSync(session: Session): number {
    return replicasInSync(session.replicas, this.rule).length;
  }

  /** Says a thing once, however often it is found again. */
  #notice(level: 'info' | 'warn' | 'error', message: string, fields: Record<string, unknown>, error: unknown): void {
    const text = `${message}: ${error instanceof Error ? error.message : ''}`;
    if (text === this.#noticed) return;
    this.#noticed = text;
    this.#options.events?.notice({ level, message, fields, ...(error !== undefined && { error }) });
  }
}

function pauseAfter(tries: number): number {
  const longest = Math.min(LONGEST_PAUSE_MILLISECONDS, FIRST_PAUSE_MILLISECONDS * 2 ** Math.min(tries, 10));
  return longest * (0.5 + Math.random() / 2);
}
