import { type Metadata, type ServiceError, status } from '@grpc/grpc-js';
import { ErrorInfo } from 'nice-grpc-error-details';
import { Status } from 'nice-grpc-error-details/lib/proto/google/rpc/status.js';
import { BackendError, type BackendFailure } from '../core/ports/backend.js';

/** Codes with which an agent refuses for good, as the comments of the protocol say. */
const PERMANENT: ReadonlySet<number> = new Set([
  status.FAILED_PRECONDITION,
  status.NOT_FOUND,
  status.OUT_OF_RANGE,
  status.INVALID_ARGUMENT,
  // An agent that does not know the method will not learn it; nothing was done.
  status.UNIMPLEMENTED,
]);

/** Reasons with which an agent says that it did not begin and that another try may go well. */
const NOT_BEGUN: ReadonlySet<string> = new Set([
  'LANE_FULL',
  // It came too late to begin.
  'NOT_BEGUN',
  'NO_HELLO',
  'FENCED',
  // The connection that a step was to use is gone, with nothing done on it: another has to be opened.
  'UNKNOWN_CONNECTION',
]);

/** Translates the status of a call that was sent into the failure of a step. The only place where this is decided. */
export function stepFailure(error: ServiceError): BackendError {
  const info = errorInfo(error.metadata);
  return new BackendError(kindOf(error.code, info?.reason), status[error.code] ?? 'UNKNOWN', error.details, {
    cause: error,
    ...(info === undefined ? {} : { reason: info.reason, metadata: info.metadata }),
  });
}

function kindOf(code: number, reason: string | undefined): BackendFailure {
  if (reason !== undefined && NOT_BEGUN.has(reason)) return 'not-begun';
  // gRPC itself gives RESOURCE_EXHAUSTED too (a message that is too long, a connection that pushes back), after which
  // the outcome is open: only the agent's own word counts.
  if (code === status.RESOURCE_EXHAUSTED) return reason === undefined ? 'unknown' : 'permanent';
  return PERMANENT.has(code) ? 'permanent' : 'unknown';
}

/** Nothing was sent: no agent was there in time, or nobody waits any more. */
export function notBegun(message: string, reason: string, cause?: unknown): BackendError {
  return new BackendError('not-begun', 'UNAVAILABLE', message, { reason, cause });
}

/** The agent answered what the protocol does not allow: what it did is not known. */
export function malformedAnswer(method: string, what: string): BackendError {
  return new BackendError('unknown', 'INTERNAL', `The agent's answer to ${method} ${what}.`, {
    reason: 'MALFORMED_ANSWER',
  });
}

function errorInfo(metadata: Metadata | undefined): { reason: string; metadata: Record<string, string> } | undefined {
  const packed = metadata?.get('grpc-status-details-bin')[0];
  if (!(packed instanceof Uint8Array)) return undefined;
  try {
    const detail = Status.decode(packed).details.find((each) => each.typeUrl.endsWith(`/${ErrorInfo.$type}`));
    return detail === undefined ? undefined : ErrorInfo.decode(detail.value);
  } catch {
    // Details that cannot be read say nothing; the status still counts.
    return undefined;
  }
}
