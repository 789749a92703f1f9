import { setTimeout as delay } from 'node:timers/promises';

/*
 * Somebody waits for a volume that is created; nobody waits for one that is purged. A purge of a large image asks the servers
 * for thousands of removals, and whatever comes while they are queued waits behind them. So such work is cut into pieces, one
 * at a time for a pool; each gives way to the steps that run, for a while (it must not starve: a pool can be busy for days),
 * and rests afterwards as long as it took, for those who are at work through other agents.
 */

/** After a step's end the next of the same caller is likely on its way: for so long nothing begins in between. */
const QUIET_MILLISECONDS = 10;
const LONGEST_WAIT_MILLISECONDS = 25;
const LOOK_MILLISECONDS = 5;
/** The longest rest after a piece. */
const LONGEST_REST_MILLISECONDS = 50;

/** Lets the work on a pool that nobody waits for give way to what somebody waits for. */
export class Pace {
  readonly #longestWaitMilliseconds: number;
  #running = 0;
  #lastEnd = Number.NEGATIVE_INFINITY;
  #pieces: Promise<unknown> = Promise.resolve();

  /** @param longestWaitMilliseconds how long a piece gives way at most */
  constructor(longestWaitMilliseconds = LONGEST_WAIT_MILLISECONDS) {
    this.#longestWaitMilliseconds = longestWaitMilliseconds;
  }

  /** Runs what somebody waits for, at once. */
  async foreground<Result>(work: () => Promise<Result>): Promise<Result> {
    this.#running += 1;
    try {
      return await work();
    } finally {
      this.#running -= 1;
      this.#lastEnd = performance.now();
    }
  }

  /** Runs a piece of work that nobody waits for, when its turn has come. */
  background<Result>(piece: () => Promise<Result>): Promise<Result> {
    let begun = 0;
    const result = this.#pieces
      .then(() => this.#giveWay())
      .then(() => {
        begun = performance.now();
        return piece();
      });
    const rest = () => delay(Math.min(performance.now() - begun, LONGEST_REST_MILLISECONDS), undefined, { ref: false });
    this.#pieces = result.then(rest, rest);
    return result;
  }

  async #giveWay(): Promise<void> {
    const until = performance.now() + this.#longestWaitMilliseconds;
    while (this.#isBusy() && performance.now() < until) await delay(LOOK_MILLISECONDS);
  }

  #isBusy(): boolean {
    return this.#running > 0 || performance.now() - this.#lastEnd < QUIET_MILLISECONDS;
  }
}

/** The pace of each pool: one that does not answer must not hold up the others. */
export class Paces {
  readonly #paces = new Map<string, Pace>();

  of(pool: string): Pace {
    let pace = this.#paces.get(pool);
    if (!pace) {
      pace = new Pace();
      this.#paces.set(pool, pace);
    }
    return pace;
  }
}
