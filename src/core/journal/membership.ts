import { randomUUID } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import type { AgentRecord, ControllerRecord } from '../model/operation.js';
import type { Clock } from '../ports/clock.js';
import type { CoreEvents } from '../ports/metrics.js';
import type { ProcessIdentity } from '../ports/process.js';
import type { Store, Write } from '../ports/store.js';
import { StoreError } from '../ports/store.js';
import type { CoreSettings } from '../settings.js';
import { keys, putBeat, putController } from './documents.js';
import type { Layout } from './layout.js';

/**
 * This controller's place among the controllers: its record, its beat, and the two questions that every commit and every
 * step asks. The journal's essay (journal.ts) says why they are enough.
 */
export class Membership {
  readonly inc = randomUUID();
  private readonly store: Store;
  private readonly clock: Clock;
  private readonly events: CoreEvents;
  private readonly settings: CoreSettings;
  private readonly layout: Layout;
  private readonly onLost: () => void;
  private record: ControllerRecord;
  private recordRev = 0;
  private beat = 0;
  private lastBeatStarted = Number.NEGATIVE_INFINITY;
  private readonly stopping = new AbortController();
  private lost = false;
  private beating: Promise<void> = Promise.resolve();
  private changes: Promise<void> = Promise.resolve();

  constructor(options: {
    store: Store;
    clock: Clock;
    events: CoreEvents;
    settings: CoreSettings;
    layout: Layout;
    process?: ProcessIdentity | undefined;
    /** Called once when the beat stood still for T: everything that this controller had begun belongs to others now. */
    onLost: () => void;
  }) {
    this.store = options.store;
    this.clock = options.clock;
    this.events = options.events;
    this.settings = options.settings;
    this.layout = options.layout;
    this.onLost = options.onLost;
    // Every operation that waits for something listens to it.
    setMaxListeners(0, this.stopping.signal);
    this.record = {
      inc: this.inc,
      state: 'live',
      agents: [],
      layout: options.layout.understood,
      ...(options.process === undefined ? {} : { process: options.process.own }),
      description: options.settings.description,
    };
  }

  /** Aborts when this controller is lost or stops: whoever waits for a step or sleeps listens to it. */
  get signal(): AbortSignal {
    return this.stopping.signal;
  }

  /** The agents of this controller, with the dead ones whose traces are not cleaned up yet. */
  get agents(): readonly AgentRecord[] {
    return this.record.agents;
  }

  /**
   * Registers this start and begins to beat.
   * @throws StoreError `newer-version` when this version does not understand what is in use in the store
   */
  async start(): Promise<void> {
    for (;;) {
      const started = this.clock.monotonic();
      const outcome = await this.store.commit([
        putController(this.record, 'absent'),
        putBeat(this.inc, this.beat, 'absent'),
        await this.layout.enter(),
      ]);
      if (outcome.ok) {
        this.recordRev = outcome.rev;
        this.lastBeatStarted = started;
        this.beating = this.keepBeating();
        return;
      }
      if (outcome.conflicts.some(({ key }) => key !== keys.layout)) {
        throw new StoreError('corrupt', 'A controller of this id is in the store already.');
      }
      // Another controller started too, or raised the layout.
    }
  }

  /** Ends the beat. The record stays: the next start, or another controller, takes over what is still running. */
  async stop(): Promise<void> {
    this.stopping.abort(new Error('The controller stops.'));
    await this.beating;
  }

  /**
   * Says that this controller has left, so that another takes over without a wait. After `stop`, and only once its agents have
   * ended. Does nothing when it had been taken over already.
   */
  async leave(): Promise<void> {
    if (this.recordRev === 0) return;
    await this.store.commit([putController({ ...this.record, state: 'left' }, this.recordRev)]);
  }

  /** Whether a step may begin: the last beat that succeeded started less than T/2 ago. */
  mayStep(): boolean {
    return !this.lost && this.clock.monotonic() - this.lastBeatStarted < this.settings.beatTimeoutMilliseconds / 2;
  }

  /**
   * The write that every commit carries: it passes only while this controller is live.
   * @throws StoreError `unavailable` before this start is registered: one that begins anew is asked already
   */
  liveCheck(): Write {
    if (this.recordRev === 0) throw new StoreError('unavailable', 'This controller is not registered yet.');
    return { kind: 'check', key: keys.controller(this.inc), expect: this.recordRev };
  }

  /**
   * Call when a commit failed on `liveCheck`. Reads the record again.
   * @returns whether this controller is still live, so that the commit can be tried again
   */
  async refresh(): Promise<boolean> {
    const document = await this.store.get<ControllerRecord>(keys.controller(this.inc));
    if (document === undefined || document.value.state !== 'live') {
      this.lose('Another controller has taken over from this one.');
      return false;
    }
    this.record = document.value;
    this.recordRev = document.rev;
    return true;
  }

  /** Changes the agents in the record, one change after the other; `also` are writes of the same commit. */
  changeAgents(
    change: (agents: readonly AgentRecord[]) => readonly AgentRecord[],
    also: readonly Write[] = [],
  ): Promise<void> {
    const next = this.changes.then(async () => {
      for (;;) {
        this.signal.throwIfAborted();
        const record: ControllerRecord = { ...this.record, agents: change(this.record.agents) };
        const outcome = await this.store.commit([putController(record, this.recordRev), ...also]);
        if (outcome.ok) {
          this.record = record;
          this.recordRev = outcome.rev;
          return;
        }
        if (outcome.conflicts.some((conflict) => conflict.key !== keys.controller(this.inc))) {
          throw new StoreError('unknown', 'The record of another controller changed while it was being taken over.');
        }
        if (!(await this.refresh())) throw new Error('This controller is no longer live.');
      }
    });
    this.changes = next.catch(() => undefined);
    return next;
  }

  private async keepBeating(): Promise<void> {
    while (!this.signal.aborted) {
      const left = this.lastBeatStarted + this.settings.beatTimeoutMilliseconds - this.clock.monotonic();
      await this.clock.sleep(Math.max(0, Math.min(this.settings.beatTimeoutMilliseconds / 5, left)), this.signal);
      if (this.signal.aborted) return;
      const started = this.clock.monotonic();
      if (started - this.lastBeatStarted >= this.settings.beatTimeoutMilliseconds) {
        this.lose('The beat stood still for too long.');
        return;
      }
      try {
        // Another number each time, also after one of unknown outcome: the others see the beat move.
        this.beat += 1;
        const outcome = await this.inTime(
          this.store.commit([this.liveCheck(), putBeat(this.inc, this.beat, 'any')]),
          this.lastBeatStarted + this.settings.beatTimeoutMilliseconds,
        );
        if (outcome === 'late') continue;
        if (outcome.ok) this.lastBeatStarted = started;
        else if (!(await this.refresh())) return;
      } catch (error) {
        this.events.notice({
          level: 'warn',
          message: 'a beat did not reach the store',
          fields: { inc: this.inc },
          error,
        });
      }
    }
  }

  /** What a commit came to, or "late" when that is not known at a time: a store that hangs must not hide that T has passed. */
  private async inTime<T>(commit: Promise<T>, until: number): Promise<T | 'late'> {
    const known = new AbortController();
    const late = this.clock
      .sleep(Math.max(0, until - this.clock.monotonic()), known.signal)
      .then(() => 'late' as const);
    try {
      return await Promise.race([commit, late]);
    } finally {
      known.abort();
      // Of one that was too late nobody wants to hear any more.
      commit.catch(() => undefined);
    }
  }

  /** Ends this controller's part: it begins no step more, and whoever made it is told to begin anew. Again: does nothing. */
  lose(why: string): void {
    if (this.lost || this.signal.aborted) return;
    this.lost = true;
    this.events.notice({ level: 'error', message: `this controller is lost: ${why}`, fields: { inc: this.inc } });
    this.stopping.abort(new Error(why));
    this.onLost();
  }
}
