import { closeSync, openSync } from 'node:fs';
import koffi from 'koffi';
import { nameOfErrno } from './errors.js';

const libc = koffi.load('libc.so.6');
const flock = libc.func('int flock(int fd, int operation)');
const prctl = libc.func('int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)');
const setrlimit = libc.func('int setrlimit(int resource, const uint64_t *limit)');

const LOCK_EX = 2;
const LOCK_NB = 4;
const PR_SET_DUMPABLE = 4;
const RLIMIT_CORE = 4;

/**
 * Takes an exclusive lock on a file for the life of this process (flock): the kernel lets go of it at its death, whatever
 * kills it, and a free lock so proves that death. The file stays.
 * @param path made (0600) when it is not there
 * @throws Error when another process holds it
 */
export function lockForLife(path: string): void {
  const file = openSync(path, 'a', 0o600);
  if (flock(file, LOCK_EX | LOCK_NB) !== 0) {
    const name = nameOfErrno(koffi.errno());
    closeSync(file);
    if (name === 'EAGAIN') throw new Error(`lock file ${path} is held by another agent that still runs`);
    throw new Error(`lock file ${path} cannot be locked: ${name}`);
  }
}

/** No core dump of this process, no debugger of the same user: its memory holds cephx keys. */
export function forbidDumps(): void {
  if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) !== 0) throw new Error(`prctl: ${nameOfErrno(koffi.errno())}`);
  if (setrlimit(RLIMIT_CORE, new BigUint64Array([0n, 0n])) !== 0) {
    throw new Error(`setrlimit: ${nameOfErrno(koffi.errno())}`);
  }
}
