import { Metadata, type StatusObject, status } from '@grpc/grpc-js';
import { BadRequest, ErrorInfo } from 'nice-grpc-error-details';
import { Any } from 'nice-grpc-error-details/lib/proto/google/protobuf/any.js';
import { Status } from 'nice-grpc-error-details/lib/proto/google/rpc/status.js';
import { CephError } from './librbd/errors.js';

const DOMAIN = 'moorage.backend';

/** A step that is refused or failed, with the status that the protocol gives it. */
export class StepError extends Error {
  override readonly name = 'StepError';
  readonly code: status;
  /** Reason of the ErrorInfo: an errno name, or a word in capitals, as LANE_FULL. */
  readonly reason: string;
  readonly metadata: Readonly<Record<string, string>>;

  constructor(
    code: status,
    reason: string,
    message: string,
    details: { readonly metadata?: Readonly<Record<string, string>>; readonly cause?: unknown } = {},
  ) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.reason = reason;
    this.metadata = details.metadata ?? {};
  }
}

/** A field of the request that is wrong. @param field as the proto names it, "image.backend_id" */
export function invalidField(field: string, wanted: string): StepError {
  return new StepError(status.INVALID_ARGUMENT, 'INVALID_FIELD', `${field}: ${wanted}`, {
    metadata: { field },
  });
}

/** It was refused, and will be again. */
export function refused(reason: string, message: string, metadata: Readonly<Record<string, string>> = {}): StepError {
  return new StepError(status.FAILED_PRECONDITION, reason, message, { metadata });
}

/** What is asked for is not there. */
export function notFound(message: string): StepError {
  return new StepError(status.NOT_FOUND, 'ENOENT', message);
}

/**
 * What each errno means to the controller. Permanent: NOT_FOUND, FAILED_PRECONDITION, RESOURCE_EXHAUSTED, OUT_OF_RANGE,
 * INVALID_ARGUMENT. Everything else, and what is not listed (INTERNAL): the outcome is unknown.
 */
const STATUS_OF_ERRNO: Readonly<Record<string, status>> = {
  ENOENT: status.NOT_FOUND,
  EEXIST: status.FAILED_PRECONDITION,
  ENOTEMPTY: status.FAILED_PRECONDITION,
  EOPNOTSUPP: status.FAILED_PRECONDITION,
  ENOSPC: status.RESOURCE_EXHAUSTED,
  EDQUOT: status.RESOURCE_EXHAUSTED,
  EFBIG: status.OUT_OF_RANGE,
  EINVAL: status.INVALID_ARGUMENT,
  ENAMETOOLONG: status.INVALID_ARGUMENT,
  // Somebody else is at it, or asks us to try again.
  EBUSY: status.ABORTED,
  EAGAIN: status.ABORTED,
  ECANCELED: status.ABORTED,
  ERESTART: status.ABORTED,
  ETIMEDOUT: status.DEADLINE_EXCEEDED,
  // The lock is gone, or the client is cut off: what it had sent may have been done.
  EPERM: status.UNAVAILABLE,
  EACCES: status.UNAVAILABLE,
  EROFS: status.UNAVAILABLE,
  ESHUTDOWN: status.UNAVAILABLE,
  ENOTCONN: status.UNAVAILABLE,
};

/** The one place where an error of a step gets its status. */
export function toStepError(error: unknown): StepError {
  if (error instanceof StepError) return error;
  const ceph = findCephError(error);
  if (ceph) {
    const code = STATUS_OF_ERRNO[ceph.errnoName] ?? status.INTERNAL;
    const why = ceph.cause instanceof Error ? `: ${ceph.cause.message}` : '';
    return new StepError(code, ceph.errnoName, `${ceph.message}${why}`, {
      metadata: { call: ceph.call, ...(ceph.subject === undefined ? {} : { subject: ceph.subject }) },
      cause: error,
    });
  }
  return new StepError(status.INTERNAL, 'INTERNAL', error instanceof Error ? error.message : 'unknown failure', {
    cause: error,
  });
}

function findCephError(error: unknown): CephError | undefined {
  if (error instanceof CephError) return error;
  if (error instanceof AggregateError) return error.errors.map(findCephError).find((each) => each !== undefined);
  return undefined;
}

/** A StepError as grpc-js sends it: google.rpc.Status with an ErrorInfo in grpc-status-details-bin. Never a stack trace. */
export function toGrpcStatus(error: StepError): Partial<StatusObject> {
  const details = [
    Any.fromPartial({
      typeUrl: `type.googleapis.com/${ErrorInfo.$type}`,
      value: ErrorInfo.encode(
        ErrorInfo.fromPartial({ reason: error.reason, domain: DOMAIN, metadata: { ...error.metadata } }),
      ).finish(),
    }),
  ];
  if (error.metadata.field !== undefined) {
    const violation = { field: error.metadata.field, description: error.message };
    details.push(
      Any.fromPartial({
        typeUrl: `type.googleapis.com/${BadRequest.$type}`,
        value: BadRequest.encode(BadRequest.fromPartial({ fieldViolations: [violation] })).finish(),
      }),
    );
  }
  const metadata = new Metadata();
  const encoded = Status.encode(Status.fromPartial({ code: error.code, message: error.message, details })).finish();
  metadata.set('grpc-status-details-bin', Buffer.from(encoded));
  return { code: error.code, details: error.message, metadata };
}
