import type Database from 'better-sqlite3';
import {
  type CommitOutcome,
  type ListPage,
  type ListRange,
  type Store,
  type StoredDocument,
  StoreError,
  type Write,
} from '../../core/ports/store.js';
import { encodeCursor, spanOf } from '../ranges.js';
import { prepareWrites } from '../writes.js';
import { writeBackup } from './backup.js';
import { corruptError, translateSqliteError } from './errors.js';
import { GroupCommit } from './group-commit.js';
import { type OpenDatabase, openDatabase } from './open.js';
import { DocumentWriter } from './writer.js';

/** Where the store lies. */
export interface SqliteStoreOptions {
  /** Its file; made, with its directory, when there is none. Its log lies beside it (`-wal`). */
  readonly path: string;
}

/**
 * Opens the store that is one SQLite file, for this process alone.
 * @throws {StoreError} `in-use`, `newer-version`, `corrupt`, `full`, `unavailable`.
 */
export async function openSqliteStore(options: SqliteStoreOptions): Promise<Store> {
  return new SqliteStore(openDatabase(options.path));
}

interface DocumentRow {
  readonly key: string;
  readonly rev: number;
  readonly value: string;
}

interface EntryRow extends DocumentRow {
  readonly sort: string;
}

/**
 * A page of an index. CROSS JOIN keeps the entries as the outer loop whatever SQLite knows of the tables, so that a page
 * costs its own length and not the index's.
 */
const listStatement = (upperBound: string) => `
  SELECT e.sort AS sort, e.key AS key, d.rev AS rev, d.value AS value
  FROM entries AS e CROSS JOIN documents AS d ON d.id = e.document
  WHERE e.index_name = ? AND (e.sort, e.key) > (?, ?) ${upperBound}
  ORDER BY e.sort, e.key LIMIT ?`;

/*
 * SQLite answers in microseconds, but for the fsync of a commit, so it is called where it stands: a thread of its own would
 * add more to each read than the read takes. A read sees every commit that has resolved and none that has not been made.
 */
class SqliteStore implements Store {
  readonly #database: Database.Database;
  readonly #path: string;
  readonly #commits: GroupCommit;
  readonly #get: Database.Statement<[string], DocumentRow>;
  readonly #listToEnd: Database.Statement<[string, string, string, number], EntryRow>;
  readonly #listToBound: Database.Statement<[string, string, string, string, number], EntryRow>;
  readonly #count: Database.Statement<[string], { entries: number }>;
  #closed = false;

  constructor({ database, path }: OpenDatabase) {
    this.#database = database;
    this.#path = path;
    this.#commits = new GroupCommit(database, new DocumentWriter(database), path);
    this.#get = database.prepare('SELECT key, rev, value FROM documents WHERE key = ?');
    this.#listToEnd = database.prepare(listStatement(''));
    this.#listToBound = database.prepare(listStatement('AND e.sort < ?'));
    this.#count = database.prepare('SELECT entries FROM index_sizes WHERE index_name = ?');
  }

  async get<T = unknown>(key: string): Promise<StoredDocument<T> | undefined> {
    const row = this.#read(() => this.#get.get(key));
    return row === undefined ? undefined : this.#document<T>(row);
  }

  async getMany<T = unknown>(keys: readonly string[]): Promise<readonly (StoredDocument<T> | undefined)[]> {
    const rows = this.#read(() => keys.map((key) => this.#get.get(key)));
    return rows.map((row) => (row === undefined ? undefined : this.#document<T>(row)));
  }

  async list<T = unknown>(index: string, range: ListRange): Promise<ListPage<T>> {
    const { behind, before, limit } = spanOf(range);
    // One more than asked for tells whether there is more.
    const rows = this.#read(() =>
      before === undefined
        ? this.#listToEnd.all(index, behind.sort, behind.key, limit + 1)
        : this.#listToBound.all(index, behind.sort, behind.key, before, limit + 1),
    );
    const page = rows.slice(0, limit);
    const last = page.at(-1);
    return {
      documents: page.map((row) => this.#document<T>(row)),
      cursor: rows.length > limit && last !== undefined ? encodeCursor(last) : undefined,
    };
  }

  async count(index: string): Promise<number> {
    return this.#read(() => this.#count.get(index))?.entries ?? 0;
  }

  async commit(writes: readonly Write[]): Promise<CommitOutcome> {
    this.#checkUsable();
    return this.#commits.commit(prepareWrites(writes));
  }

  async backup(path: string, writes: readonly Write[]): Promise<{ readonly sizeBytes: number }> {
    this.#checkUsable();
    return writeBackup(this.#database, path, prepareWrites(writes));
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#commits.flush();
    this.#closed = true;
    try {
      this.#database.close();
    } catch (error) {
      throw translateSqliteError(error, this.#path);
    }
  }

  #read<R>(read: () => R): R {
    this.#checkUsable();
    try {
      return read();
    } catch (error) {
      throw translateSqliteError(error, this.#path);
    }
  }

  #checkUsable(): void {
    if (this.#closed) throw new StoreError('unavailable', `the store ${this.#path} is closed`);
    if (this.#commits.failure !== undefined) throw this.#commits.failure;
  }

  #document<T>(row: DocumentRow): StoredDocument<T> {
    try {
      return { key: row.key, rev: row.rev, value: JSON.parse(row.value) as T };
    } catch (error) {
      throw corruptError(this.#path, `the document "${row.key}" is not JSON`, error);
    }
  }
}
