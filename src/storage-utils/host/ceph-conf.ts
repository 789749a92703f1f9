import { readFile } from 'node:fs/promises';
import { join } from 'node:path';

/**
 * `client_mount_timeout` of a node's ceph.conf, which QEMU's librados reads: how long connecting may take.
 * @returns seconds; undefined where it says nothing, and then librados takes 300.
 */
export async function mountTimeoutSeconds(directory: string): Promise<number | undefined> {
  const text = await readFile(join(directory, 'ceph.conf'), 'utf8').catch(() => '');
  let section = 'global';
  let found: number | undefined;
  for (const line of text.split('\n')) {
    section = /^\s*\[([^\]]+)\]/.exec(line)?.[1]?.trim() ?? section;
    const value = /^\s*client[ _-]mount[ _-]timeout\s*=\s*([0-9]+(?:\.[0-9]+)?)/.exec(line)?.[1];
    // Sections of single users are left out: which user connects is known to the descriptor alone.
    if (value !== undefined && (section === 'client' || (section === 'global' && found === undefined))) {
      found = Number(value);
    }
  }
  return found;
}
