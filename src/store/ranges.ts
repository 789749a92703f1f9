import type { ListRange } from '../core/ports/store.js';

/*
 * Where a page of an index begins and ends. A cursor names a position, not an entry or an offset, so it stays good while
 * entries come and go, the one it was taken from included.
 */

/** A position in an index: by `sort`, then by `key`, byte by byte in UTF-8. */
export interface Position {
  readonly sort: string;
  readonly key: string;
}

/** The entries between two positions. */
export interface Span {
  /** Entries behind this one, itself not included. Keys are never empty, so ("x", "") is before all entries at "x". */
  readonly behind: Position;
  /** Entries whose `sort` is before this; undefined: to the end. */
  readonly before: string | undefined;
  /** At most so many. */
  readonly limit: number;
}

const lastCodePoint = 0x10ffff;

/**
 * What a range asks for.
 * @throws {RangeError} when the limit is not a whole number above 0, or the cursor was not made by {@link encodeCursor}.
 */
export function spanOf(range: ListRange): Span {
  if (!Number.isSafeInteger(range.limit) || range.limit < 1) {
    throw new RangeError(`the limit of a list must be a whole number above 0, not ${range.limit}`);
  }
  const prefix = range.prefix ?? '';
  const first = later(prefix, range.from ?? '');
  const start: Position = { sort: first, key: '' };
  const cursor = range.after === undefined ? start : decodeCursor(range.after);
  return {
    // A cursor taken under another prefix, or from another position, may stand before this one.
    behind: compareBytes(cursor.sort, first) < 0 ? start : cursor,
    before: earlier(successorOfPrefix(prefix), range.before),
    limit: range.limit,
  };
}

/** The narrower of two lower bounds. */
function later(one: string, other: string): string {
  return compareBytes(one, other) < 0 ? other : one;
}

/** The narrower of two upper bounds; undefined bounds nothing. */
function earlier(one: string | undefined, other: string | undefined): string | undefined {
  if (one === undefined || other === undefined) return one ?? other;
  return compareBytes(one, other) < 0 ? one : other;
}

/** The cursor that goes on behind an entry. */
export function encodeCursor(position: Position): string {
  return Buffer.from(JSON.stringify([position.sort, position.key])).toString('base64url');
}

function decodeCursor(cursor: string): Position {
  try {
    const parsed: unknown = JSON.parse(Buffer.from(cursor, 'base64url').toString());
    if (Array.isArray(parsed) && parsed.length === 2) {
      const [sort, key]: unknown[] = parsed;
      if (typeof sort === 'string' && typeof key === 'string') return { sort, key };
    }
  } catch (error) {
    throw new RangeError('this cursor was not made by the store', { cause: error });
  }
  throw new RangeError('this cursor was not made by the store');
}

/**
 * The first text behind all that begin with `prefix`; undefined when there is none. UTF-8 keeps the order of code points, so
 * this is the prefix with its last code point one higher.
 */
export function successorOfPrefix(prefix: string): string | undefined {
  const codePoints = [...prefix];
  for (let last = codePoints.pop(); last !== undefined; last = codePoints.pop()) {
    const codePoint = last.codePointAt(0) ?? lastCodePoint;
    if (codePoint === lastCodePoint) continue;
    // 0xd800 to 0xdfff are no characters.
    const next = codePoint === 0xd7ff ? 0xe000 : codePoint + 1;
    return codePoints.join('') + String.fromCodePoint(next);
  }
  return undefined;
}

/** Order of two texts as the store keeps it: below, above or 0, by their bytes in UTF-8 (JavaScript compares UTF-16). */
export function compareBytes(left: string, right: string): number {
  return left === right ? 0 : Buffer.compare(Buffer.from(left), Buffer.from(right));
}
