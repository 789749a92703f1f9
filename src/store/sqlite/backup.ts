import { closeSync, constants, fsyncSync, linkSync, mkdirSync, openSync, rmSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import Database from 'better-sqlite3';
import { StoreError } from '../../core/ports/store.js';
import type { PreparedWrite } from '../writes.js';
import { translateSqliteError } from './errors.js';
import { DocumentWriter } from './writer.js';

/**
 * How far the revisions of a copy begin behind those of its original: what is committed to the original afterwards, and
 * to the copy once it is used, must not have the same revisions for different things.
 */
const REVISIONS_AHEAD = 1_000_000_000;
/** Pages of the file that are copied in one turn of the event loop. */
const PAGES_AT_ONCE = 256;

/**
 * Copies an open database into a new file, while it is used: SQLite's own online backup, which sees every commit of this
 * connection.
 * @throws {StoreError} `unavailable`, `full`
 */
export function writeBackup(
  database: Database.Database,
  path: string,
  writes: readonly PreparedWrite[],
): Promise<{ readonly sizeBytes: number }> {
  const progress = (): number => PAGES_AT_ONCE;
  return writeCopy(path, async (partial) => void (await database.backup(partial, { progress })), writes);
}

/**
 * Makes a new file (0600), which has its name only once it is whole.
 * @param fill makes a database of an empty file.
 * @param writes put on top of what it has then.
 * @throws {StoreError} `unavailable`, `full`; what `fill` throws
 */
export async function writeCopy(
  path: string,
  fill: (partial: string) => Promise<void>,
  writes: readonly PreparedWrite[],
): Promise<{ readonly sizeBytes: number }> {
  const partial = `${path}.partial`;
  try {
    const directory = dirname(path);
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    if ((statSync(directory).mode & 0o022) !== 0) {
      throw new StoreError(
        'unavailable',
        `others can write in ${directory}, where copies of the store are kept: run chmod go-w ${directory}`,
      );
    }
    closeSync(openSync(partial, constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY, 0o600));
    await fill(partial);
    finish(partial, writes);
    synchronise(partial);
    // Unlike a rename it never takes another file's place.
    linkSync(partial, path);
    rmSync(partial);
    synchronise(directory);
    return { sizeBytes: statSync(path).size };
  } catch (error) {
    rmSync(partial, { force: true });
    if (error instanceof StoreError) throw error;
    const full = error instanceof Error && 'code' in error && error.code === 'ENOSPC';
    if (full || !(error instanceof Error) || !('code' in error) || String(error.code).startsWith('SQLITE')) {
      throw full
        ? new StoreError('full', `the copy ${path} cannot be written: the disk is full`, { cause: error })
        : translateSqliteError(error, partial);
    }
    throw new StoreError('unavailable', `the copy ${path} cannot be written: ${error.message}`, { cause: error });
  }
}

/** Puts the writes on top, and makes the copy one file without a log beside it. */
function finish(path: string, writes: readonly PreparedWrite[]): void {
  const copy = new Database(path, { fileMustExist: true });
  try {
    copy.pragma('journal_mode = DELETE');
    copy.pragma('synchronous = FULL');
    copy.transaction(() => {
      copy.prepare('UPDATE commits SET last = last + ?').run(REVISIONS_AHEAD);
      const writer = new DocumentWriter(copy);
      writer.begin();
      writer.apply(writes);
      writer.finish();
    })();
  } finally {
    copy.close();
  }
}

/** Brings a file or a folder's names to the disk. */
export function synchronise(path: string): void {
  const descriptor = openSync(path, constants.O_RDONLY);
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}
