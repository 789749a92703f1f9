import { randomUUID } from 'node:crypto';
import {
  type Metadata,
  ServerInterceptingCall,
  type ServerInterceptor,
  status,
  Metadata as Trailers,
} from '@grpc/grpc-js';
import type { Role } from '../../core/services/types.js';
import { isChange } from '../roles.js';
import type { Subjects } from '../subjects.js';
import { type CallContext, setContext } from './context.js';

/** One call that has ended, for the access log and the metrics. */
export interface EndedCall {
  readonly requestId: string;
  readonly method: string;
  /** Name in the certificate; empty when it got no further than the door. */
  readonly principal: string;
  readonly role: string;
  /** Name of the gRPC status code. */
  readonly code: string;
  readonly milliseconds: number;
  /** Sentence of the status; empty for OK. */
  readonly message: string;
  /** Where it came from. */
  readonly peer: string;
  /** What it is about. */
  readonly subjects: Subjects;
  /** Whether it belongs into the audit log: it changes something, or was refused for want of a right. */
  readonly audited: boolean;
}

/** What a node is told of what is not its own is what it is told of what never was, so that this is a refusal too. */
const refusals: readonly string[] = ['UNAUTHENTICATED', 'PERMISSION_DENIED'];

function isAudited(method: string, role: Role | undefined, code: string): boolean {
  return isChange(method) || refusals.includes(code) || (role === 'node' && code === 'NOT_FOUND');
}

/** Who wants to hear of calls. */
export interface CallObserver {
  callBegan(method: string): void;
  callEnded(call: EndedCall): void;
}

/** Metadata key of the request id, in requests and in trailers. */
export const REQUEST_ID_KEY = 'x-request-id';

// What a caller sends goes into logs and headers: nothing that could be mistaken for more than an id.
const acceptableRequestId = /^[A-Za-z0-9._:-]{1,64}$/;

function requestIdOf(metadata: Metadata): string {
  const given = metadata.get(REQUEST_ID_KEY)[0];
  return typeof given === 'string' && acceptableRequestId.test(given) ? given : randomUUID();
}

/** The outermost interceptor: gives the call its request id and tells the observer once how it ended. */
export function observe(observer: CallObserver): ServerInterceptor {
  return (method, call) => {
    let context: CallContext | undefined;
    let ended = false;
    const end = (code: string, message: string): void => {
      if (ended || context === undefined) return;
      ended = true;
      observer.callEnded({
        requestId: context.requestId,
        method: context.method,
        principal: context.principal?.name ?? '',
        role: context.principal?.role ?? '',
        code,
        milliseconds: performance.now() - context.startTime,
        message,
        peer: context.peer,
        subjects: context.subjects,
        audited: isAudited(context.method, context.principal?.role, code),
      });
    };
    return new ServerInterceptingCall(call, {
      start(next) {
        next({
          onReceiveMetadata(metadata, nextMetadata) {
            context = {
              requestId: requestIdOf(metadata),
              method: method.path,
              startTime: performance.now(),
              peer: call.getPeer(),
              subjects: {},
              principal: undefined,
            };
            setContext(metadata, context);
            observer.callBegan(method.path);
            nextMetadata(metadata);
          },
          onCancel() {
            // Comes after every call, and without a status before it when the caller or its deadline ended it, or when
            // grpc-js itself refused the message.
            const late = Number(call.getDeadline()) <= Date.now();
            end(late ? 'DEADLINE_EXCEEDED' : 'CANCELLED', '');
          },
        });
      },
      sendStatus(result, next) {
        const code = result.code ?? status.UNKNOWN;
        const metadata = result.metadata ?? new Trailers();
        if (context !== undefined) metadata.set(REQUEST_ID_KEY, context.requestId);
        next({ ...result, metadata });
        // After the answer: the caller does not wait for the log.
        end(status[code] ?? String(code), code === status.OK ? '' : (result.details ?? ''));
      },
    });
  };
}
