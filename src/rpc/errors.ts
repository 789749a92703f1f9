import { Metadata, type StatusObject, status } from '@grpc/grpc-js';
import { BadRequest, ErrorInfo, RetryInfo } from 'nice-grpc-error-details';
import { Any } from 'nice-grpc-error-details/lib/proto/google/protobuf/any.js';
import { Status } from 'nice-grpc-error-details/lib/proto/google/rpc/status.js';
import { MoorageError } from '../core/errors.js';
import { StoreError } from '../core/ports/store.js';

/** google.rpc.ErrorInfo.domain of every error of Moorage. */
export const ERROR_DOMAIN = 'moorage';

/** Metadata key of the serialised google.rpc.Status. */
export const DETAILS_KEY = 'grpc-status-details-bin';

// Trailers are HTTP/2 headers, which clients take 8 KiB of by default.
const LONGEST_MESSAGE = 1024;
const LONGEST_VALUE = 256;
const MOST_VIOLATIONS = 8;

/** What a caller is told of an error, and whether the log should have all of it. */
export interface TranslatedError {
  readonly status: StatusObject;
  /** An error that is no answer of the core's: a fault of ours, or of what lies under us. */
  readonly unexpected: boolean;
}

function storeTrouble({ kind }: StoreError): { readonly advice: string; readonly reason: string } {
  if (kind === 'full') return { advice: 'The store of the controller is full.', reason: 'STORE_UNAVAILABLE' };
  if (kind === 'lost-commits') {
    return {
      advice:
        'The store of the controller lacks changes that it had acknowledged, and is not used: an operator must see to it.',
      reason: 'STORE_LOST_COMMITS',
    };
  }
  return { advice: 'The store of the controller does not answer now.', reason: 'STORE_UNAVAILABLE' };
}

/**
 * Makes the gRPC status of an error. What is not a MoorageError says nothing about itself but the request id, by which it
 * is found in the log.
 */
export function translateError(error: unknown, requestId: string): TranslatedError {
  if (error instanceof MoorageError) {
    return { status: statusOf(error), unexpected: error.code === 'INTERNAL' };
  }
  if (error instanceof StoreError) {
    const { advice, reason } = storeTrouble(error);
    return {
      status: statusOf(
        new MoorageError('UNAVAILABLE', `${advice} Try again with the same client token. (Request ${requestId}.)`, {
          reason,
          metadata: { request_id: requestId },
          retryAfterMilliseconds: 1000,
        }),
      ),
      unexpected: true,
    };
  }
  return {
    status: statusOf(
      new MoorageError(
        'INTERNAL',
        `Something went wrong in the controller; its log has the details under request ${requestId}.`,
        { reason: 'INTERNAL', metadata: { request_id: requestId } },
      ),
    ),
    unexpected: true,
  };
}

/** The gRPC status of an error that is meant for the caller, with its google.rpc details. */
export function statusOf(error: MoorageError): StatusObject {
  const code = status[error.code];
  const message = clip(error.message, LONGEST_MESSAGE);
  const details: Any[] = [
    pack(
      'google.rpc.ErrorInfo',
      ErrorInfo.encode(
        ErrorInfo.fromPartial({
          reason: error.reason,
          domain: ERROR_DOMAIN,
          metadata: Object.fromEntries(
            Object.entries(error.metadata).map(([key, value]) => [key, clip(value, LONGEST_VALUE)]),
          ),
        }),
      ).finish(),
    ),
  ];
  if (error.fieldViolations.length > 0) {
    const fieldViolations = error.fieldViolations.slice(0, MOST_VIOLATIONS).map(({ field, description }) => ({
      field: clip(field, LONGEST_VALUE),
      description: clip(description, LONGEST_VALUE),
    }));
    details.push(
      pack('google.rpc.BadRequest', BadRequest.encode(BadRequest.fromPartial({ fieldViolations })).finish()),
    );
  }
  if (error.retryAfterMilliseconds !== undefined) {
    const milliseconds = Math.max(0, Math.round(error.retryAfterMilliseconds));
    const retryDelay = { seconds: Math.floor(milliseconds / 1000), nanos: (milliseconds % 1000) * 1_000_000 };
    details.push(pack('google.rpc.RetryInfo', RetryInfo.encode(RetryInfo.fromPartial({ retryDelay })).finish()));
  }
  const metadata = new Metadata();
  metadata.set(DETAILS_KEY, Buffer.from(Status.encode(Status.fromPartial({ code, message, details })).finish()));
  return { code, details: message, metadata };
}

function pack(type: string, value: Uint8Array): Any {
  return Any.fromPartial({ typeUrl: `type.googleapis.com/${type}`, value });
}

/** Cuts a text to a length. Half a surrogate pair, cut or given, would make grpc-js throw where nothing catches it. */
function clip(text: string, longest: number): string {
  const cut = text.length > longest ? `${text.slice(0, longest - 1)}…` : text;
  return cut.replace(/\p{Surrogate}/gu, '\ufffd');
}
