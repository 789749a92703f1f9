import { listAll } from '../../journal/agents.js';
import type { PhaseContext } from '../../journal/definition.js';
import { indexes, keys, putPoint } from '../../journal/documents.js';
import type { Debris, PointInTime, Pool, Snapshot } from '../../model/resources.js';
import { BackendError } from '../../ports/backend.js';
import type { StoredDocument, Write } from '../../ports/store.js';
import { type CoreContext, getPool, getVolume } from '../context.js';
import { requireImage } from '../identity.js';
import { closeConnection, isLostConnection } from '../images.js';
import type { CreateSnapshotPlan } from './create-snapshot.js';

/*
 * How an operation leaves its point in time (points.ts): the last one removes it from the backend first.
 */

type Context = PhaseContext<CreateSnapshotPlan>;

async function findPoint(core: CoreContext, context: Context): Promise<StoredDocument<PointInTime> | undefined> {
  return context.plan.pointId === undefined ? undefined : core.store.get<PointInTime>(keys.point(context.plan.pointId));
}

/**
 * The writes that take this operation out of its point.
 * @param removed whether it was removed on the backend, or need not be
 * @param givenUp whether even its removal was refused
 * @throws BackendError (not begun) when it has become the last one since it looked: then the point is to be removed first
 */
export async function leave(
  core: CoreContext,
  context: Context,
  removed: boolean,
  givenUp = false,
): Promise<readonly Write[]> {
  const document = await findPoint(core, context);
  if (document === undefined) return [];
  const operationIds = document.value.operationIds.filter((id) => id !== context.operation.id);
  if (operationIds.length > 0) return [putPoint({ ...document.value, operationIds }, document.rev)];
  if (!removed) throw new BackendError('not-begun', 'ABORTED', 'The point in time is to be removed first.');
  if (givenUp && document.value.point === undefined) {
    // No record names it, so no purge would free it, and nothing was made from it: the reaper removes it by its name.
    const point = { name: document.value.id, backendId: '' };
    return [putPoint({ ...document.value, operationIds, point }, document.rev)];
  }
  const { image } = context.plan;
  if (image !== undefined && image.parent === undefined) return letPointGo(core, document);
  return [{ kind: 'delete', key: document.key, expect: document.rev }];
}

/** Removes the point when nobody else needs it. @returns whether it did @throws BackendError */
export async function removeIfLast(core: CoreContext, context: Context): Promise<boolean> {
  const document = await findPoint(core, context);
  if (document === undefined) return false;
  const { operationIds, volumeId } = document.value;
  if (operationIds.some((id) => id !== context.operation.id)) return false;
  // One whose taking was refused in the end may be there all the same, from a try of unknown outcome: it goes by its name.
  const point = document.value.point ?? { name: document.value.id, backendId: '' };
  const pool = (await getPool(core.store, context.operation.poolId)).value;
  const { data } = core.backend();
  const image = requireImage((await getVolume(core.store, volumeId)).value);
  const connected = await connect(core, context, pool, document);
  const { connection } = connected.value;
  if (connection === undefined) throw new Error(`The point ${document.value.id} has no connection.`);
  try {
    await context.step('remove-point', (step) => data.removePoint(pool, { connection, image, point }, step));
  } catch (error) {
    if (isLostConnection(error)) {
      await closeConnection(core, context, pool, connection);
      const { connection: _, ...value } = connected.value;
      await core.store.commit([putPoint(value, connected.rev), core.liveCheck()]);
    }
    throw error;
  }
  await closeConnection(core, context, pool, connection);
  return true;
}

async function connect(
  core: CoreContext,
  context: Context,
  pool: Pool,
  document: StoredDocument<PointInTime>,
): Promise<StoredDocument<PointInTime>> {
  if (document.value.connection !== undefined) return document;
  const connection = await context.step('open-connection', (step) => core.backend().data.openConnection(pool, step));
  const value = { ...document.value, connection };
  const outcome = await core.store.commit([putPoint(value, document.rev), core.liveCheck()]);
  if (!outcome.ok) {
    await core.refreshMembership();
    await closeConnection(core, context, pool, connection);
    throw new BackendError('not-begun', 'ABORTED', 'The point changed while a connection was being recorded.');
  }
  return { key: document.key, rev: outcome.rev, value };
}

/**
 * The writes that end a point of which the last clone in work was flattened. Another clone of it, whose flattening was
 * cancelled, keeps it and takes it along when it is purged. Where there is none, the volume's record must forget it: that is
 * left to the reaper, which sees to it that it is gone.
 */
async function letPointGo(core: CoreContext, document: StoredDocument<PointInTime>): Promise<readonly Write[]> {
  const { id, poolId, volumeId, point } = document.value;
  const clones = await listAll<Snapshot | Debris>(core.store, indexes.childrenOf(volumeId));
  const other = clones.find(
    ({ value }) => point !== undefined && value.image?.parent?.point.backendId === point.backendId,
  );
  const ended: Write = { kind: 'delete', key: document.key, expect: document.rev };
  // Should it be purged at the same time, one of the two sees that the other went.
  if (other !== undefined) return [ended, { kind: 'check', key: other.key, expect: other.rev }];
  if (point === undefined) return [ended];
  return [putPoint({ id, poolId, volumeId, point, operationIds: [] }, document.rev)];
}
