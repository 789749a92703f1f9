import { status } from '@grpc/grpc-js';
import { StepError } from './step-error.js';

/** Bounds of a lane. */
export interface LaneLimits {
  /** How many may run at once. */
  readonly concurrent: number;
  /** How many more may wait. */
  readonly queued: number;
}

/**
 * What may run at once for one pool, and what may wait: a pool that does not answer holds its own threads and no others.
 * Work on the same subject (an image) runs one after the other: a step that is asked for again while it still runs must
 * not see its own half-made work.
 */
export class Lane {
  readonly #name: string;
  readonly #limits: LaneLimits;
  readonly #waiting: (() => void)[] = [];
  readonly #turns = new Map<string, Promise<unknown>>();
  #admitted = 0;
  #running = 0;

  constructor(name: string, limits: LaneLimits) {
    this.#name = name;
    this.#limits = limits;
  }

  /**
   * Runs work in its turn.
   * @param subject work on the same one does not overlap; undefined overlaps with all
   * @param expired whether it is too late to begin
   * @throws StepError RESOURCE_EXHAUSTED with the reason LANE_FULL, or DEADLINE_EXCEEDED with NOT_BEGUN
   */
  async run<Result>(subject: string | undefined, expired: () => boolean, work: () => Promise<Result>): Promise<Result> {
    const { concurrent, queued } = this.#limits;
    if (this.#admitted >= concurrent + queued) {
      throw new StepError(
        status.RESOURCE_EXHAUSTED,
        'LANE_FULL',
        `${this.#name}: ${concurrent} steps run and ${queued} wait; nothing was begun`,
      );
    }
    this.#admitted += 1;
    try {
      return await this.#inTurn(subject, () => this.#inSlot(expired, work));
    } finally {
      this.#admitted -= 1;
    }
  }

  async #inTurn<Result>(subject: string | undefined, work: () => Promise<Result>): Promise<Result> {
    if (subject === undefined) return work();
    const before = this.#turns.get(subject) ?? Promise.resolve();
    const turn = before.then(work, work);
    const settled = turn.then(
      () => undefined,
      () => undefined,
    );
    this.#turns.set(subject, settled);
    try {
      return await turn;
    } finally {
      if (this.#turns.get(subject) === settled) this.#turns.delete(subject);
    }
  }

  async #inSlot<Result>(expired: () => boolean, work: () => Promise<Result>): Promise<Result> {
    if (this.#running >= this.#limits.concurrent) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    else this.#running += 1;
    try {
      if (expired()) {
        throw new StepError(status.DEADLINE_EXCEEDED, 'NOT_BEGUN', `${this.#name}: it was too late to begin`);
      }
      return await work();
    } finally {
      // The place goes straight to the next one, so that nobody else can take it in between.
      const next = this.#waiting.shift();
      if (next) next();
      else this.#running -= 1;
    }
  }
}

/** The lanes of all pools: one of each kind, so that reads need not wait for what is slow or stuck. */
export class Lanes {
  readonly #limits: Readonly<Record<LaneKind, LaneLimits>>;
  readonly #lanes = new Map<string, Lane>();

  constructor(limits: Readonly<Record<LaneKind, LaneLimits>>) {
    this.#limits = limits;
  }

  /** The lane of a pool. */
  of(pool: string, kind: LaneKind): Lane {
    const name = `pool ${pool}, ${kind}`;
    let lane = this.#lanes.get(name);
    if (!lane) {
      lane = new Lane(name, this.#limits[kind]);
      this.#lanes.set(name, lane);
    }
    return lane;
  }
}

/** "steps" for what changes something, "reads" for what only looks, "polls" for what waits for something that runs by itself. */
export type LaneKind = 'steps' | 'reads' | 'polls';
