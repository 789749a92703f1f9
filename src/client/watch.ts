import { setTimeout as sleep } from 'node:timers/promises';
import { type Client, connectivityState, Metadata, type ServiceError, status } from '@grpc/grpc-js';
import type { WatchRequest } from '../generated/moorage/v1/WatchRequest.js';
import type { WatchResponse__Output } from '../generated/moorage/v1/WatchResponse.js';
import { type AnyMethod, watchMethod } from './definitions.js';
import { MoorageCallError } from './errors.js';

/** How to watch. */
export interface WatchOptions {
  /** Ends the watch. */
  readonly signal?: AbortSignal;
  /** For how long it is tried again while no controller can be reached, in milliseconds; for ever unless given. */
  readonly unreachableMilliseconds?: number;
}

/** The controllers that a client knows. */
export interface WatchEndpoints {
  readonly current: Client;
  moveOnFrom(client: Client): void;
}

const NAME = 'Watch';
const FIRST_BACKOFF_MILLISECONDS = 100;
const LAST_BACKOFF_MILLISECONDS = 2000;

/**
 * Watches, and goes on by itself where it was when the controller stops or cannot be reached, at the next endpoint.
 * @param connectMilliseconds how long making a connection may take
 * @throws MoorageCallError OUT_OF_RANGE when so much time has passed that it must begin anew; other errors of the call
 */
export async function* watchAgain(
  endpoints: WatchEndpoints,
  request: WatchRequest,
  options: WatchOptions,
  connectMilliseconds: number,
): AsyncGenerator<WatchResponse__Output, void, undefined> {
  let resumeToken = request.resumeToken ?? '';
  let lost: number | undefined;
  let backoff = FIRST_BACKOFF_MILLISECONDS;
  while (options.signal?.aborted !== true) {
    const client = endpoints.current;
    try {
      for await (const message of watchOnce(client, { ...request, resumeToken }, options, connectMilliseconds)) {
        lost = undefined;
        backoff = FIRST_BACKOFF_MILLISECONDS;
        yield message;
        // After it was taken: what a caller's own failure left unseen is told again.
        if (message.resumeToken !== '') resumeToken = message.resumeToken;
      }
      if (options.signal?.aborted) return;
    } catch (error) {
      if (options.signal?.aborted) return;
      if (!(error instanceof MoorageCallError) || !isWorthAnotherTry(error)) throw error;
      lost ??= performance.now();
      const wait = Math.max(error.retryAfterMilliseconds ?? 0, backoff * (0.5 + Math.random() / 2));
      const unreachable = options.unreachableMilliseconds ?? Number.POSITIVE_INFINITY;
      if (performance.now() + wait - lost >= unreachable) throw error;
      endpoints.moveOnFrom(client);
      await sleep(wait, undefined, options.signal && { signal: options.signal }).catch(() => undefined);
      backoff = Math.min(backoff * 2, LAST_BACKOFF_MILLISECONDS);
    }
  }
}

function isWorthAnotherTry({ code, reason }: MoorageCallError): boolean {
  // CANCELLED, but not by us: a server that is killed while it drains resets its streams so.
  return code === 'UNAVAILABLE' || code === 'CANCELLED' || reason === 'TOO_MANY_WATCHES';
}

async function* watchOnce(
  client: Client,
  request: WatchRequest,
  { signal }: WatchOptions,
  connectMilliseconds: number,
): AsyncGenerator<WatchResponse__Output, void, undefined> {
  const method: AnyMethod = watchMethod;
  const stream = client.makeServerStreamRequest(
    method.path,
    method.requestSerialize,
    method.responseDeserialize,
    request,
    new Metadata(),
    {},
  );
  const cancel = (): void => stream.cancel();
  let unreachable = false;
  // A host that froze takes connections and says nothing.
  const connecting = setTimeout(() => {
    unreachable = client.getChannel().getConnectivityState(false) !== connectivityState.READY;
    if (unreachable) cancel();
  }, connectMilliseconds);
  signal?.addEventListener('abort', cancel, { once: true });
  if (signal?.aborted) cancel();
  try {
    for await (const message of stream) yield message as WatchResponse__Output;
    // A watch has no end of its own.
    throw unavailable('The stream ended.');
  } catch (error) {
    if (unreachable) throw unavailable('The controller takes connections and does not speak.', error);
    throw isServiceError(error) ? new MoorageCallError(NAME, error) : error;
  } finally {
    clearTimeout(connecting);
    signal?.removeEventListener('abort', cancel);
    cancel();
  }
}

function unavailable(details: string, cause?: unknown): MoorageCallError {
  const error = new Error(details, { cause });
  const fields = { code: status.UNAVAILABLE, details, metadata: new Metadata() };
  return new MoorageCallError(NAME, Object.assign(error, fields));
}

function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && 'code' in error && 'details' in error;
}
