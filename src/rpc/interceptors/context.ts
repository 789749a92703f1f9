import type { Metadata, ServerInterceptor } from '@grpc/grpc-js';
import type { Role } from '../../core/services/types.js';
import type { Subjects } from '../subjects.js';

/** Who calls. */
export interface Principal {
  readonly name: string;
  readonly role: Role;
  /** As Caller has it. */
  readonly certificateKeyId?: string;
  /** When the certificate expires, in milliseconds since the epoch. */
  readonly certificateEnd?: number;
}

/** What the interceptors learn about a call, for each other and for the handlers. */
export interface CallContext {
  readonly requestId: string;
  /** Full path, as "/moorage.v1.PoolService/GetPool". */
  readonly method: string;
  /** performance.now() when the call came in. */
  readonly startTime: number;
  /** Where the call came from, as the transport has it: "192.0.2.7:41234", or the name of a unix socket. */
  readonly peer: string;
  /** What the call is about, for the audit log. */
  subjects: Subjects;
  principal: Principal | undefined;
}

// grpc-js hands one metadata object through all interceptors to the handler: it is what a call can be known by.
const contexts = new WeakMap<Metadata, CallContext>();

/** Begins the context of a call. */
export function setContext(metadata: Metadata, context: CallContext): void {
  contexts.set(metadata, context);
}

/** The context of a call. @throws Error when the first interceptor did not run */
export function contextOf(metadata: Metadata): CallContext {
  const context = contexts.get(metadata);
  if (context === undefined) throw new Error('A call has no context: its interceptors are missing.');
  return context;
}

export type { ServerInterceptor };
