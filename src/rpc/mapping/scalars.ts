import { invalidField, MoorageError } from '../../core/errors.js';
import type { Duration__Output } from '../../generated/google/protobuf/Duration.js';
import type { Timestamp } from '../../generated/google/protobuf/Timestamp.js';

/**
 * Reads an int64, which the loader gives as decimal text.
 * @throws MoorageError OUT_OF_RANGE that names the field, for what a JavaScript number cannot hold exactly
 */
export function fromInt64(field: string, text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value)) {
    const description = `${text} is out of range: it must lie between ±${Number.MAX_SAFE_INTEGER}`;
    throw new MoorageError('OUT_OF_RANGE', `${field}: ${description}.`, {
      reason: 'NUMBER_OUT_OF_RANGE',
      fieldViolations: [{ field, description }],
    });
  }
  return value;
}

/** Milliseconds since the epoch as the API writes them; unset stays unset. */
export function toTimestamp(milliseconds: number | undefined): Timestamp | null {
  if (milliseconds === undefined) return null;
  const seconds = Math.floor(milliseconds / 1000);
  return { seconds, nanos: Math.round((milliseconds - seconds * 1000) * 1_000_000) };
}

// google.protobuf.Duration: ±10,000 years.
const LONGEST_DURATION_SECONDS = 315_576_000_000;

/**
 * Reads a duration in milliseconds; undefined when it is unset.
 * @throws MoorageError INVALID_ARGUMENT that names the field, for one that is not above zero
 */
export function fromDuration(field: string, duration: Duration__Output | null | undefined): number | undefined {
  if (duration === null || duration === undefined) return undefined;
  const seconds = fromInt64(field, duration.seconds);
  const milliseconds = seconds * 1000 + duration.nanos / 1_000_000;
  if (Math.abs(duration.nanos) > 999_999_999 || Math.abs(seconds) > LONGEST_DURATION_SECONDS) {
    throw invalidField(field, 'is not a duration: nanos lie between 0 and 999999999, and it has at most 10,000 years');
  }
  if (milliseconds <= 0) throw invalidField(field, 'must be longer than nothing; leave it unset for the default');
  return Math.max(1, Math.round(milliseconds));
}
