import type { CommitOutcome, StoredDocument } from '../../core/ports/store.js';
import { StoreError } from '../../core/ports/store.js';
import type { Position } from '../ranges.js';
import type { PreparedWrite } from '../writes.js';

/* Between the port's terms and those of the scripts (scripts.ts says how things lie in Redis). */

const NUL = Buffer.from([0]);

/** A sort as the members of an index begin with it. */
function sortBytes(sort: string): Buffer {
  return Buffer.from(Buffer.from(sort).toString('latin1').replaceAll('\0', '\0\xff'), 'latin1');
}

/** The lower bound of a range: behind a position. */
export function boundBehind({ sort, key }: Position): Buffer {
  return Buffer.concat([Buffer.from('('), sortBytes(sort), NUL, Buffer.from(key)]);
}

/** The upper bound of a range: before all entries with this sort. */
export function boundBefore(sort: string | undefined): Buffer {
  return sort === undefined ? Buffer.from('+') : Buffer.concat([Buffer.from('('), sortBytes(sort)]);
}

/** The arguments of a commit behind those that say what and when. */
export function writeArguments(writes: readonly PreparedWrite[]): readonly string[] {
  return writes.flatMap((write) => {
    const { kind, key, expect } = write;
    if (kind !== 'put') return [kind, key, String(expect)];
    const entries = write.indexes.map(({ index, sort }) => (typeof sort === 'string' ? [index, sort] : [index]));
    const named = entries.some(({ length }) => length === 1) ? 'put-at-revision' : 'put';
    return [named, key, String(expect), JSON.stringify(entries), write.value];
  });
}

/** Of all keys that begin with this, as SCAN takes it. */
export function keyPattern(beginning: string): string {
  return `${beginning.replaceAll(/[\\*?[\]]/g, '\\$&')}*`;
}

/** What the commit script answered; undefined: it was written for another primary's time. */
export function parseOutcome(answer: readonly string[]): CommitOutcome | undefined {
  const [what, ...rest] = answer;
  if (what === 'ok') return { ok: true, rev: Number(rest[0]) };
  if (what !== 'conflict') return undefined;
  const conflicts = Array.from({ length: rest.length / 2 }, (_, n) => {
    const rev = rest[2 * n + 1] ?? '';
    return { key: rest[2 * n] ?? '', rev: rev === '' ? undefined : Number(rev) };
  });
  return { ok: false, conflicts };
}

/**
 * A document as it lies in Redis.
 * @throws {StoreError} `corrupt` when it is none.
 */
export function parseDocument<T>(key: string, text: string): StoredDocument<T> {
  const { rev, value } = split(key, text);
  return { key, rev, value: parseJson(key, value) as T };
}

/** The same, with its entries, and its value as text. @throws {StoreError} `corrupt` */
export function parseStored(
  key: string,
  text: string,
): { readonly rev: number; readonly entries: readonly (readonly [string, string?])[]; readonly value: string } {
  const { rev, entries, value } = split(key, text);
  parseJson(key, value);
  return { rev, value, entries: parseJson(key, entries) as (readonly [string, string?])[] };
}

function split(key: string, text: string): { readonly rev: number; readonly entries: string; readonly value: string } {
  const first = text.indexOf('\n');
  const second = text.indexOf('\n', first + 1);
  const rev = Number(text.slice(0, first));
  if (second <= first || first <= 0 || !Number.isSafeInteger(rev)) throw corrupt(key);
  return { rev, entries: text.slice(first + 1, second), value: text.slice(second + 1) };
}

function parseJson(key: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw corrupt(key, error);
  }
}

function corrupt(key: string, cause?: unknown): StoreError {
  return new StoreError(
    'corrupt',
    `the document "${key}" in Redis is damaged. Keep the data and restore the last backup (docs/operations/redis.md)`,
    { cause },
  );
}
