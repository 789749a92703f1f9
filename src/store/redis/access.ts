import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs';
import { StoreError } from '../../core/ports/store.js';
import type { RedisAccess, RedisTls } from './options.js';

/** What a connection shows of itself, read anew for each one: passwords and certificates are exchanged while we run. */
export interface Credentials {
  readonly user?: string;
  readonly password?: string;
  readonly tls?: { readonly ca: Buffer; readonly cert?: Buffer; readonly key?: Buffer };
}

const LONGEST_PASSWORD_FILE = 4096;

/**
 * Reads the files that say who we are.
 * @throws {StoreError} `unavailable` that names the file and what would be right; never what stands in it.
 */
export function readCredentials(access: RedisAccess | undefined, tls: RedisTls | undefined): Credentials {
  return {
    ...(access && { user: access.user ?? 'default', password: readPassword(access.passwordFile) }),
    ...(tls && {
      tls: {
        ca: readFile(tls.ca, 'certificate authority'),
        ...(tls.certificate !== undefined && { cert: readFile(tls.certificate, 'certificate') }),
        ...(tls.key !== undefined && { key: readSecret(tls.key, 'key') }),
      },
    }),
  };
}

function readPassword(path: string): string {
  const secret = readSecret(path, 'password');
  if (secret.length > LONGEST_PASSWORD_FILE) {
    throw refusal(path, 'password', `has more than ${LONGEST_PASSWORD_FILE} bytes`);
  }
  const password = secret.toString('utf8').split(/\r?\n/, 1)[0] ?? '';
  if (password === '') throw refusal(path, 'password', 'is empty: its first line must be the password');
  return password;
}

function readFile(path: string, what: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw refusal(path, what, `cannot be read: ${codeOf(error)}`, error);
  }
}

/** Reads a file that must be nobody else's. What is looked at is what is read: by its descriptor, and never waiting for a pipe. */
function readSecret(path: string, what: string): Buffer {
  let descriptor: number;
  try {
    descriptor = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    throw refusal(path, what, `cannot be read: ${codeOf(error)}`, error);
  }
  try {
    const status = fstatSync(descriptor);
    if (!status.isFile()) throw refusal(path, what, 'is not a regular file');
    if ((status.mode & 0o077) !== 0) {
      const mode = (status.mode & 0o777).toString(8).padStart(4, '0');
      throw refusal(path, what, `is open to others (mode ${mode}): run chmod 600 ${path}`);
    }
    return readFileSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

function refusal(path: string, what: string, problem: string, cause?: unknown): StoreError {
  return new StoreError('unavailable', `the file of the Redis ${what}, ${path}, ${problem}`, { cause });
}

function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : String(error);
}
