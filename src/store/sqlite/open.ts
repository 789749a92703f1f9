import Database from 'better-sqlite3';
import { StoreError } from '../../core/ports/store.js';
import { corruptError, isLockedBySomeone, translateSqliteError } from './errors.js';
import { lockHolder, prepareFile } from './file.js';
import { APPLICATION_ID, CURRENT_VERSION, migrate } from './migrations.js';

/** Memory for pages of the file, KiB. */
const CACHE_KIBIBYTES = 64 * 1024;
/** To what the log is cut after a checkpoint, bytes: a burst of writes must not keep the space for ever. */
const LOG_LIMIT_BYTES = 64 * 1024 * 1024;

/** An open database and where it lies. */
export interface OpenDatabase {
  readonly database: Database.Database;
  /** Its file, without symbolic links. */
  readonly path: string;
}

/**
 * Opens the store's file, made when there is none, for this process alone; checks it and brings its schema up to date.
 *
 * Exclusive use is SQLite's own lock (locking_mode=EXCLUSIVE): the kernel gives it up when the process dies, however it
 * dies, and no child inherits it. It also keeps the log's index in this process's memory instead of a mapped file, which a
 * full disk would turn into SIGBUS.
 * @throws {StoreError} `in-use`, `newer-version`, `corrupt`, `full`, `unavailable`.
 */
export function openDatabase(path: string): OpenDatabase {
  const real = prepareFile(path);
  let database: Database.Database | undefined;
  try {
    database = new Database(real, { timeout: 0, fileMustExist: true });
    database.pragma('locking_mode = EXCLUSIVE');
    checkOrigin(database, real);
    // Only after the check: a file that is not ours stays as it is.
    setUp(database);
    checkIntegrity(database, real);
    migrate(database);
    return { database, path: real };
  } catch (error) {
    database?.close();
    if (isLockedBySomeone(error)) throw inUseError(real, error);
    throw translateSqliteError(error, real);
  }
}

/** The first access, which takes the lock. */
function checkOrigin(database: Database.Database, path: string): void {
  const version = Number(database.pragma('user_version', { simple: true }));
  const application = Number(database.pragma('application_id', { simple: true }));
  const tables = Number(database.prepare('SELECT count(*) FROM sqlite_schema').pluck().get());
  const isNew = version === 0 && application === 0 && tables === 0;
  if (!isNew && application !== APPLICATION_ID) throw corruptError(path, 'it is a database of another program');
  if (version > CURRENT_VERSION) {
    throw new StoreError(
      'newer-version',
      `the store ${path} was written by a newer Moorage (schema ${version}; this one knows ${CURRENT_VERSION}): run that ` +
        'version, or restore a backup of this one',
    );
  }
}

function setUp(database: Database.Database): void {
  database.pragma('journal_mode = WAL');
  // An acknowledged commit outlives a power cut. (The library is built with NORMAL for WAL, which does not.)
  database.pragma('synchronous = FULL');
  database.pragma(`journal_size_limit = ${LOG_LIMIT_BYTES}`);
  database.pragma(`cache_size = -${CACHE_KIBIBYTES}`);
  database.pragma('temp_store = MEMORY');
  // A damaged file must give an error, not wrong rows.
  database.pragma('cell_size_check = ON');
  database.pragma('trusted_schema = OFF');
}

function checkIntegrity(database: Database.Database, path: string): void {
  const finding = database.prepare('PRAGMA quick_check(1)').pluck().get();
  if (finding !== 'ok') throw corruptError(path, String(finding).replaceAll('\n', ' '));
}

function inUseError(path: string, cause: unknown): StoreError {
  const holder = lockHolder(path);
  const who = holder === undefined ? 'another process' : `process ${holder}`;
  return new StoreError(
    'in-use',
    `the store ${path} is in use by ${who}: stop that one first, or give this controller a store and a pool of its own`,
    { cause },
  );
}
