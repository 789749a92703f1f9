import { setTimeout as delay } from 'node:timers/promises';

export interface WaitOptions {
  /** Default 90,000: a limit is there to end what hangs, and is far from what a busy machine takes. */
  readonly timeoutMilliseconds?: number;
  /** Pause between two looks; default 50. */
  readonly intervalMilliseconds?: number;
}

/** The awaited thing did not come about in time; `cause` is what the last look threw, if it threw. */
export class WaitTimeoutError extends Error {
  constructor(what: string, milliseconds: number, options?: ErrorOptions) {
    super(`waited ${milliseconds} ms in vain for: ${what}`, options);
    this.name = 'WaitTimeoutError';
  }
}

/**
 * Looks again and again until the predicate gives something other than `false`, `undefined` or `null`, and returns that.
 * A predicate that throws counts as "not yet".
 *
 * @param what what is awaited, for the error: "the volume is available"
 * @throws WaitTimeoutError when it does not come about in time
 */
export async function waitFor<Value>(
  what: string,
  predicate: () => Value | false | undefined | null | Promise<Value | false | undefined | null>,
  options: WaitOptions = {},
): Promise<Value> {
  const limit = options.timeoutMilliseconds ?? 90_000;
  const end = performance.now() + limit;
  for (;;) {
    let lastError: unknown;
    try {
      const value = await predicate();
      if (value !== false && value !== undefined && value !== null) {
        return value;
      }
    } catch (error) {
      lastError = error;
    }
    if (performance.now() >= end) {
      throw new WaitTimeoutError(what, limit, lastError === undefined ? undefined : { cause: lastError });
    }
    await delay(options.intervalMilliseconds ?? 50);
  }
}
