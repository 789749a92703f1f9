import { type Expectation, type IndexEntry, sortableRevision, type Write } from '../core/ports/store.js';

/*
 * A commit's writes as a store carries them out: checked, and turned into text at once, so that what a caller changes after
 * its call changes nothing. The same for every store, so that all refuse the same things.
 */

/** One write, ready to be carried out. */
export type PreparedWrite =
  | {
      readonly kind: 'put';
      readonly key: string;
      readonly expect: Expectation;
      /** The document as JSON. */
      readonly value: string;
      /** Its entries, each once; {@link positionOf} says where those stand that ask for the commit's revision. */
      readonly indexes: readonly IndexEntry[];
    }
  | { readonly kind: 'delete' | 'check'; readonly key: string; readonly expect: Expectation };

/** Half of a surrogate pair has no UTF-8: two different keys would become the same bytes. */
const loneSurrogate = /\p{Surrogate}/u;

/**
 * Checks writes and serialises their documents.
 * @throws {TypeError} for what no caller may ask for: an empty key, text without a UTF-8 form, a value that is not JSON, two
 *   changes of one document in one commit (a check beside a change is well: both are held against what was there before).
 */
export function prepareWrites(writes: readonly Write[]): readonly PreparedWrite[] {
  const changed = new Set<string>();
  return writes.map((write) => {
    checkText('key', write.key);
    if (write.key === '') throw new TypeError('a document needs a key that is not empty');
    checkExpectation(write.key, write.expect);
    if (write.kind === 'check') return { kind: 'check', key: write.key, expect: write.expect };
    if (changed.has(write.key)) throw new TypeError(`one commit changes the document "${write.key}" twice`);
    changed.add(write.key);
    if (write.kind === 'delete') return { kind: 'delete', key: write.key, expect: write.expect };
    return {
      kind: 'put',
      key: write.key,
      expect: write.expect,
      value: serialise(write.key, write.value),
      indexes: distinctEntries(write.indexes),
    };
  });
}

/** Where an entry stands when the commit with this revision writes it. */
export function positionOf({ sort }: IndexEntry, rev: number): string {
  return typeof sort === 'string' ? sort : sortableRevision(rev);
}

/** Whether a document at `rev` (undefined: there is none) is what a write expects. */
export function meetsExpectation(expect: Expectation, rev: number | undefined): boolean {
  if (expect === 'any') return true;
  return expect === 'absent' ? rev === undefined : rev === expect;
}

function checkText(what: string, text: string): void {
  if (loneSurrogate.test(text)) throw new TypeError(`a ${what} must be well-formed Unicode: ${JSON.stringify(text)}`);
}

function checkExpectation(key: string, expect: Expectation): void {
  if (typeof expect !== 'number' || (Number.isSafeInteger(expect) && expect > 0)) return;
  throw new TypeError(`the revision expected of "${key}" must be a whole number above 0, not ${expect}`);
}

function serialise(key: string, value: unknown): string {
  // Typed as string, but undefined and functions give undefined.
  const text: string | undefined = JSON.stringify(value);
  if (text === undefined) throw new TypeError(`the value of "${key}" is not JSON`);
  return text;
}

function distinctEntries(indexes: readonly IndexEntry[]): readonly IndexEntry[] {
  const distinct = new Map<string, IndexEntry>();
  for (const { index, sort } of indexes) {
    checkText('name of an index', index);
    if (typeof sort === 'string') checkText('position in an index', sort);
    distinct.set(JSON.stringify([index, sort]), { index, sort });
  }
  return [...distinct.values()];
}
