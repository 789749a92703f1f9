import { Metadata, type ServiceError, status } from '@grpc/grpc-js';
import { BadRequest, ErrorInfo, RetryInfo } from 'nice-grpc-error-details';
import { Status } from 'nice-grpc-error-details/lib/proto/google/rpc/status.js';

/** Name of a gRPC status code. */
export type StatusName = Exclude<keyof typeof status, 'OK'>;

/** What a call failed with. */
export class MoorageCallError extends Error {
  /** As "CreateVolume". */
  readonly method: string;
  readonly code: StatusName;
  /** Stable word that programs can branch on, as "VOLUME_IN_USE"; the code where the server gave none. */
  readonly reason: string;
  /** Facts about the error, as the id of the operation in the way. */
  readonly metadata: Readonly<Record<string, string>>;
  /** The fields of the request that are wrong. */
  readonly fieldViolations: readonly { readonly field: string; readonly description: string }[];
  /** When the server wants it tried again, in milliseconds from the answer. */
  readonly retryAfterMilliseconds: number | undefined;
  /** By which the call is found in the controller's log; empty when it did not get there. */
  readonly requestId: string;

  /** @param violations fields that this side refuses, where the server was not asked */
  constructor(method: string, error: ServiceError, violations?: MoorageCallError['fieldViolations']) {
    super(error.details || error.message, { cause: error });
    this.name = 'MoorageCallError';
    this.method = method;
    this.code = (status[error.code] ?? 'UNKNOWN') as StatusName;
    const details = readDetails(error.metadata);
    this.reason = details.reason ?? this.code;
    this.metadata = details.metadata;
    this.fieldViolations = violations ?? details.fieldViolations;
    this.retryAfterMilliseconds = details.retryAfterMilliseconds;
    this.requestId = String(error.metadata?.get('x-request-id')[0] ?? '');
  }
}

/** What a call fails with that is not even sent: a field that no message can carry as it is. */
export function invalidField(method: string, field: string, description: string): MoorageCallError {
  const details = `${field}: ${description}`;
  const error = { code: status.INVALID_ARGUMENT, details, metadata: new Metadata() };
  return new MoorageCallError(method, Object.assign(new Error(details), error), [{ field, description }]);
}

interface Details {
  reason?: string;
  metadata: Record<string, string>;
  fieldViolations: { field: string; description: string }[];
  retryAfterMilliseconds?: number;
}

function readDetails(trailers: Metadata | undefined): Details {
  const result: Details = { metadata: {}, fieldViolations: [] };
  const bytes = trailers?.get('grpc-status-details-bin')[0];
  if (!Buffer.isBuffer(bytes)) return result;
  try {
    for (const { typeUrl, value } of Status.decode(bytes).details) {
      switch (typeUrl.slice(typeUrl.lastIndexOf('/') + 1)) {
        case 'google.rpc.ErrorInfo': {
          const info = ErrorInfo.decode(value);
          result.reason = info.reason;
          result.metadata = info.metadata;
          break;
        }
        case 'google.rpc.BadRequest':
          result.fieldViolations = BadRequest.decode(value).fieldViolations.map(({ field, description }) => ({
            field,
            description,
          }));
          break;
        case 'google.rpc.RetryInfo': {
          const delay = RetryInfo.decode(value).retryDelay;
          if (delay !== undefined) result.retryAfterMilliseconds = delay.seconds * 1000 + delay.nanos / 1_000_000;
          break;
        }
      }
    }
  } catch {
    // Details that cannot be read say less; the code and the sentence are there all the same.
  }
  return result;
}
