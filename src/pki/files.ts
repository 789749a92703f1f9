import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, link, mkdir, open, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { CertificateError } from './errors.js';

/**
 * Writes a file whole or not at all.
 * @param how "new": never over one that is there; "replace": over it
 * @throws {CertificateError} when there is one already
 */
export async function writeWhole(path: string, text: string, mode: number, how: 'new' | 'replace'): Promise<void> {
  const directory = dirname(path);
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const temporary = join(directory, `.moorage-pki.${randomBytes(8).toString('hex')}`);
  try {
    const handle = await open(temporary, 'wx', mode);
    try {
      await handle.writeFile(text);
      // Whatever the umask takes away.
      await handle.chmod(mode);
      await handle.sync();
    } finally {
      await handle.close();
    }
    if (how === 'replace') await rename(temporary, path);
    else await link(temporary, path);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'EEXIST') throw cause;
    throw new CertificateError(`there is a file ${path} already; it was left as it is`, { cause });
  } finally {
    await rm(temporary, { force: true });
  }
}

/**
 * Reads a secret key's file.
 * @returns undefined when there is none
 * @throws {CertificateError} when others may read it, or it cannot be read
 */
export async function readKey(path: string): Promise<string | undefined> {
  let handle: FileHandle;
  try {
    handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT') return undefined;
    throw new CertificateError(`the key ${path} cannot be read (${code})`, { cause });
  }
  try {
    const status = await handle.stat();
    if (!status.isFile()) throw new CertificateError(`${path} is no file`);
    if ((status.mode & 0o077) !== 0) {
      const mode = (status.mode & 0o7777).toString(8).padStart(4, '0');
      throw new CertificateError(`the key ${path} has mode ${mode}, so others may read it; run "chmod 0600 ${path}"`);
    }
    return await handle.readFile('utf8');
  } finally {
    await handle.close();
  }
}
