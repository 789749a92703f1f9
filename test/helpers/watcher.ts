import type { Caller, ChangeEvent, EventService, WatchEvent, WatchRequest } from '../../src/core/services/types.js';
import { admin } from './core-world.js';
import { waitFor } from './wait.js';

type Known = Exclude<ChangeEvent, { kind: 'gone' }>;

/** A watch that runs: what it was told, and what somebody who keeps the latest of each would have. */
export class Watcher {
  readonly events: WatchEvent[] = [];
  /** The latest of everything that is there, by kind and id. */
  readonly state = new Map<string, Known>();
  /** Versions that came after a newer one of the same resource. */
  readonly older: string[] = [];
  failure: unknown;
  ended = false;
  readonly #stop = new AbortController();
  readonly #stopping = new AbortController();
  readonly #running: Promise<void>;

  constructor(
    service: EventService,
    request: Partial<WatchRequest> = {},
    caller: Caller = admin(),
    state?: ReadonlyMap<string, Known>,
  ) {
    for (const [key, value] of state ?? []) this.state.set(key, value);
    const watch = service.watch(
      { resumeToken: '', types: [], poolId: '', ...request },
      { ...caller, signal: this.#stop.signal },
      this.#stopping.signal,
    );
    this.#running = this.#run(watch);
  }

  async #run(watch: AsyncGenerator<WatchEvent, void>): Promise<void> {
    try {
      for await (const event of watch) this.#take(event);
    } catch (error) {
      this.failure = error;
    } finally {
      this.ended = true;
    }
  }

  #take(event: WatchEvent): void {
    this.events.push(event);
    if (event.kind === 'synced' || event.kind === 'bookmark') return;
    const key = keyOf(event);
    if (event.kind === 'gone') {
      this.state.delete(key);
      return;
    }
    const before = this.state.get(key);
    if (before !== undefined && Number(before.resource.etag) > Number(event.resource.etag)) this.older.push(key);
    this.state.set(key, event);
  }

  get synced(): boolean {
    return this.events.some(({ kind }) => kind === 'synced');
  }

  get lastToken(): string {
    return this.events.at(-1)?.resumeToken ?? '';
  }

  /** Kind and state of each event, in order, as "volume available". */
  get story(): string[] {
    return this.events.filter(({ kind }) => kind !== 'bookmark').map(tell);
  }

  /** Waits until it is synced. */
  async whenSynced(): Promise<this> {
    await waitFor('the watch to be synced', async () => this.synced || this.ended, { intervalMilliseconds: 2 });
    if (this.failure !== undefined) throw this.failure;
    return this;
  }

  /** Waits until it was told something. */
  async until(what: string, fits: (watcher: this) => boolean): Promise<void> {
    await waitFor(`the watch to be told ${what}`, async () => this.ended || fits(this), { intervalMilliseconds: 2 });
    if (!fits(this)) throw this.failure ?? new Error(`the watch ended before it was told ${what}`);
  }

  /** Ends it as its caller does. */
  async stop(): Promise<this> {
    this.#stop.abort();
    await this.#running;
    return this;
  }

  /** Ends it as a server that drains does. */
  async drain(): Promise<this> {
    this.#stopping.abort();
    await this.#running;
    return this;
  }

  /** Waits until it has ended by itself. */
  async end(): Promise<this> {
    await this.#running;
    return this;
  }
}

function keyOf(event: ChangeEvent): string {
  switch (event.kind) {
    case 'gone':
      return `${event.type} ${event.id}`;
    case 'pool':
      return `pool ${event.resource.value.pool.id}`;
    default:
      return `${event.kind} ${event.resource.value.id}`;
  }
}

function tell(event: WatchEvent): string {
  switch (event.kind) {
    case 'gone':
      return `${event.type} gone`;
    case 'volume':
    case 'snapshot':
    case 'export':
    case 'operation':
      return `${event.kind} ${event.resource.value.state}`;
    default:
      return event.kind;
  }
}
