import type {
  CommitOutcome,
  Expectation,
  IndexEntry,
  Store,
  StoredDocument,
  Write,
} from '../../src/core/ports/store.js';

/** A put with what most tests need. */
export function put(
  key: string,
  value: unknown,
  options: { expect?: Expectation; indexes?: readonly IndexEntry[] } = {},
): Write {
  return { kind: 'put', key, value, expect: options.expect ?? 'any', indexes: options.indexes ?? [] };
}

export function remove(key: string, expect: Expectation = 'any'): Write {
  return { kind: 'delete', key, expect };
}

export function check(key: string, expect: Expectation): Write {
  return { kind: 'check', key, expect };
}

/** Commits, and answers the revision; a conflict fails the test. */
export async function commit(store: Store, ...writes: readonly Write[]): Promise<number> {
  const outcome = await store.commit(writes);
  if (!outcome.ok) throw new Error(`conflict: ${JSON.stringify(outcome.conflicts)}`);
  return outcome.rev;
}

/** The conflicts of a commit; undefined when it passed. */
export function conflictsOf(outcome: CommitOutcome) {
  return outcome.ok ? undefined : outcome.conflicts;
}

/** A whole index, read in pages. */
export async function listAll(
  store: Store,
  index: string,
  options: { prefix?: string; pageSize?: number } = {},
): Promise<StoredDocument[]> {
  const documents: StoredDocument[] = [];
  let after: string | undefined;
  do {
    const page = await store.list(index, {
      limit: options.pageSize ?? 1000,
      ...(options.prefix === undefined ? {} : { prefix: options.prefix }),
      ...(after === undefined ? {} : { after }),
    });
    documents.push(...page.documents);
    after = page.cursor;
  } while (after !== undefined);
  return documents;
}

export async function keysOf(store: Store, index: string, options: { prefix?: string; pageSize?: number } = {}) {
  return (await listAll(store, index, options)).map(({ key }) => key);
}

/** What a promise was rejected with; the test fails when it was not. */
export async function rejection(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error('this should have been refused');
}
