import type { ControllerRecord } from '../model/operation.js';
import type { Clock } from '../ports/clock.js';
import type { ProcessIdentity } from '../ports/process.js';
import type { Store, StoredDocument } from '../ports/store.js';
import type { CoreSettings } from '../settings.js';
import { listAll } from './agents.js';
import { indexes, keys } from './documents.js';

/** A beat as it was seen last, and since when it has stood there. */
interface SeenBeat {
  readonly beat: number;
  readonly since: number;
}

/**
 * Says which of the other controllers are dead.
 *
 * With a store that is locked to this process all of them are. With a shared one a controller is dead when it said that it
 * leaves, when its process is known to have ended, or when its beat stood still for 2T of this controller's own clock: after
 * T it has killed its agents, if it could; and the clocks of two machines are never compared.
 */
export class BeatWatch {
  private readonly store: Store;
  private readonly clock: Clock;
  private readonly settings: CoreSettings;
  private readonly process: ProcessIdentity | undefined;
  private readonly inc: string;
  private seen = new Map<string, SeenBeat>();
  private first = false;

  constructor(options: {
    store: Store;
    clock: Clock;
    settings: CoreSettings;
    process?: ProcessIdentity | undefined;
    inc: string;
  }) {
    this.store = options.store;
    this.clock = options.clock;
    this.settings = options.settings;
    this.process = options.process;
    this.inc = options.inc;
  }

  /**
   * Whether this is the one controller that does what needs doing only once, as the reaper's passes: of those that live, the
   * one with the lowest `inc`. Two may think so for a while; what they do must bear it.
   */
  get isFirst(): boolean {
    return this.settings.storeIsExclusive || this.first;
  }

  /** The records of all other controllers, each with whether it is dead. To be called at least every T/5. */
  async look(): Promise<readonly { readonly document: StoredDocument<ControllerRecord>; readonly dead: boolean }[]> {
    const all = await listAll<ControllerRecord>(this.store, indexes.controllers);
    const others = all.filter(({ value }) => value.inc !== this.inc);
    const beats = await this.store.getMany<{ beat: number }>(others.map(({ value }) => keys.beat(value.inc)));
    const now = this.clock.monotonic();
    const seen = new Map<string, SeenBeat>();
    const found = [];
    for (const [position, document] of others.entries()) {
      const { inc } = document.value;
      const beat = beats[position]?.value.beat ?? -1;
      const before = this.seen.get(inc);
      const stands = before?.beat === beat ? before : { beat, since: now };
      seen.set(inc, stands);
      found.push({ document, dead: await this.isDead(document.value, now - stands.since) });
    }
    this.seen = seen;
    this.first = found.every(({ document, dead }) => dead || document.value.inc > this.inc);
    return found;
  }

  private async isDead(record: ControllerRecord, stoodMilliseconds: number): Promise<boolean> {
    if (this.settings.storeIsExclusive || record.state !== 'live') return true;
    if (stoodMilliseconds >= 2 * this.settings.beatTimeoutMilliseconds) return true;
    return record.process !== undefined && (await this.process?.hasEnded(record.process)) === true;
  }
}
