import { setTimeout as delay } from 'node:timers/promises';
import { status } from '@grpc/grpc-js';
import { Lane } from '../lanes.js';
import { isCephError } from '../librbd/errors.js';
import { flattenImage } from '../librbd/flatten.js';
import { readHeader, readSnapshot } from '../librbd/header.js';
import type { PoolContext } from '../librbd/pool-context.js';
import { notFound, refused, StepError } from '../step-error.js';
import type { StepScope } from '../steps.js';
import type { ImageRecord, ParentRecord } from './record.js';
import { withVerifiedImage } from './verify.js';

/*
 * A flattening takes as long as the image is large, far longer than a step may. So it runs by itself: FlattenImage begins it
 * and says how far it is, and is asked for again. librbd begins each flattening with the first object, and looks at every one
 * anew; cut into steps of bounded length a large image would never be done.
 */

/** How many images of one pool are flattened at once: each takes a thread, and ten objects are on their way for each. */
const AT_ONCE = 2;
/** How many more may wait. */
const WAITING = 10_000;
/** How long a call waits for the end before it says how far it is, in milliseconds. */
const ANSWER_MILLISECONDS = 1_000;

type KnownImage = ImageRecord & { readonly id: string };

/** Opens a pool with the rights that a flattening has. */
export type UsePool = <Result>(poolName: string, use: (pool: PoolContext) => Promise<Result>) => Promise<Result>;

/** One that runs, waits to, or has ended and not yet been asked for. */
interface Flattening {
  /** Whether it must come to its end, because there is no way back. */
  readonly isRest: boolean;
  percent: number;
  stopped: boolean;
  /** Resolves when it has ended in any way. */
  readonly ended: Promise<void>;
  /** What came of it, once it has ended. */
  outcome: 'none' | 'flattened' | { readonly error: unknown };
}

/** The flattenings of this agent. */
export class Flattenings {
  readonly #usePool: UsePool;
  readonly #flattenings = new Map<string, Flattening>();
  readonly #turns = new Map<string, Promise<void>>();
  readonly #lanes = new Map<string, Lane>();

  /** @param ending aborts when the agent is to end: what runs ends too, and its successor goes on with it */
  constructor(usePool: UsePool, ending: AbortSignal) {
    this.#usePool = usePool;
    ending.addEventListener('abort', () => {
      for (const flattening of this.#flattenings.values()) flattening.stopped = true;
    });
  }

  /**
   * Begins to flatten an image, or joins the flattening that runs, and waits a moment for its end.
   * @throws CephError; StepError NOT_FOUND, or FAILED_PRECONDITION when its parent is not the recorded one
   */
  async flatten(
    image: KnownImage,
    scope: StepScope,
  ): Promise<{ readonly flattened: boolean; readonly progressPercent: number }> {
    const key = `${scope.poolName}/${image.id}`;
    const flattening = await this.#inTurn(key, async () => {
      const running = this.#flattenings.get(key);
      if (running !== undefined) return running;
      const { parent } = await this.#look(image, scope.poolName);
      return parent === 'none' ? undefined : this.#begin(key, image, scope.poolName);
    });
    if (flattening === undefined) return { flattened: true, progressPercent: 100 };
    await endOrTime(flattening.ended, Math.min(ANSWER_MILLISECONDS, scope.remainingMilliseconds() / 2));
    const { outcome, percent } = flattening;
    if (outcome === 'none') return { flattened: false, progressPercent: percent };
    if (this.#flattenings.get(key) === flattening) this.#flattenings.delete(key);
    if (outcome !== 'flattened') throw outcome.error;
    return { flattened: true, progressPercent: 100 };
  }

  /**
   * Ends the flattening of an image.
   * @returns whether the image is flattened all the same; otherwise it is a whole clone
   * @throws CephError; StepError
   */
  async stop(image: KnownImage, scope: StepScope): Promise<boolean> {
    const key = `${scope.poolName}/${image.id}`;
    return this.#inTurn(key, () => this.#stopNow(key, image, scope));
  }

  /**
   * Runs what begins or ends the flattening of an image in the order in which it was asked for: a question that nobody
   * waits for any more must not begin one after it was said that none runs.
   */
  async #inTurn<Result>(key: string, work: () => Promise<Result>): Promise<Result> {
    const before = this.#turns.get(key) ?? Promise.resolve();
    const turn = before.then(work);
    const settled = turn.then(
      () => undefined,
      () => undefined,
    );
    this.#turns.set(key, settled);
    try {
      return await turn;
    } finally {
      if (this.#turns.get(key) === settled) this.#turns.delete(key);
    }
  }

  async #stopNow(key: string, image: KnownImage, scope: StepScope): Promise<boolean> {
    const flattening = this.#flattenings.get(key);
    if (flattening?.isRest === true) return this.#awaitRest(key, image, flattening, scope);
    if (flattening !== undefined) {
      flattening.stopped = true;
      await this.#awaitEnd(key, image, flattening, scope);
    }
    const { parent, listed } = await this.#look(image, scope.poolName);
    if (parent === 'none') return true;
    if (listed) return false;
    // It was cut short between leaving its parent's list and forgetting it: there is no way back, and hardly any left.
    return this.#awaitRest(key, image, this.#begin(key, image, scope.poolName, true), scope);
  }

  async #awaitRest(key: string, image: KnownImage, rest: Flattening, scope: StepScope): Promise<boolean> {
    const outcome = await this.#awaitEnd(key, image, rest, scope);
    if (outcome !== 'flattened') throw outcome.error;
    return true;
  }

  async #awaitEnd(
    key: string,
    image: KnownImage,
    flattening: Flattening,
    scope: StepScope,
  ): Promise<Exclude<Flattening['outcome'], 'none'>> {
    await endOrTime(flattening.ended, scope.remainingMilliseconds());
    const { outcome } = flattening;
    if (outcome === 'none') {
      const message = `image ${image.name} (${image.id}) is still being flattened`;
      throw new StepError(status.DEADLINE_EXCEEDED, 'STILL_RUNS', message);
    }
    this.#flattenings.delete(key);
    return outcome;
  }

  #begin(key: string, image: KnownImage, poolName: string, isRest = false): Flattening {
    const flattening: Flattening = {
      isRest,
      percent: 0,
      stopped: false,
      outcome: 'none',
      ended: Promise.resolve().then(async () => {
        try {
          await this.#lane(poolName).run(
            undefined,
            () => flattening.stopped,
            () => this.#run(flattening, image, poolName),
          );
          flattening.outcome = 'flattened';
        } catch (error) {
          flattening.outcome = { error };
        }
      }),
    };
    this.#flattenings.set(key, flattening);
    return flattening;
  }

  async #run(flattening: Flattening, image: KnownImage, poolName: string): Promise<void> {
    const hear = (begun: number, total: number): boolean => {
      // The last percent is for what comes after the objects.
      flattening.percent = Math.min(99, Math.floor((begun * 100) / Math.max(1, total)));
      return !flattening.stopped;
    };
    try {
      await this.#usePool(poolName, (pool) =>
        withVerifiedImage(pool, { ...image, mayBeUnlisted: true }, {}, (open) => flattenImage(open, hear)),
      );
    } catch (error) {
      // EINVAL: it has no parent any more, which the header decides.
      if (!isCephError(error, 'EINVAL')) throw error;
    }
    const { parent } = await this.#look(image, poolName);
    if (parent !== 'none') {
      throw new StepError(status.ABORTED, 'NOT_FLATTENED', `image ${image.name} (${image.id}) has kept its parent`);
    }
  }

  /** What the headers say: whether the image still has its parent, and whether that lists it. Raw reads only. */
  #look(
    image: KnownImage,
    poolName: string,
  ): Promise<{ readonly parent: 'none' | 'recorded'; readonly listed: boolean }> {
    return this.#usePool(poolName, async (pool) => {
      const header = await readHeader(pool, image.id);
      if (header === undefined) throw notFound(`image ${image.name} (${image.id}) has no header`);
      if (header.parent === undefined) return { parent: 'none', listed: false };
      const { poolId, imageId, snapshotId, poolNamespace } = header.parent;
      const recorded: ParentRecord | undefined = image.parent;
      const same = recorded?.id === imageId && recorded.point.snapshotId === snapshotId;
      if (!same || poolId !== pool.poolId() || poolNamespace !== '') {
        throw refused('OTHER_PARENT', `image ${image.name} (${image.id}) has another parent than it was cloned from`);
      }
      const atParent = await readSnapshot(pool, imageId, snapshotId);
      const listed = atParent?.children.some((child) => child.imageId === image.id && child.poolId === poolId) ?? false;
      return { parent: 'recorded', listed };
    });
  }

  #lane(poolName: string): Lane {
    const lane =
      this.#lanes.get(poolName) ?? new Lane(`pool ${poolName}, flattenings`, { concurrent: AT_ONCE, queued: WAITING });
    this.#lanes.set(poolName, lane);
    return lane;
  }
}

async function endOrTime(ended: Promise<void>, milliseconds: number): Promise<void> {
  const waiting = new AbortController();
  await Promise.race([
    ended,
    delay(Math.max(0, milliseconds), undefined, { signal: waiting.signal }).catch(() => undefined),
  ]);
  waiting.abort();
}
