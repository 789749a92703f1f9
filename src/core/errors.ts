/** The codes that callers see; each is the gRPC status of the same name (docs/api.md, "Errors"). */
export type ErrorCode =
  | 'INVALID_ARGUMENT'
  | 'NOT_FOUND'
  | 'ALREADY_EXISTS'
  | 'FAILED_PRECONDITION'
  | 'RESOURCE_EXHAUSTED'
  | 'OUT_OF_RANGE'
  | 'ABORTED'
  | 'UNAVAILABLE'
  | 'DEADLINE_EXCEEDED'
  | 'UNIMPLEMENTED'
  | 'UNAUTHENTICATED'
  | 'PERMISSION_DENIED'
  | 'INTERNAL';

/** One field of a request that is wrong, and what would be right. */
export interface FieldViolation {
  /** The field as the API spells it, as "size_bytes". */
  readonly field: string;
  readonly description: string;
}

/** What an error says beside its sentence. */
export interface ErrorDetails {
  /** Stable word in capitals that programs can branch on, as "VOLUME_IN_USE" (google.rpc.ErrorInfo.reason). */
  readonly reason?: string;
  /** Facts about the error, as the id of the operation in the way (google.rpc.ErrorInfo.metadata). Never a secret. */
  readonly metadata?: Readonly<Record<string, string>>;
  readonly fieldViolations?: readonly FieldViolation[];
  /** When to try again, in milliseconds from now. */
  readonly retryAfterMilliseconds?: number;
  readonly cause?: unknown;
}

/** An error whose message and details are meant for the caller. Its cause is not: it goes to the log only. */
export class MoorageError extends Error {
  readonly code: ErrorCode;
  readonly reason: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly fieldViolations: readonly FieldViolation[];
  readonly retryAfterMilliseconds: number | undefined;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = 'MoorageError';
    this.code = code;
    this.reason = details.reason ?? code;
    this.metadata = details.metadata ?? {};
    this.fieldViolations = details.fieldViolations ?? [];
    this.retryAfterMilliseconds = details.retryAfterMilliseconds;
  }
}

/** A field of the request is wrong: names it and says what would be right. */
export function invalidField(field: string, description: string): MoorageError {
  return new MoorageError('INVALID_ARGUMENT', `${field}: ${description}`, {
    reason: 'INVALID_FIELD',
    fieldViolations: [{ field, description }],
  });
}

/** Nothing of that id ever existed (or not for this caller). */
export function notFound(kind: string, id: string): MoorageError {
  return new MoorageError('NOT_FOUND', `There is no ${kind} ${JSON.stringify(id)}.`, {
    reason: 'NOT_FOUND',
    metadata: { kind, id },
  });
}
