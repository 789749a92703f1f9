import { once } from 'node:events';
import type { handleServerStreamingCall, ServerWritableStream } from '@grpc/grpc-js';
import { MoorageError } from '../core/errors.js';
import type { Clock } from '../core/ports/clock.js';
import type { Caller } from '../core/services/types.js';
import { translateError } from './errors.js';
import { requireUnexpired } from './interceptors/authenticate.js';
import { contextOf } from './interceptors/context.js';
import { subjectsOfRequest } from './subjects.js';
import { type CallEnvironment, requireReadable } from './unary.js';

/** What a streaming method does: a request in, messages out as fast as they are taken, MoorageErrors thrown. */
export type StreamMethod<Request, Response> = (
  request: Request,
  caller: Caller,
  stopping: AbortSignal,
) => AsyncGenerator<Response, void>;

/** What every stream needs around its method. */
export interface StreamEnvironment extends CallEnvironment {
  /** What aborts, for a stream that begins now, when the server drains or the stream must be begun again. */
  readonly stopping: () => AbortSignal;
}

/** How long a caller may take nothing off a full stream before the stream ends, in milliseconds. */
const STALL_MILLISECONDS = 60_000;

/** Makes the handler of a method that answers with a stream. Nothing is made ready before the caller takes what was. */
export function serverStream<Request, Response>(
  environment: StreamEnvironment,
  method: StreamMethod<Request, Response>,
): handleServerStreamingCall<Request, Response> {
  return (call) => {
    void answer(environment, method, call);
  };
}

async function answer<Request, Response>(
  environment: StreamEnvironment,
  method: StreamMethod<Request, Response>,
  call: ServerWritableStream<Request, Response>,
): Promise<void> {
  const context = contextOf(call.metadata);
  const cancelled = new AbortController();
  call.on('cancelled', () => cancelled.abort());
  try {
    requireReadable(call.request, context.method);
    context.subjects = subjectsOfRequest(call.request);
    const { principal, requestId } = context;
    if (principal === undefined) throw new Error('A call reached its handler without a principal.');
    const caller = {
      ...principal,
      // The caller ends it.
      deadline: Number.POSITIVE_INFINITY,
      signal: cancelled.signal,
      requestId,
    };
    await environment.admit(caller);
    for await (const message of method(call.request, caller, environment.stopping())) {
      if (cancelled.signal.aborted) return;
      // It may have been let in long ago. There is a message every few seconds, if only a bookmark.
      requireUnexpired(principal);
      await environment.admit(caller);
      if (!call.write(message)) await drained(call, cancelled.signal, environment.clock);
    }
    if (!cancelled.signal.aborted) call.end();
  } catch (error) {
    const { status, unexpected } = translateError(error, context.requestId);
    if (unexpected) environment.unexpectedError(context.requestId, context.method, error);
    // Its way of ending a stream with a status: after what was written.
    if (!cancelled.signal.aborted) call.emit('error', status);
  }
}

async function drained(
  call: ServerWritableStream<unknown, unknown>,
  cancelled: AbortSignal,
  clock: Clock,
): Promise<void> {
  const given = new AbortController();
  const over = new AbortController();
  const stop = () => given.abort();
  void clock.sleep(STALL_MILLISECONDS, over.signal).then(stop);
  cancelled.addEventListener('abort', stop, { once: true });
  try {
    await once(call, 'drain', { signal: given.signal });
  } catch (error) {
    if (cancelled.aborted) return;
    if (!given.signal.aborted) throw error;
    throw new MoorageError(
      'UNAVAILABLE',
      'Nothing was taken off this stream for too long. Go on with the last resume token.',
      {
        reason: 'SLOW_CONSUMER',
        retryAfterMilliseconds: 1_000,
      },
    );
  } finally {
    over.abort();
    cancelled.removeEventListener('abort', stop);
  }
}
