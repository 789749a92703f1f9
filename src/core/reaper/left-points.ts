import { keys, putPoint, putVolume } from '../journal/documents.js';
import type { ImageParent } from '../model/image.js';
import type { PointInTime, Tombstone, Volume } from '../model/resources.js';
import type { OwnConnection, StepContext } from '../ports/backend.js';
import type { StoredDocument, Write } from '../ports/store.js';
import { type CoreContext, getPool } from '../services/context.js';
import { requireImage } from '../services/identity.js';
import { isLostConnection } from '../services/images.js';

/*
 * A point in time waits on its volume for its last clone. A purge of that clone takes it along only where nobody has the
 * volume open; where a node has, it takes a connection of its own. So the purge leaves the point to the reaper, as a
 * `point/<id>` that no operation needs, and the volume's record names it until it is known to be gone: what that record does
 * not name, a purge of the volume would never free.
 */

/** Several points of one volume that go at the same time meet at its record. */
const FORGET_TRIES = 10;

/** The writes that leave the point of a purged clone to the reaper. Nobody else may need it. */
export async function leavePointOf(core: CoreContext, poolId: string, parent: ImageParent): Promise<readonly Write[]> {
  const { point, resourceId } = parent;
  const [volume, known] = await core.store.getMany<{ readonly state?: string }>([
    keys.volume(resourceId),
    keys.point(point.name),
  ]);
  // Operations that still need it remove it themselves.
  if (known !== undefined || volume === undefined || !hasPoints(volume.value.state)) return [];
  const left: PointInTime = { id: point.name, poolId, volumeId: resourceId, point, operationIds: [] };
  return [putPoint(left, 'absent')];
}

function hasPoints(state: string | undefined): boolean {
  return state !== 'purging' && state !== 'gone';
}

/** Removes a point that no operation needs. @returns whether it is gone */
export async function removeLeftPoint(
  core: CoreContext,
  document: StoredDocument<PointInTime>,
  context: (name: string) => StepContext,
): Promise<boolean> {
  const { volumeId, point } = document.value;
  const volume = await core.store.get<Volume | Tombstone>(keys.volume(volumeId));
  if (volume === undefined || point === undefined || !hasPoints(volume.value.state)) {
    return commit(core, [{ kind: 'delete', key: document.key, expect: document.rev }]);
  }
  const pool = (await getPool(core.store, document.value.poolId)).value;
  const { data } = core.backend();
  const close = (connection: OwnConnection) => data.closeConnection(pool, connection, context('close-connection'));
  const { connection } = document.value;
  if (connection === undefined) {
    // Its addresses come into the store before it is used; the next round goes on.
    const opened = await data.openConnection(pool, context('open-connection'));
    const recorded = await commit(core, [putPoint({ ...document.value, connection: opened }, document.rev)]);
    if (!recorded) {
      await close(opened);
      return false;
    }
    const again = await core.store.get<PointInTime>(document.key);
    return again === undefined ? true : removeLeftPoint(core, again, context);
  }
  const image = requireImage(volume.value as Volume);
  try {
    await data.removePoint(pool, { connection, image, point }, context('remove-point'));
  } catch (error) {
    if (!isLostConnection(error)) throw error;
    await close(connection);
    const { connection: _, ...value } = document.value;
    await commit(core, [putPoint(value, document.rev)]);
    return false;
  }
  await close(connection);
  for (let tries = 0; tries < FORGET_TRIES; tries += 1) {
    const forgotten = await forget(core, volumeId, point.backendId);
    if (await commit(core, [{ kind: 'delete', key: document.key, expect: document.rev }, ...forgotten])) return true;
  }
  return false;
}

async function forget(core: CoreContext, volumeId: string, backendId: string): Promise<readonly Write[]> {
  const document = await core.store.get<Volume | Tombstone>(keys.volume(volumeId));
  if (document === undefined || !('image' in document.value) || document.value.image === undefined) return [];
  const { image } = document.value;
  const points = image.points.filter((point) => point.backendId !== backendId);
  return [putVolume({ ...document.value, image: { ...image, points } }, document.rev)];
}

async function commit(core: CoreContext, writes: readonly Write[]): Promise<boolean> {
  const outcome = await core.store.commit([...writes, core.liveCheck()]);
  if (!outcome.ok) await core.refreshMembership();
  return outcome.ok;
}
