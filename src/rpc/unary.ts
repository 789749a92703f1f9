import type { handleUnaryCall, MethodDefinition, ServerUnaryCall, sendUnaryData } from '@grpc/grpc-js';
import { MoorageError } from '../core/errors.js';
import type { Clock } from '../core/ports/clock.js';
import type { Caller } from '../core/services/types.js';
import { translateError } from './errors.js';
import { contextOf } from './interceptors/context.js';
import { subjectsOfAnswer, subjectsOfRequest } from './subjects.js';

/** What a method does: a request in, a response out, MoorageErrors thrown. */
export type Method<Request, Response> = (request: Request, caller: Caller) => Promise<Response>;

/** What every call needs around its method. */
export interface CallEnvironment {
  readonly clock: Clock;
  readonly deadlines: {
    /** For a caller who gave none, in milliseconds. */
    readonly defaultMilliseconds: number;
    /** No call waits longer than this for its answer, in milliseconds. */
    readonly maximumMilliseconds: number;
  };
  /** Judges who may call at all, whatever they call; throws MoorageErrors. */
  admit(caller: Caller): Promise<void>;
  /** An error that is no answer: the log gets all of it, the caller the request id. */
  unexpectedError(requestId: string, method: string, error: unknown): void;
}

// What an answer takes from here to the caller. Without it the core would answer in time and the caller hear nothing.
const LARGEST_MARGIN_MILLISECONDS = 200;
const MARGIN_SHARE = 0.1;

/** Stands for a request whose bytes could not be read: the handler refuses it with a proper error. */
class MalformedRequest {
  readonly kind = 'malformed';
}

/** Refuses a request whose bytes could not be read. @throws MoorageError INVALID_ARGUMENT */
export function requireReadable(request: unknown, method: string): void {
  if (!(request instanceof MalformedRequest)) return;
  throw new MoorageError('INVALID_ARGUMENT', `The request is not a message that ${method} takes.`, {
    reason: 'MALFORMED_REQUEST',
  });
}

/** Makes the handler of a method. */
export function unary<Request, Response>(
  environment: CallEnvironment,
  method: Method<Request, Response>,
): handleUnaryCall<Request, Response> {
  return (call, callback) => {
    void answer(environment, method, call, callback);
  };
}

async function answer<Request, Response>(
  environment: CallEnvironment,
  method: Method<Request, Response>,
  call: ServerUnaryCall<Request, Response>,
  callback: sendUnaryData<Response>,
): Promise<void> {
  const context = contextOf(call.metadata);
  try {
    requireReadable(call.request, context.method);
    context.subjects = subjectsOfRequest(call.request);
    const principal = context.principal;
    if (principal === undefined) throw new Error('A call reached its handler without a principal.');
    const cancelled = new AbortController();
    call.on('cancelled', () => cancelled.abort());
    const caller: Caller = {
      ...principal,
      deadline: environment.clock.monotonic() + timeLeft(call.getDeadline(), environment),
      signal: cancelled.signal,
      requestId: context.requestId,
    };
    await environment.admit(caller);
    const response = await method(call.request, caller);
    context.subjects = { ...context.subjects, ...subjectsOfAnswer(response) };
    callback(null, response);
  } catch (error) {
    const { status, unexpected } = translateError(error, context.requestId);
    if (unexpected) environment.unexpectedError(context.requestId, context.method, error);
    callback(status);
  }
}

/** Milliseconds until an answer must be given. */
export function timeLeft(deadline: Date | number, environment: Pick<CallEnvironment, 'clock' | 'deadlines'>): number {
  const { defaultMilliseconds, maximumMilliseconds } = environment.deadlines;
  const asked = Number(deadline);
  if (!Number.isFinite(asked)) return defaultMilliseconds;
  const left = Math.max(0, Math.min(asked - environment.clock.now(), maximumMilliseconds));
  return left - Math.min(LARGEST_MARGIN_MILLISECONDS, left * MARGIN_SHARE);
}

/**
 * The definition of a service whose requests never fail to be read before a handler sees them: grpc-js would call that
 * INTERNAL, and no interceptor would hear of it.
 */
export function tolerant<Definition extends Readonly<Record<string, unknown>>>(definition: Definition): Definition {
  const entries = Object.entries(definition).map(([name, value]) => {
    const method = value as MethodDefinition<unknown, unknown>;
    const requestDeserialize = (bytes: Buffer): unknown => {
      try {
        return method.requestDeserialize(bytes);
      } catch {
        return new MalformedRequest();
      }
    };
    return [name, { ...method, requestDeserialize }];
  });
  return Object.fromEntries(entries) as Definition;
}
