import { copyFileSync, linkSync, rmSync, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import Database from 'better-sqlite3';
import { StoreError } from '../../core/ports/store.js';
import type { PreparedWrite } from '../writes.js';
import { synchronise, writeCopy } from './backup.js';
import { corruptError, translateSqliteError } from './errors.js';
import { prepareFile } from './file.js';
import { APPLICATION_ID, CURRENT_VERSION, migrate } from './migrations.js';

/*
 * A copy of a store is a file of the embedded kind, whatever kind it was made of: it takes the place of an embedded store
 * as it is, and is read into another kind document by document.
 */

/** A document as it lies in a store. */
export interface CopiedDocument {
  readonly key: string;
  readonly rev: number;
  readonly entries: readonly (readonly [index: string, sort: string])[];
  /** JSON. */
  readonly value: string;
}

/**
 * Writes a copy of a store of another kind.
 * @param read hands over the documents as they were at one moment, some at a time; of several with one key the first counts.
 *   Gives the number of the last commit that is in them.
 * @param writes put on top.
 * @throws {StoreError} `unavailable`, `full`; what `read` throws
 */
export function writeCopyOf(
  path: string,
  read: (take: (documents: readonly CopiedDocument[]) => void) => Promise<number>,
  writes: readonly PreparedWrite[],
): Promise<{ readonly sizeBytes: number }> {
  return writeCopy(path, (partial) => fill(partial, read), writes);
}

async function fill(
  partial: string,
  read: (take: (documents: readonly CopiedDocument[]) => void) => Promise<number>,
): Promise<void> {
  const database = new Database(partial, { fileMustExist: true });
  try {
    // Until it has its name nobody needs it: what counts is that it is whole on the disk then.
    database.pragma('journal_mode = MEMORY');
    database.pragma('synchronous = OFF');
    migrate(database);
    const insert = database.prepare(
      'INSERT INTO documents (key, rev, entries, value) VALUES (?, ?, ?, ?) ON CONFLICT (key) DO NOTHING',
    );
    const insertEntry = database.prepare('INSERT INTO entries (index_name, sort, key, document) VALUES (?, ?, ?, ?)');
    const take = database.transaction((documents: readonly CopiedDocument[]) => {
      for (const { key, rev, entries, value } of documents) {
        const { changes, lastInsertRowid } = insert.run(key, rev, JSON.stringify(entries), value);
        if (changes > 0) for (const [index, sort] of entries) insertEntry.run(index, sort, key, lastInsertRowid);
      }
    });
    const last = await read(take);
    database.transaction(() => {
      database.exec(
        'INSERT INTO index_sizes (index_name, entries) SELECT index_name, count(*) FROM entries GROUP BY index_name',
      );
      database.prepare('UPDATE commits SET last = ?').run(last);
    })();
  } finally {
    database.close();
  }
}

/** A copy that is read. */
export interface OpenCopy {
  /** Number of its last commit. */
  readonly last: number;
  /** All of it, in the order in which it was committed. */
  documents(): Iterable<CopiedDocument>;
  close(): void;
}

/**
 * Opens a copy to read it.
 * @throws {StoreError} `unavailable` when there is none, `corrupt` when it is something else or damaged, `newer-version`
 */
export function openCopy(path: string): OpenCopy {
  if (statSync(path, { throwIfNoEntry: false })?.isFile() !== true) {
    throw new StoreError('unavailable', `there is no copy of a store at ${path}`);
  }
  let database: Database.Database | undefined;
  try {
    database = new Database(path, { readonly: true, fileMustExist: true });
    if (Number(database.pragma('application_id', { simple: true })) !== APPLICATION_ID) {
      throw corruptError(path, 'it is no store of Moorage');
    }
    const version = Number(database.pragma('user_version', { simple: true }));
    if (version !== CURRENT_VERSION) {
      const what =
        version > CURRENT_VERSION ? 'a newer Moorage: run that version' : 'an older Moorage: restore it with that';
      throw new StoreError('newer-version', `the copy ${path} was made by ${what}`);
    }
    const finding = database.prepare('PRAGMA quick_check(1)').pluck().get();
    if (finding !== 'ok') throw corruptError(path, String(finding).replaceAll('\n', ' '));
    return new Copy(database);
  } catch (error) {
    database?.close();
    throw translateSqliteError(error, path);
  }
}

class Copy implements OpenCopy {
  readonly last: number;
  readonly #database: Database.Database;

  constructor(database: Database.Database) {
    this.#database = database;
    this.last = Number(database.prepare('SELECT last FROM commits').pluck().get());
  }

  *documents(): Iterable<CopiedDocument> {
    const rows = this.#database
      .prepare<[], { key: string; rev: number; entries: string; value: string }>(
        'SELECT key, rev, entries, value FROM documents ORDER BY rev',
      )
      .iterate();
    for (const { key, rev, entries, value } of rows) {
      yield { key, rev, entries: JSON.parse(entries) as CopiedDocument['entries'], value };
    }
  }

  close(): void {
    this.#database.close();
  }
}

/**
 * Makes a store of a copy, in a place where there is none.
 * @throws {StoreError} as {@link openCopy}; `in-use` when a store is there; `full`
 */
export function restoreSqliteStore(path: string, copy: string): void {
  openCopy(copy).close();
  const wanted = resolve(path);
  for (const end of ['', '-wal']) {
    if (statSync(`${wanted}${end}`, { throwIfNoEntry: false }) === undefined) continue;
    throw new StoreError(
      'in-use',
      `there is a store at ${wanted} (${wanted}${end}): stop its controller, move its files elsewhere, and restore then`,
    );
  }
  const partial = `${wanted}.partial`;
  try {
    rmSync(partial, { force: true });
    // Makes and checks the folder, as for any store.
    const real = prepareFile(partial);
    copyFileSync(copy, real);
    synchronise(real);
    linkSync(real, wanted);
    rmSync(real);
    synchronise(dirname(wanted));
  } catch (error) {
    rmSync(partial, { force: true });
    if (error instanceof StoreError) throw error;
    const full = error instanceof Error && 'code' in error && error.code === 'ENOSPC';
    const reason = error instanceof Error ? error.message : String(error);
    throw new StoreError(full ? 'full' : 'unavailable', `the store ${wanted} cannot be restored: ${reason}`, {
      cause: error,
    });
  }
}
