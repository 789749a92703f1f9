import type { ControllerRecord, Operation } from '../model/operation.js';
import { BackendError } from '../ports/backend.js';
import type { Clock } from '../ports/clock.js';
import type { CoreEvents } from '../ports/metrics.js';
import { type Store, type StoredDocument, StoreError, type Write } from '../ports/store.js';
import type { CoreSettings } from '../settings.js';
import { type Agents, listAll } from './agents.js';
import type { BeatWatch } from './beat-watch.js';
import { indexes, keys, putController, putOperation } from './documents.js';
import type { Journal } from './journal.js';
import type { Layout } from './layout.js';
import type { Membership } from './membership.js';

/**
 * Take-over from a controller that is dead: its record goes to `fencing`, with the name of who does it, and its agents come
 * into this controller's record in one commit; once they are cut off it is `fenced`; then each of its operations is adopted
 * and resumed at its phase; then its record goes.
 *
 * If this controller dies meanwhile, another takes over from it, and so gets the agents that it had inherited; and then what
 * it was taking over. The order matters: an operation may be adopted only by who knows that all agents which ever worked on
 * it are cut off, and they are in the record of the one controller that `takenOverBy` leads to.
 */
export class TakeOver {
  private readonly store: Store;
  private readonly clock: Clock;
  private readonly events: CoreEvents;
  private readonly settings: CoreSettings;
  private readonly membership: Membership;
  private readonly agents: Agents;
  private readonly journal: Journal;
  private readonly watch: BeatWatch;
  private readonly layout: Layout;
  private readonly mayResume: () => boolean;

  constructor(options: {
    store: Store;
    clock: Clock;
    events: CoreEvents;
    settings: CoreSettings;
    membership: Membership;
    agents: Agents;
    journal: Journal;
    watch: BeatWatch;
    layout: Layout;
    /** Whether operations may be resumed: a store whose primary changed is compared with the storage first. */
    mayResume: () => boolean;
  }) {
    this.store = options.store;
    this.clock = options.clock;
    this.events = options.events;
    this.settings = options.settings;
    this.membership = options.membership;
    this.agents = options.agents;
    this.journal = options.journal;
    this.watch = options.watch;
    this.layout = options.layout;
    this.mayResume = options.mayResume;
  }

  /**
   * Takes the agents of every controller that is known to be dead into this one's record. Before this controller's own agents
   * start: none of them is then given a step before the traces of the dead ones are cleaned up.
   * @returns the controllers that are this one's to finish
   */
  async inherit(): Promise<readonly StoredDocument<ControllerRecord>[]> {
    for (;;) {
      const found = await this.watch.look();
      const records = new Map(found.map(({ document }) => [document.value.inc, document.value]));
      const next = found.find(({ document, dead }) => dead && !this.isMine(document.value, records));
      if (next === undefined) {
        return found.flatMap(({ document }) => (document.value.takenOverBy === this.membership.inc ? [document] : []));
      }
      const { document } = next;
      const fencing: ControllerRecord = {
        ...document.value,
        state: 'fencing',
        agents: [],
        takenOverBy: this.membership.inc,
      };
      try {
        await this.agents.inherit(document, [putController(fencing, document.rev)]);
      } catch (error) {
        // It changed its record after it was read (its last word: from here on it may write nothing any more), or another
        // controller was faster.
        if (!(error instanceof StoreError && error.kind === 'unknown')) throw error;
      }
    }
  }

  /**
   * The first part of a take-over, and what it makes possible: whoever could not read a newer layout of the store is fenced.
   * Before any operation of the dead ones is taken up, and before this controller serves.
   */
  async begin(): Promise<void> {
    await this.inherit();
    await this.layout.raise(this.membership);
  }

  /**
   * Finishes what is inherited, and goes on watching the others where they share the store; until this controller stops. Where
   * it is alone it ends with what it found at its start.
   */
  async run(): Promise<void> {
    let pause = 50;
    let raised = false;
    let waits = false;
    while (!this.membership.signal.aborted) {
      try {
        const mine = await this.inherit();
        if (!raised) raised = await this.layout.raise(this.membership);
        const clusters = this.membership.agents.filter((agent) => agent.dead).map((agent) => agent.cluster);
        if (mine.length > 0) for (const cluster of new Set(clusters)) await this.agents.clean(cluster);
        if (this.mayResume()) {
          for (const dead of mine) await this.takeOverFrom(dead);
          if (this.settings.storeIsExclusive) return;
          await this.resumeUnheard();
          pause = this.settings.beatTimeoutMilliseconds / 5;
        }
      } catch (error) {
        if (this.membership.signal.aborted) return;
        // After a start the agents are not there yet: nothing has gone wrong.
        if (error instanceof BackendError && error.failure === 'not-begun') {
          if (!waits) this.notice('info', `a take-over waits: ${error.message}`);
          waits = true;
        } else this.notice('warn', 'a take-over is tried again', error);
        pause = Math.min(pause * 2, this.settings.retryLimitMilliseconds, this.settings.beatTimeoutMilliseconds / 5);
      }
      await this.clock.sleep(pause, this.membership.signal);
    }
  }

  private notice(level: 'info' | 'warn', message: string, error?: unknown): void {
    const fields = { inc: this.membership.inc };
    this.events.notice({ level, message, fields, ...(error === undefined ? {} : { error }) });
  }

  /** Whether a dead controller is in good hands already: this one's, or those of another that is not in this one's. */
  private isMine(dead: ControllerRecord, records: ReadonlyMap<string, ControllerRecord>): boolean {
    if (dead.state === 'live' || dead.state === 'left') return false;
    if (dead.takenOverBy === this.membership.inc) return true;
    const other = dead.takenOverBy === undefined ? undefined : records.get(dead.takenOverBy);
    // While the other one lives it finishes. Once its agents, and those that it had inherited, are in this one's record, so
    // must be what it was taking over.
    return other !== undefined && other.takenOverBy !== this.membership.inc;
  }

  private async takeOverFrom(document: StoredDocument<ControllerRecord>): Promise<void> {
    const dead = document.value;
    if (dead.state === 'fencing') await this.commit([putController({ ...dead, state: 'fenced' }, document.rev)]);
    const operations = await listAll<Operation>(this.store, indexes.operationsRunning);
    for (const operation of operations) {
      if (operation.value.owner === dead.inc) await this.adopt(operation);
    }
    // Only after all are adopted: an operation whose owner has no record any more is nobody's, for good.
    await this.commit([
      { kind: 'delete', key: keys.controller(dead.inc), expect: 'any' },
      { kind: 'delete', key: keys.beat(dead.inc), expect: 'any' },
    ]);
    this.events.notice({
      level: 'info',
      message: 'took over from a controller that ended',
      fields: { from: dead.inc, description: dead.description },
    });
  }

  private async resumeUnheard(): Promise<void> {
    const operations = await listAll<Operation>(this.store, indexes.operationsRunning);
    this.journal.resumeUnheard(operations.filter(({ value }) => value.owner === this.membership.inc));
  }

  private async adopt(operation: StoredDocument<Operation>): Promise<void> {
    const value: Operation = { ...operation.value, owner: this.membership.inc };
    const rev = await this.commit([putOperation(value, operation.rev)]);
    this.journal.resume([{ key: operation.key, rev, value }]);
  }

  /**
   * Agents are admitted at the same time, each with a change of this controller's record, so that a conflict with that says
   * little: it is tried again. One with another document stops this round; the next one reads everything anew.
   */
  private async commit(writes: readonly Write[]): Promise<number> {
    for (;;) {
      this.membership.signal.throwIfAborted();
      const outcome = await this.store.commit([...writes, this.membership.liveCheck()]);
      if (outcome.ok) return outcome.rev;
      await this.membership.refresh();
      if (outcome.conflicts.some((conflict) => conflict.key !== keys.controller(this.membership.inc))) {
        throw new StoreError('unknown', 'What a dead controller left changed while it was being taken over.');
      }
    }
  }
}
