import type { Operation__Output } from '../generated/moorage/v1/Operation.js';
import type { CallOptions, MoorageClient } from './connect.js';

/** How to wait for an operation. */
export interface WaitOptions extends Pick<CallOptions, 'signal'> {
  /** How long in all, in milliseconds. */
  readonly timeoutMilliseconds: number;
  /** Hears how far it is, about every second. */
  readonly onProgress?: (operation: Operation__Output) => void;
}

const POLL_MILLISECONDS = 1000;

// What an answer may take beside the waiting itself, on a busy machine too.
const ANSWER_MILLISECONDS = 10_000;

/**
 * Waits until an operation has ended, and looks at it about every second.
 * @returns the operation: ended, or still running when the time was up
 * @throws MoorageCallError
 */
export async function waitForOperation(
  client: MoorageClient,
  operationId: string,
  options: WaitOptions,
): Promise<Operation__Output> {
  const end = performance.now() + options.timeoutMilliseconds;
  for (;;) {
    const left = Math.max(1, end - performance.now());
    const wait = Math.ceil(Math.min(POLL_MILLISECONDS, left));
    const { operation } = await client.waitOperation(
      { operationId, timeout: { seconds: Math.floor(wait / 1000), nanos: (wait % 1000) * 1_000_000 } },
      { deadlineMilliseconds: wait + ANSWER_MILLISECONDS, ...(options.signal && { signal: options.signal }) },
    );
    if (operation === null) throw new Error(`The controller answered without the operation ${operationId}.`);
    if (operation.state !== 'OPERATION_STATE_RUNNING' || performance.now() >= end) return operation;
    options.onProgress?.(operation);
  }
}

/**
 * Goes through all pages of a list.
 * @param list reads the page that begins at the token, as (pageToken) => client.listVolumes({pageToken})
 */
export async function* pages<Page extends { readonly nextPageToken: string }>(
  list: (pageToken: string) => Promise<Page>,
): AsyncGenerator<Page, void, undefined> {
  let token = '';
  do {
    const page = await list(token);
    yield page;
    token = page.nextPageToken;
  } while (token !== '');
}

/** A time of the API as a Date; undefined when it is unset. */
export function toDate(timestamp: { readonly seconds: string; readonly nanos: number } | null): Date | undefined {
  return timestamp === null ? undefined : new Date(Number(timestamp.seconds) * 1000 + timestamp.nanos / 1_000_000);
}
