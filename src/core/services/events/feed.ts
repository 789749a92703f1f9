import { randomUUID } from 'node:crypto';
import { MoorageError } from '../../errors.js';
import { indexes, keys, putFeed } from '../../journal/documents.js';
import type { FeedRecord } from '../../model/resources.js';
import type { Clock } from '../../ports/clock.js';
import { type Store, type StoredDocument, sortableRevision, type Write } from '../../ports/store.js';

/*
 * THE CHANGE FEED (docs/decisions/0012-change-feed.md)
 *
 * An index holds everything that can be watched, by the revision of the commit that last changed it. So "what changed since
 * revision R" is the part of that index behind R: each resource once, as it is now. Any controller can read it, from any R,
 * after any restart; nothing of it lives in a process.
 *
 * What is gone must be told too, so what is left of it stands in the index for a while. Once it is forgotten, a reader from
 * before it would never hear of it: the feed's record holds up to where that is so (the horizon), and whoever stood before
 * the horizon must begin anew. The horizon is raised before anything is forgotten, and looked at after each reading.
 */

/** How often the store is looked at for the commits of other controllers, in milliseconds. */
const POLL_MILLISECONDS = 250;
/** Readers wake so long after a commit of this controller, in milliseconds, so that those of the next moment come along. */
const WAKE_DELAY_MILLISECONDS = 5;
const PAGE = 200;

/** A place in the feed: everything up to this revision has been read. */
export interface FeedPosition {
  readonly epoch: string;
  readonly revision: number;
}

/** What changed behind a place. */
export interface FeedPage {
  /** In the order of their commits. */
  readonly documents: readonly StoredDocument[];
  /** Where to go on. Never in the midst of a commit. */
  readonly position: FeedPosition;
  /** Whether there was more. */
  readonly more: boolean;
}

/** Reads what changes. */
export class ChangeFeed {
  private readonly store: Store;
  private readonly clock: Clock;
  private readonly liveCheck: () => Write;
  private readonly refreshMembership: () => Promise<boolean>;
  private readonly reading = new Map<string, Promise<FeedPage>>();
  private readonly sleeping = new Set<() => void>();
  private waking = false;
  private polling = false;

  constructor(options: {
    store: Store;
    clock: Clock;
    liveCheck: () => Write;
    refreshMembership: () => Promise<boolean>;
  }) {
    this.store = options.store;
    this.clock = options.clock;
    this.liveCheck = options.liveCheck;
    this.refreshMembership = options.refreshMembership;
  }

  /** The place now: whatever was committed before is up to it, whatever will be is behind it. */
  async now(): Promise<FeedPosition> {
    for (;;) {
      const known = await this.store.get<FeedRecord>(keys.feed);
      const record: FeedRecord = known?.value ?? { epoch: randomUUID(), horizon: 0 };
      // Only a commit tells how far the store is.
      const write: Write =
        known === undefined ? putFeed(record, 'absent') : { kind: 'check', key: keys.feed, expect: known.rev };
      const outcome = await this.store.commit([write, this.liveCheck()]);
      if (outcome.ok) return { epoch: record.epoch, revision: outcome.rev };
      if (!(await this.refreshMembership())) throw elsewhere();
    }
  }

  /**
   * Reads on from a place.
   * @param shared whether the reading may be one that another reader has just begun; only for one who has read to the end
   * @throws MoorageError OUT_OF_RANGE when something behind that place has been forgotten
   */
  read(from: FeedPosition, shared: boolean): Promise<FeedPage> {
    if (!shared) return this.readPage(from);
    const name = `${from.epoch}/${from.revision}`;
    const running = this.reading.get(name);
    if (running !== undefined) return running;
    const begun = this.readPage(from).finally(() => this.reading.delete(name));
    this.reading.set(name, begun);
    return begun;
  }

  private async readPage(from: FeedPosition): Promise<FeedPage> {
    for (let limit = PAGE; ; limit *= 4) {
      const start = sortableRevision(from.revision + 1);
      const { documents, cursor } = await this.store.list(indexes.changes, { from: start, limit });
      // After the reading: what was forgotten before it raised the horizon before that.
      const record = (await this.store.get<FeedRecord>(keys.feed))?.value;
      if (record === undefined || record.epoch !== from.epoch || record.horizon > from.revision) throw expired();
      // The last commit of a page that is full may go on behind it.
      const last = documents.at(-1)?.rev ?? from.revision;
      const whole = cursor === undefined ? documents : documents.filter(({ rev }) => rev < last);
      if (whole.length === 0 && cursor !== undefined) continue;
      const revision = whole.at(-1)?.rev ?? from.revision;
      return { documents: whole, position: { epoch: from.epoch, revision }, more: cursor !== undefined };
    }
  }

  /** To be called after each commit of this controller. */
  committed(): void {
    if (this.sleeping.size === 0 || this.waking) return;
    this.waking = true;
    void this.clock.sleep(WAKE_DELAY_MILLISECONDS).then(() => {
      this.waking = false;
      this.wakeAll();
    });
  }

  /** Waits until there may be something new, the time is up (milliseconds), or the signal aborts. */
  async pause(milliseconds: number, signal: AbortSignal): Promise<void> {
    if (signal.aborted || milliseconds <= 0) return;
    const ending = new AbortController();
    const wake = () => ending.abort();
    this.sleeping.add(wake);
    signal.addEventListener('abort', wake, { once: true });
    void this.poll();
    await this.clock.sleep(milliseconds, ending.signal);
    this.sleeping.delete(wake);
    signal.removeEventListener('abort', wake);
  }

  /** All look at the same moment, so that those who stand at the same place share one reading. */
  private async poll(): Promise<void> {
    if (this.polling) return;
    this.polling = true;
    try {
      while (this.sleeping.size > 0) {
        await this.clock.sleep(POLL_MILLISECONDS);
        this.wakeAll();
      }
    } finally {
      this.polling = false;
    }
  }

  private wakeAll(): void {
    for (const wake of [...this.sleeping]) wake();
  }
}

/** The token is too old, or of another store. */
export function expired(): MoorageError {
  return new MoorageError(
    'OUT_OF_RANGE',
    'resume_token: is too old; what changed since is not known any more. Watch without it.',
    { reason: 'RESUME_TOKEN_EXPIRED', fieldViolations: [{ field: 'resume_token', description: 'is too old' }] },
  );
}

/** This controller cannot go on; another one, or the same one in a moment, can. */
export function elsewhere(): MoorageError {
  return new MoorageError('UNAVAILABLE', 'This controller stops. Go on with the last resume token.', {
    reason: 'WATCH_INTERRUPTED',
    retryAfterMilliseconds: 100,
  });
}

/** The store, with a listener that hears of each commit that passed or may have passed. */
export function withCommitListener(store: Store, committed: () => void): Store {
  return {
    get: (key) => store.get(key),
    getMany: (all) => store.getMany(all),
    list: (index, range) => store.list(index, range),
    count: (index) => store.count(index),
    commit: (writes) => store.commit(writes).finally(committed),
    backup: (path, writes) => store.backup(path, writes),
    close: () => store.close(),
  };
}
