import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { mkdir, open } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { StorageUtilsError } from '../errors.js';
import { tryFlock } from '../libvirt/native.js';

/** Where the lock files lie unless something else is said: memory that a reboot empties. */
export const DEFAULT_LOCK_DIRECTORY = '/run/moorage/locks';

// A lock file is never removed (another process may be about to lock it), so there is a fixed number of them: names that
// fall on one file wait for each other, which costs time and nothing else.
const FILES_PER_FAMILY = 64;
const RETRY_MS = 20;

/**
 * Runs `work` while no other process, and nothing else in this one, runs under the same lock. flock(2): the kernel gives
 * it up when the process dies. To hold two, take the export's first and the domain's second.
 * @param family what is locked; names of different families never wait for each other.
 * @param timeoutMs how long to wait for it, in milliseconds.
 * @throws {StorageUtilsError} `busy` when it was not free in that time.
 */
export async function withLock<Value>(
  directory: string,
  family: 'export' | 'domain',
  name: string,
  timeoutMs: number,
  work: () => Promise<Value>,
): Promise<Value> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const slot = (createHash('sha256').update(name).digest()[0] ?? 0) % FILES_PER_FAMILY;
  const path = join(directory, `${family}-${String(slot).padStart(2, '0')}`);
  const handle = await open(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
  try {
    const deadline = performance.now() + timeoutMs;
    while (!tryFlock(handle.fd)) {
      if (performance.now() >= deadline) {
        throw new StorageUtilsError(
          'busy',
          `another storage-utils works on ${family} ${name} (lock ${path}); try again later`,
        );
      }
      await delay(RETRY_MS);
    }
    return await work();
  } finally {
    await handle.close();
  }
}
