import { constants } from 'node:fs';
import { open, readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { StorageUtilsError } from '../errors.js';

/** Where Ceph's keyrings lie. */
export const DEFAULT_KEYRING_DIRECTORY = '/etc/ceph';

const GROUP = 'kvm';
const ALLOWED_MODE = 0o640;

/**
 * Reads the key of a node's own cephx user for a pool with keyring access.
 * @param user without "client.".
 * @returns the key's raw bytes; zero them after use.
 * @throws {StorageUtilsError} `refused`, with owner, mode and remedy, unless the file is root:kvm and 0640 or tighter; `not-found`.
 */
export async function readKeyring(user: string, directory: string = DEFAULT_KEYRING_DIRECTORY): Promise<Buffer> {
  const path = keyringPath(user, directory);
  const handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK).catch(
    (error: unknown) => {
      const code = error instanceof Error && 'code' in error ? String(error.code) : '';
      if (code === 'ENOENT') {
        throw new StorageUtilsError(
          'not-found',
          `there is no keyring ${path}; put the key of client.${user} there, owner root:${GROUP}, mode 0640`,
          { cause: error },
        );
      }
      throw new StorageUtilsError(
        'refused',
        `the keyring ${path} cannot be opened (${code}); it must be a plain file`,
        {
          cause: error,
        },
      );
    },
  );
  try {
    const status = await handle.stat();
    const problem = status.isFile() ? await ownershipProblem(status) : 'it is not a plain file';
    if (problem !== undefined) {
      throw new StorageUtilsError(
        'refused',
        `the keyring ${path} is refused: ${problem}; run "chown root:${GROUP} ${path} && chmod 0640 ${path}"`,
      );
    }
    return parseKeyring(await handle.readFile('utf8'), user, path);
  } finally {
    await handle.close();
  }
}

/** The client keyrings in a folder that everyone may read, with their modes: keys that are given away. */
export async function findOpenKeyrings(directory: string = DEFAULT_KEYRING_DIRECTORY): Promise<string[]> {
  const found: string[] = [];
  for (const name of await readdir(directory).catch(() => [])) {
    const path = join(directory, name);
    if (/^ceph\.client\..+\.keyring$/.test(name) && (await isOpen(path))) {
      found.push(path);
    }
  }
  return found;
}

async function isOpen(path: string): Promise<boolean> {
  // A link that leads nowhere gives no key away.
  const status = await stat(path).catch(() => undefined);
  return status !== undefined && (status.mode & 0o007) !== 0;
}

/** The keyring file of a user, as Ceph names it. */
export function keyringPath(user: string, directory: string = DEFAULT_KEYRING_DIRECTORY): string {
  return join(directory, `ceph.client.${user}.keyring`);
}

async function ownershipProblem(status: { uid: number; gid: number; mode: number }): Promise<string | undefined> {
  const mode = status.mode & 0o7777;
  const shown = `its owner is ${status.uid}:${status.gid} and its mode ${mode.toString(8).padStart(4, '0')}`;
  if ((mode & ~ALLOWED_MODE) !== 0) {
    return `${shown}, so ${(mode & 0o004) !== 0 ? 'everyone may read it' : 'it is open wider than 0640'}`;
  }
  if (status.uid !== 0) {
    return `${shown}, and the owner must be root`;
  }
  const group = await groupId(GROUP);
  if (group === undefined) {
    return `${shown}, and this host has no group ${GROUP}`;
  }
  return status.gid === group ? undefined : `${shown}, and the group must be ${GROUP} (${group})`;
}

async function groupId(name: string): Promise<number | undefined> {
  for (const line of (await readFile('/etc/group', 'utf8')).split('\n')) {
    const fields = line.split(':');
    if (fields[0] === name) {
      return Number(fields[2]);
    }
  }
  return undefined;
}

/** A keyring is an INI file: `[client.name]`, then `key = <base64>` and caps. */
function parseKeyring(text: string, user: string, path: string): Buffer {
  let section = '';
  for (const line of text.split('\n')) {
    const trimmed = line.trim();
    const header = /^\[([^\]]+)\]$/.exec(trimmed);
    if (header?.[1] !== undefined) {
      section = header[1].trim();
    }
    const key = /^key\s*=\s*([A-Za-z0-9+/]+={0,2})$/.exec(trimmed)?.[1];
    if (section === `client.${user}` && key !== undefined) {
      return Buffer.from(key, 'base64');
    }
  }
  throw new StorageUtilsError('refused', `the keyring ${path} has no key in a section [client.${user}]`);
}
