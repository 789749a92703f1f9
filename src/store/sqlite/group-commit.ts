import Database from 'better-sqlite3';
import { type CommitOutcome, StoreError } from '../../core/ports/store.js';
import type { PreparedWrite } from '../writes.js';
import { translateSqliteError } from './errors.js';
import type { DocumentWriter } from './writer.js';

/** Most commits in one transaction: bounds how long one turn of the event loop takes. */
const MAXIMUM_GROUP = 256;

interface Waiting {
  readonly writes: readonly PreparedWrite[];
  readonly resolve: (outcome: CommitOutcome) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Gathers the commits of one turn of the event loop into one transaction, because what a commit costs is its fsync. Each
 * still passes or fails alone, and each sees those that were asked for before it.
 */
export class GroupCommit {
  readonly #database: Database.Database;
  readonly #writer: DocumentWriter;
  readonly #path: string;
  #waiting: Waiting[] = [];
  #scheduled = false;
  #failure: StoreError | undefined;

  constructor(database: Database.Database, writer: DocumentWriter, path: string) {
    this.#database = database;
    this.#writer = writer;
    this.#path = path;
  }

  /**
   * Set once the outcome of a commit was not known. From then on nothing is read or written here: what this process sees
   * and what a restart would find may differ.
   */
  get failure(): StoreError | undefined {
    return this.#failure;
  }

  /** Durable when it resolves. */
  commit(writes: readonly PreparedWrite[]): Promise<CommitOutcome> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ writes, resolve, reject });
      this.#schedule();
    });
  }

  /** Carries out what waits, now. */
  flush(): void {
    while (this.#waiting.length > 0) this.#carryOut(this.#waiting.splice(0, MAXIMUM_GROUP));
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#carryOut(this.#waiting.splice(0, MAXIMUM_GROUP));
      if (this.#waiting.length > 0) this.#schedule();
    });
  }

  #carryOut(group: readonly Waiting[]): void {
    if (group.length === 0) return;
    if (this.#failure !== undefined) {
      for (const { reject } of group) reject(this.#failure);
      return;
    }
    try {
      const outcomes = this.#transact(group);
      for (const [position, { resolve, reject }] of group.entries()) {
        const outcome = outcomes[position];
        if (outcome === undefined) reject(new Error('a commit of the group has no outcome'));
        else resolve(outcome);
      }
    } catch (error) {
      const [only, ...others] = group;
      if (only === undefined) return;
      // Nothing of the group was written; one that is too big for the disk must not take the others with it.
      if (others.length > 0 && this.#failure === undefined) for (const waiting of group) this.#carryOut([waiting]);
      else for (const { reject } of group) reject(translateSqliteError(error, this.#path));
    }
  }

  #transact(group: readonly Waiting[]): readonly CommitOutcome[] {
    try {
      this.#database.exec('BEGIN IMMEDIATE');
      this.#writer.begin();
      const outcomes = group.map(({ writes }) => this.#writer.apply(writes));
      if (outcomes.some((outcome) => outcome.ok)) {
        this.#writer.finish();
        this.#end();
      } else {
        this.#database.exec('ROLLBACK');
      }
      return outcomes;
    } catch (error) {
      // SQLite has rolled back by itself after some errors.
      if (this.#database.inTransaction) this.#database.exec('ROLLBACK');
      throw error;
    }
  }

  /**
   * Commits. An error of the disk in here (a failed fsync) leaves open whether a restart finds the commit; a full disk does
   * not: the log then lacks the frame that makes it a commit.
   */
  #end(): void {
    try {
      this.#database.exec('COMMIT');
    } catch (error) {
      if (!(error instanceof Database.SqliteError) || !error.code.startsWith('SQLITE_IOERR')) throw error;
      this.#failure = new StoreError(
        'unavailable',
        `the store ${this.#path} is out of use since the disk failed (${error.code}): see to the disk, then restart`,
        { cause: error },
      );
      throw new StoreError('unknown', `whether the store ${this.#path} took a commit is not known: ${error.message}`, {
        cause: error,
      });
    }
  }
}
