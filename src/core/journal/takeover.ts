import type { ControllerRecord, Operation } from '../model/operation.js';
import type { Clock } from '../ports/clock.js';
import type { CoreEvents } from '../ports/metrics.js';
import { type Store, type StoredDocument, StoreError, type Write } from '../ports/store.js';
import type { CoreSettings } from '../settings.js';
import { type Agents, listAll } from './agents.js';
import { indexes, keys, putController, putOperation } from './documents.js';
import type { Journal } from './journal.js';
import type { Membership } from './membership.js';

/**
 * Take-over from a controller that is dead: its record goes to `fencing` and its agents come into this controller's record in
 * one commit; once they are cut off it is `fenced`; then each of its operations is adopted and resumed at its phase; then its
 * record goes. If this controller dies meanwhile, the next one finds the agents in its record and the rest as it was.
 *
 * With a store that is locked to this process every other controller in it is dead. (With a store that is shared, a
 * controller counts as dead when its beat stood still for 2T; that watch belongs to the store that several controllers use.)
 */
export class TakeOver {
  private readonly store: Store;
  private readonly clock: Clock;
  private readonly events: CoreEvents;
  private readonly settings: CoreSettings;
  private readonly membership: Membership;
  private readonly agents: Agents;
  private readonly journal: Journal;

  constructor(options: {
    store: Store;
    clock: Clock;
    events: CoreEvents;
    settings: CoreSettings;
    membership: Membership;
    agents: Agents;
    journal: Journal;
  }) {
    this.store = options.store;
    this.clock = options.clock;
    this.events = options.events;
    this.settings = options.settings;
    this.membership = options.membership;
    this.agents = options.agents;
    this.journal = options.journal;
  }

  /**
   * Takes the agents of every controller that is known to be dead into this one's record. Before this controller's own agents
   * start: none of them is then given a step before the traces of the dead ones are cleaned up.
   */
  async inherit(): Promise<void> {
    for (;;) {
      const left = (await this.deadControllers()).filter(
        ({ value }) => value.state === 'live' || value.agents.length > 0,
      );
      const [dead] = left;
      if (dead === undefined) return;
      const fencing: ControllerRecord = { ...dead.value, state: 'fencing', agents: [] };
      try {
        await this.agents.inherit(dead, [putController(fencing, dead.rev)]);
      } catch (error) {
        // It changed its record after it was read: its last word, for from here on it may write nothing any more.
        if (!(error instanceof StoreError && error.kind === 'unknown')) throw error;
      }
    }
  }

  /** Finishes the take-over of those; tries again until it has, or this controller stops. */
  async run(): Promise<void> {
    for (let pause = 50; ; pause = Math.min(pause * 2, this.settings.retryLimitMilliseconds)) {
      if (this.membership.signal.aborted) return;
      try {
        const clusters = this.membership.agents.filter((agent) => agent.dead).map((agent) => agent.cluster);
        for (const cluster of new Set(clusters)) await this.agents.clean(cluster);
        for (const dead of await this.deadControllers()) await this.takeOverFrom(dead.value);
        return;
      } catch (error) {
        if (this.membership.signal.aborted) return;
        this.events.notice({
          level: 'warn',
          message: 'a take-over is tried again',
          fields: { inc: this.membership.inc },
          error,
        });
        await this.clock.sleep(pause, this.membership.signal);
      }
    }
  }

  private async deadControllers(): Promise<readonly StoredDocument<ControllerRecord>[]> {
    if (!this.settings.storeIsExclusive) return [];
    const controllers = await listAll<ControllerRecord>(this.store, indexes.controllers);
    return controllers.filter((controller) => controller.value.inc !== this.membership.inc);
  }

  private async takeOverFrom(dead: ControllerRecord): Promise<void> {
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
