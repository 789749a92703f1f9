import { MoorageError } from '../../errors.js';
import { indexes } from '../../journal/documents.js';
import type { Pool } from '../../model/resources.js';
import type { StoredDocument } from '../../ports/store.js';
import type { CoreContext } from '../context.js';
import type { Caller, EventService, PoolWithStatus, ResourceType, WatchEvent, WatchRequest } from '../types.js';
import { type ChangeFeed, elsewhere, expired } from './feed.js';
import { eventOf, filterOf, type WatchFilter } from './filter.js';
import { ResumeTokens, type WatchPlace } from './resume-tokens.js';

/*
 * Watch. The place in the feed is taken first and all that there is listed after that: what changes meanwhile is behind the
 * place, and told once more. Everything is read when the caller has taken what came before, so that a slow caller costs no
 * memory: it is told less often, of each resource only its latest state.
 */

const PAGE = 200;

/** One watch. */
interface Watch {
  /** Everything up to here has been told. */
  place: WatchPlace;
  readonly filter: WatchFilter;
  readonly tokens: ResumeTokens;
  readonly ended: AbortSignal;
}

/** The use case of watching. */
export class Events implements EventService {
  private readonly core: CoreContext;
  private readonly feed: ChangeFeed;
  private readonly lost: AbortSignal;
  private readonly watches = new Map<string, number>();

  /** @param lost aborts when this controller is lost or stops */
  constructor(core: CoreContext, feed: ChangeFeed, lost: AbortSignal) {
    this.core = core;
    this.feed = feed;
    this.lost = lost;
  }

  async *watch(
    request: WatchRequest,
    caller: Caller,
    stopping: AbortSignal,
  ): AsyncGenerator<WatchEvent, void, undefined> {
    const filter = filterOf(request, caller);
    const tokens = new ResumeTokens(this.core.vault, caller, filter);
    const given = request.resumeToken === '' ? undefined : tokens.read(request.resumeToken);
    const leave = this.enter(caller);
    const ended = new AbortController();
    const end = () => ended.abort();
    const signals = [stopping, this.lost, ...(caller.signal === undefined ? [] : [caller.signal])];
    for (const signal of signals) signal.addEventListener('abort', end, { once: true });
    if (signals.some((signal) => signal.aborted)) end();
    try {
      const watch: Watch = { place: await this.begin(given), filter, tokens, ended: ended.signal };
      if (!watch.place.listed) yield* this.list(watch);
      yield* this.follow(watch);
      if (!stopping.aborted && !this.lost.aborted) return;
      yield { kind: 'bookmark', resumeToken: tokens.make(watch.place) };
      throw elsewhere();
    } finally {
      for (const signal of signals) signal.removeEventListener('abort', end);
      leave();
    }
  }

  private async begin(given: WatchPlace | undefined): Promise<WatchPlace> {
    const now = await this.feed.now();
    if (given === undefined) return { ...now, listed: false };
    // A store that was put back to an earlier state has not come so far.
    if (given.epoch !== now.epoch || given.revision > now.revision) throw expired();
    return given;
  }

  /** Tells all that there is. */
  private async *list(watch: Watch): AsyncGenerator<WatchEvent, void, undefined> {
    const { filter, tokens, ended } = watch;
    for await (const document of this.everything(filter)) {
      if (ended.aborted) return;
      const event = eventOf(filter, document, (pool) => this.withStatus(pool));
      if (event !== undefined) yield { ...event, resumeToken: tokens.make(watch.place) };
    }
    watch.place = { ...watch.place, listed: true };
  }

  /** Tells what changes behind the place until the signal aborts. */
  private async *follow(watch: Watch): AsyncGenerator<WatchEvent, void, undefined> {
    const { filter, tokens, ended } = watch;
    const { clock, settings } = this.core;
    let synced = false;
    let told = clock.monotonic();
    while (!ended.aborted) {
      const { documents, position, more } = await this.feed.read(watch.place, synced);
      for (const [index, document] of documents.entries()) {
        if (ended.aborted) return;
        const event = eventOf(filter, document, (pool) => this.withStatus(pool));
        // A place is never in the midst of a commit.
        const isWhole = documents[index + 1]?.rev !== document.rev;
        const place = { ...watch.place, revision: isWhole ? document.rev : document.rev - 1 };
        if (event !== undefined) {
          yield { ...event, resumeToken: tokens.make(place) };
          told = clock.monotonic();
        }
        watch.place = place;
      }
      watch.place = { ...watch.place, ...position };
      if (more) continue;
      if (!synced) {
        synced = true;
        yield { kind: 'synced', resumeToken: tokens.make(watch.place) };
        told = clock.monotonic();
      }
      const left = told + settings.bookmarkIntervalMilliseconds - clock.monotonic();
      if (left > 0) await this.feed.pause(left, ended);
      else {
        yield { kind: 'bookmark', resumeToken: tokens.make(watch.place) };
        told = clock.monotonic();
      }
    }
  }

  /** All that there is and the filter may let through, by kind. */
  private async *everything(filter: WatchFilter): AsyncGenerator<StoredDocument, void, undefined> {
    for (const type of filter.types) {
      let after: string | undefined;
      do {
        const page = await this.core.store.list(indexOf(type, filter), {
          limit: PAGE,
          ...(after === undefined ? {} : { after }),
        });
        yield* page.documents;
        after = page.cursor;
      } while (after !== undefined);
    }
  }

  private withStatus(pool: Pool): PoolWithStatus {
    return { pool, status: this.core.backend().data.poolStatus(pool) };
  }

  /** Counts a watch; the answer ends the counting. */
  private enter({ name }: Caller): () => void {
    const { maximumWatches, maximumWatchesPerCaller } = this.core.settings;
    const own = this.watches.get(name) ?? 0;
    const all = [...this.watches.values()].reduce((sum, count) => sum + count, 0);
    if (own >= maximumWatchesPerCaller || all >= maximumWatches) {
      const whose = own >= maximumWatchesPerCaller ? `You have ${own} watches` : `There are ${all} watches`;
      throw new MoorageError('RESOURCE_EXHAUSTED', `${whose} already, which is the limit. End one, or try later.`, {
        reason: 'TOO_MANY_WATCHES',
        retryAfterMilliseconds: 1_000,
      });
    }
    this.watches.set(name, own + 1);
    return () => {
      const left = (this.watches.get(name) ?? 1) - 1;
      if (left === 0) this.watches.delete(name);
      else this.watches.set(name, left);
    };
  }
}

/** The narrowest index that holds all of a kind that a filter may let through. */
function indexOf(type: ResourceType, { poolId, nodeId }: WatchFilter): string {
  switch (type) {
    case 'volume':
      return poolId === '' ? indexes.volumesAll : indexes.volumesOfPool(poolId);
    case 'snapshot':
      return poolId === '' ? indexes.snapshotsAll : indexes.snapshotsOfPool(poolId);
    case 'export':
      return nodeId === undefined ? indexes.exports : indexes.exportsOfNode(nodeId);
    case 'node':
      return indexes.nodes;
    case 'pool':
      return indexes.pools;
    case 'operation':
      return indexes.operationsRunning;
  }
}
