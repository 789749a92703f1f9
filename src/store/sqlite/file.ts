import {
  closeSync,
  constants,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  realpathSync,
  type Stats,
  statSync,
} from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { StoreError } from '../../core/ports/store.js';
import { corruptError } from './errors.js';

/*
 * The store's file before SQLite opens it. Never open an existing one here: POSIX locks belong to the process, and closing
 * any descriptor of the file would give up the lock that another store of this process holds on it.
 */

/**
 * Sees to it that the file is there, belongs to nobody else's reach, and has its log beside it.
 * @returns its path without symbolic links.
 * @throws {StoreError} `unavailable` when it cannot be made or is open to others, `full`, `corrupt` when only its log is left.
 */
export function prepareFile(path: string): string {
  const wanted = resolve(path);
  try {
    mkdirSync(dirname(wanted), { recursive: true, mode: 0o700 });
    // SQLite would take a log without its database for rubbish, and delete what was acknowledged. (The log is looked at
    // first: another process that makes the store right now writes the database before the log.)
    const logSize = sizeOf(`${wanted}-wal`);
    const directory = realpathSync(dirname(wanted));
    checkDirectory(directory);
    const real = create(wanted, directory);
    const file = statSync(real);
    checkFile(real, file);
    checkDirectory(dirname(real));
    if (file.size === 0 && logSize > 0) throw corruptError(real, `the file is empty, but its log ${real}-wal is not`);
    return real;
  } catch (error) {
    if (error instanceof StoreError) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    const kind = error instanceof Error && 'code' in error && error.code === 'ENOSPC' ? 'full' : 'unavailable';
    throw new StoreError(kind, `the store ${wanted} cannot be opened: ${reason}`, { cause: error });
  }
}

/** The process that holds a lock on a file, as far as the kernel tells; undefined when it does not. */
export function lockHolder(path: string): number | undefined {
  try {
    const { ino, dev } = statSync(path);
    // As "1: POSIX  ADVISORY  WRITE 4711 fe:00:131080 1073741826 1073742335", see proc(5).
    for (const line of readFileSync('/proc/locks', 'utf8').split('\n')) {
      const [, pid, major, minor, inode] = /\s(\d+) ([0-9a-f]+):([0-9a-f]+):(\d+) /.exec(line) ?? [];
      if (inode !== String(ino) || major === undefined || minor === undefined) continue;
      if (dev === makeDevice(Number.parseInt(major, 16), Number.parseInt(minor, 16)) && Number(pid) > 0) {
        return Number(pid);
      }
    }
  } catch {
    // Only a help in a message: without /proc the message goes without it.
  }
  return undefined;
}

/** A device's number as stat gives it, see makedev(3). */
function makeDevice(major: number, minor: number): number {
  return (major & 0xfff) * 0x100 + (minor & 0xff) + (minor >>> 8) * 0x100000;
}

function create(path: string, directory: string): string {
  try {
    closeSync(openSync(path, constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY, 0o600));
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST') return realpathSync(path);
    throw error;
  }
  // The file's name must be as durable as what is committed into it.
  const descriptor = openSync(directory, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
  return join(directory, basename(path));
}

function checkFile(path: string, file: Stats): void {
  if (!file.isFile()) throw new StoreError('unavailable', `the store ${path} is not a regular file`);
  if ((file.mode & 0o077) !== 0) {
    const mode = (file.mode & 0o777).toString(8).padStart(4, '0');
    throw new StoreError('unavailable', `the store ${path} is open to others (mode ${mode}): run chmod 600 ${path}`);
  }
}

function checkDirectory(directory: string): void {
  if ((statSync(directory).mode & 0o002) === 0) return;
  throw new StoreError(
    'unavailable',
    `everybody can write in ${directory}, where the store lies: take another directory, or run chmod o-w ${directory}`,
  );
}

function sizeOf(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? 0;
}
