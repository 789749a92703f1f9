import type { Operation } from '../model/operation.js';
import type { Clock } from '../ports/clock.js';
import type { Store } from '../ports/store.js';
import { keys } from './documents.js';

/** How often an operation that another controller runs is looked at, in milliseconds. */
const FOREIGN_POLL_MILLISECONDS = 250;

/** Who waits for the end of an operation. */
export class Waiters {
  private readonly store: Store;
  private readonly clock: Clock;
  private readonly waiting = new Map<string, Set<() => void>>();

  constructor(store: Store, clock: Clock) {
    this.store = store;
    this.clock = clock;
  }

  /** Tells everybody who waits that the operation has ended. */
  ended(operationId: string): void {
    const waiting = this.waiting.get(operationId);
    this.waiting.delete(operationId);
    for (const wake of waiting ?? []) wake();
  }

  /**
   * Waits until the operation has ended or the time is up, whichever comes first.
   * @param until monotonic milliseconds
   * @returns the operation as it is then; undefined when there is none
   */
  async wait(operationId: string, until: number, signal?: AbortSignal): Promise<Operation | undefined> {
    for (;;) {
      const woken = this.listen(operationId);
      try {
        const operation = (await this.store.get<Operation>(keys.operation(operationId)))?.value;
        const left = until - this.clock.monotonic();
        if (operation === undefined || operation.state !== 'running' || left <= 0 || signal?.aborted === true) {
          return operation;
        }
        const ending = new AbortController();
        const stop = () => ending.abort();
        signal?.addEventListener('abort', stop, { once: true });
        await Promise.race([woken.promise, this.clock.sleep(Math.min(left, FOREIGN_POLL_MILLISECONDS), ending.signal)]);
        signal?.removeEventListener('abort', stop);
        ending.abort();
      } finally {
        woken.forget();
      }
    }
  }

  private listen(operationId: string): { promise: Promise<void>; forget: () => void } {
    let wake: () => void = () => undefined;
    const promise = new Promise<void>((resolve) => {
      wake = resolve;
    });
    const waiting = this.waiting.get(operationId) ?? new Set();
    waiting.add(wake);
    this.waiting.set(operationId, waiting);
    const forget = () => {
      waiting.delete(wake);
      if (waiting.size === 0 && this.waiting.get(operationId) === waiting) this.waiting.delete(operationId);
    };
    return { promise, forget };
  }
}
