import type { Holder } from '../../../generated/moorage/backend/v1/Holder.js';
import { isCephError } from '../librbd/errors.js';
import { headerObject } from '../librbd/header.js';
import { RbdImage, type Watcher } from '../librbd/image.js';
import { listLockers, RBD_LOCK_NAME } from '../librbd/lockers.js';
import type { PoolContext } from '../librbd/pool-context.js';
import { refused, type StepError } from '../step-error.js';
import { isAsRecorded, type RecordedImage } from './verify.js';

/** Somebody who has an image open or holds its lock. */
export type ImageHolder = Required<Pick<Holder, 'address' | 'watches' | 'locks' | 'cookie' | 'client'>>;

/**
 * Who has an image open for writing, and who holds its exclusive lock. Both are needed: a host that is frozen for more
 * than 30 s is no longer a watcher, and still overwrites when it wakes; its lock is still there.
 * @param own addresses to leave out
 */
export async function findHolders(
  pool: PoolContext,
  image: RecordedImage,
  own: ReadonlySet<string>,
): Promise<ImageHolder[]> {
  const [watchers, lockers] = await Promise.all([
    listWatchers(pool, image),
    listLockers(pool, headerObject(image.id), RBD_LOCK_NAME),
  ]);
  const holders = new Map<string, ImageHolder>();
  for (const { address, clientId } of watchers) {
    holders.set(address, { address, watches: true, locks: false, cookie: '', client: `client.${clientId}` });
  }
  for (const { address, client, cookie } of lockers) {
    holders.set(address, { address, watches: holders.has(address), locks: true, cookie, client });
  }
  return [...holders.values()].filter((holder) => !own.has(holder.address));
}

/**
 * Watchers of an image; none when it is not there. Opened read-only, so that it takes no watch itself. One whose header is
 * not as it was made is not opened, and nobody is seen to watch it: whoever wrote that keeps nothing from being cut off or
 * deleted by it, because clients are known by their locks, and to the monitors, too.
 */
export async function listWatchers(pool: PoolContext, image: RecordedImage): Promise<Watcher[]> {
  try {
    if (!(await isAsRecorded(pool, image))) return [];
    return await RbdImage.with(pool, { id: image.id }, { readOnly: true }, (open) => open.watchers());
  } catch (error) {
    // Half made, or written over by its node: it cannot be opened, so nobody else has it open either.
    if (isCephError(error, 'ENOENT') || isUnopenable(error)) return [];
    throw error;
  }
}

/** The refusal that names who holds an image. */
export function inUse(name: string, holders: readonly ImageHolder[]): StepError {
  const described = holders.map(({ address, watches, locks, client }) => {
    const how = [watches ? 'has it open' : '', locks ? 'holds its lock' : ''].filter((each) => each !== '');
    return `${client} at ${address} ${how.join(' and ')}`;
  });
  return refused('IN_USE', `image ${name} is in use: ${described.join('; ')}`, {
    holders: JSON.stringify(
      holders.map(({ address, watches, locks, client }) => ({ address, watches, locks, client })),
    ),
  });
}

/** Whether librbd could not make sense of an image. */
export function isUnopenable(error: unknown): boolean {
  return isCephError(error, 'EINVAL', 'EIO', 'EOPNOTSUPP', 'ENOSYS', 'ENXIO', 'EBADMSG');
}
