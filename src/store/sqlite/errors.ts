import Database from 'better-sqlite3';
import { StoreError } from '../../core/ports/store.js';

/**
 * An SQLite error as the port's error (result codes: https://www.sqlite.org/rescode.html); other errors as they are.
 * @param path the store's file, for the text.
 */
export function translateSqliteError(error: unknown, path: string): unknown {
  if (!(error instanceof Database.SqliteError)) return error;
  const { code, message } = error;
  if (code.startsWith('SQLITE_FULL')) {
    return new StoreError('full', `no space is left for the store ${path}: nothing was written; free some space`, {
      cause: error,
    });
  }
  if (code.startsWith('SQLITE_CORRUPT') || code.startsWith('SQLITE_NOTADB')) {
    return corruptError(path, message, error);
  }
  return new StoreError('unavailable', `the store ${path} cannot be used: ${message} (${code})`, { cause: error });
}

/** True when SQLite could not get a lock, which means that another process (or another store of this one) has the file. */
export function isLockedBySomeone(error: unknown): boolean {
  return error instanceof Database.SqliteError && /^SQLITE_(BUSY|LOCKED|PROTOCOL)/.test(error.code);
}

/** The error of a file that is damaged, with the way out. */
export function corruptError(path: string, finding: string, cause?: unknown): StoreError {
  return new StoreError(
    'corrupt',
    `the store ${path} is damaged: ${finding}. Keep the file and restore the last backup (docs/operations/recover.md)`,
    { cause },
  );
}
