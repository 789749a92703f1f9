import { setTimeout as delay } from 'node:timers/promises';
import type { Image__Output } from '../../../generated/moorage/backend/v1/Image.js';
import { checkName, readParent } from '../data/record.js';
import { isUnopenable } from '../data/usage.js';
import { isAsRecorded } from '../data/verify.js';
import type { Cluster } from '../librbd/cluster.js';
import { isCephError } from '../librbd/errors.js';
import { headerObject, readImageId } from '../librbd/header.js';
import { RbdImage } from '../librbd/image.js';
import { breakLock, listLockers, RBD_LOCK_NAME } from '../librbd/lockers.js';
import type { PoolContext } from '../librbd/pool-context.js';
import { requireId, userOf } from './access.js';
import { monitorJson } from './monitor.js';

interface MonitorSession {
  readonly entity_name: string;
  readonly addrs?: { readonly addrvec?: readonly { readonly addr: string; readonly nonce: number }[] };
}

/** How long a monitor that is out of the quorum is waited for. */
const OUTSIDER_MILLISECONDS = 2_000;

/**
 * Clients that are connected as the export's user, as the monitors know them, and those that watch the image or hold its
 * lock. A host that has been frozen for 30 s watches no more, and still holds its lock; a reader, or a client of RADOS
 * alone, has neither, and only the monitors know it.
 * @param exportId empty looks at no user
 * @param image null looks at no image
 * @returns addresses with nonce, each once
 */
export async function listClients(
  cluster: Cluster,
  poolName: string,
  exportId: string,
  image: Image__Output | null,
): Promise<string[]> {
  const [connected, holding] = await Promise.all([
    exportId === '' ? [] : connectedAs(cluster, `client.${userOf(exportId)}`),
    image === null ? [] : cluster.withPool(poolName, (pool) => holdersOf(pool, image)),
  ]);
  return [...new Set([...connected, ...holding])];
}

async function connectedAs(cluster: Cluster, entity: string): Promise<string[]> {
  const quorum = await monitorJson<{
    readonly quorum_names: readonly string[];
    readonly monmap: { readonly mons: readonly { readonly name: string }[] };
  }>(cluster, { prefix: 'quorum_status' });
  const outsiders = quorum.monmap.mons.map(({ name }) => name).filter((name) => !quorum.quorum_names.includes(name));
  const sessions = await Promise.all([
    ...quorum.quorum_names.map((name) => sessionsAt(cluster, name)),
    // One that is down has no clients; one that is cut off from the others may still have some, if it answers.
    ...outsiders.map((name) =>
      Promise.race([
        sessionsAt(cluster, name).catch(() => []),
        delay<MonitorSession[]>(OUTSIDER_MILLISECONDS, [], { ref: false }),
      ]),
    ),
  ]);
  return sessions
    .flat()
    .filter((session) => session.entity_name === entity)
    .flatMap((session) => session.addrs?.addrvec ?? [])
    .filter(({ nonce }) => nonce !== 0)
    .map(({ addr, nonce }) => `${addr}/${nonce}`);
}

async function sessionsAt(cluster: Cluster, monitor: string): Promise<MonitorSession[]> {
  return monitorJson<MonitorSession[]>(cluster, { prefix: 'sessions' }, monitor);
}

async function holdersOf(pool: PoolContext, image: Image__Output): Promise<string[]> {
  const id = requireId('image.backend_id', image.backendId);
  const lockers = await listLockers(pool, headerObject(id), RBD_LOCK_NAME);
  return [...lockers.map((locker) => locker.address), ...(await watchersOf(pool, image, id))];
}

/**
 * Watchers can only be asked of an open image, and a node can write its image's header. One that says anything else than
 * the controller's record is not opened: then there are the sessions and the lock's owner, and a node cannot keep itself
 * from being found by breaking its header.
 */
async function watchersOf(pool: PoolContext, image: Image__Output, id: string): Promise<string[]> {
  const parent = image.parent === null ? undefined : readParent('image.parent', image.parent);
  if (!(await isAsRecorded(pool, { id, parent }))) return [];
  try {
    return await RbdImage.with(pool, { id }, { readOnly: true }, async (open) =>
      (await open.watchers()).map((watcher) => watcher.address),
    );
  } catch (error) {
    if (isCephError(error, 'ENOENT') || isUnopenable(error)) return [];
    throw error;
  }
}

/** An image that its agent died over has no id on record yet: then it is its name's, which no node can have changed. */
function idOf(pool: PoolContext, image: Image__Output | null): Promise<string | undefined> {
  if (image === null || image.backendId !== '')
    return Promise.resolve(requireId('image.backend_id', image?.backendId ?? ''));
  return readImageId(pool, checkName('image.name', image.name));
}

/**
 * Breaks the image's lock where it belongs to one of these addresses, by exact owner; blocklists nobody.
 * @returns how many were broken
 */
export async function breakLocks(
  cluster: Cluster,
  poolName: string,
  image: Image__Output | null,
  ownerAddresses: readonly string[],
): Promise<number> {
  return cluster.withPool(poolName, async (pool) => {
    const id = await idOf(pool, image);
    // It was never made, or not far enough to be locked.
    if (id === undefined) return 0;
    let broken = 0;
    for (const locker of await listLockers(pool, headerObject(id), RBD_LOCK_NAME)) {
      if (!ownerAddresses.includes(locker.address)) continue;
      if (await breakLock(pool, headerObject(id), RBD_LOCK_NAME, locker)) broken += 1;
    }
    return broken;
  });
}
