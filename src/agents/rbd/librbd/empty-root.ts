import { mkdirSync, readdirSync } from 'node:fs';
import koffi from 'koffi';
import { nameOfErrno } from './errors.js';

const libc = koffi.load('libc.so.6');
const chroot = libc.func('int chroot(const char *path)');

/**
 * Makes an empty folder the root of this process (chroot): a forged header that has librbd read a file finds none. Only once
 * everything that is read from files has been, the modules of the program too.
 * @param folder made (0700) when it is not there
 * @returns false where this process may not (it needs CAP_SYS_CHROOT)
 * @throws Error when the folder is not empty
 */
export function enterEmptyRoot(folder: string): boolean {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  if (readdirSync(folder).length > 0) throw new Error(`folder ${folder} must be empty`);
  if (chroot(folder) !== 0) {
    const name = nameOfErrno(koffi.errno());
    if (name === 'EPERM') return false;
    throw new Error(`chroot ${folder}: ${name}`);
  }
  process.chdir('/');
  return true;
}
