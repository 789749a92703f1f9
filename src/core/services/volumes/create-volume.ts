import { invalidField, MoorageError } from '../../errors.js';
import type { Intent, Next, OperationDefinition, PhaseContext } from '../../journal/definition.js';
import {
  expireDependents,
  KEPT_MILLISECONDS,
  keys,
  putDebris,
  putTombstone,
  putVolume,
} from '../../journal/documents.js';
import { newId, requireId } from '../../model/ids.js';
import type { Pool, Snapshot, Volume } from '../../model/resources.js';
import { requireName, requireTags, requireText, requireVolumeSize } from '../../model/validation.js';
import type { BackendError } from '../../ports/backend.js';
import type { StoredDocument } from '../../ports/store.js';
import { volumeTo } from '../../transitions.js';
import { type CoreContext, getPool, getSnapshot, getVolume } from '../context.js';
import { identityOf } from '../identity.js';
import { debrisOf, type ImagePlan, imageRecord, makeImage, refusal } from '../images.js';
import type { CreateVolume } from '../types.js';

/*
 * CreateVolume: commit the volume as `creating` → catalogue entry and image (a clone of the snapshot's base, or an empty one)
 * → commit it as `available`. When the backend refuses: the volume is gone, with the reason, and what may have been made is
 * debris for the reaper.
 */

/** Plan of the operation. */
export interface CreateVolumePlan {
  readonly image: ImagePlan;
}

/** The point of a snapshot's image that volumes are cloned from. */
export const BASE_POINT = 'base';

/** Checks a request's fields. @throws MoorageError */
export function checkCreateVolume(request: CreateVolume): void {
  if (request.sourceSnapshotId === '') {
    requireName('pool_id', request.poolId);
    requireVolumeSize('size_bytes', request.sizeBytes);
  } else {
    requireId('snap', 'source.snapshot_id', request.sourceSnapshotId);
    if (request.poolId !== '') requireName('pool_id', request.poolId);
    if (request.sizeBytes !== 0) requireVolumeSize('size_bytes', request.sizeBytes);
  }
  requireText('display_name', request.displayName);
  requireTags(request.tags);
  if (request.encrypted) {
    throw new MoorageError('UNIMPLEMENTED', 'encrypted: encrypted volumes are not implemented in this version.');
  }
}

/** What the call comes to, from what the store holds now. */
export async function intendCreateVolume(
  core: CoreContext,
  request: CreateVolume,
): Promise<Intent & { readonly volume: Volume }> {
  const source = request.sourceSnapshotId === '' ? undefined : await getSnapshot(core.store, request.sourceSnapshotId);
  const pool = await poolFor(core, request, source?.value);
  requireOpenPool(pool.value);
  const { sizeBytes, cloneDepth } = measure(core, request, source?.value);
  const now = core.clock.now();
  const volume: Volume = {
    id: newId('vol'),
    poolId: pool.value.id,
    state: 'creating',
    statusMessage: '',
    sizeBytes,
    ...(source === undefined ? {} : { sourceSnapshotId: source.value.id }),
    displayName: request.displayName,
    tags: request.tags,
    encrypted: false,
    multiAttach: request.multiAttach,
    createTime: now,
    updateTime: now,
    cloneDepth,
    exportIds: [],
    operationId: newId('op'),
  };
  const plan: CreateVolumePlan = { image: planImage(volume, source?.value) };
  return {
    intent: 'operation',
    kind: 'volume.create',
    operationId: volume.operationId ?? '',
    resourceId: volume.id,
    poolId: pool.value.id,
    firstPhase: 'create-image',
    plan,
    locks: [
      { resourceId: volume.id, mode: 'exclusive' },
      ...(source === undefined ? [] : [{ resourceId: source.value.id, mode: 'shared' as const }]),
    ],
    writes: [
      putVolume(volume, 'absent'),
      { kind: 'check', key: keys.pool(pool.value.id), expect: pool.rev },
      ...(source === undefined
        ? []
        : [{ kind: 'check' as const, key: keys.snapshot(source.value.id), expect: source.rev }]),
    ],
    volume,
  };
}

/** Refuses a pool that is being deleted. @throws MoorageError FAILED_PRECONDITION */
function requireOpenPool(pool: Pool): void {
  if (pool.operationId === undefined) return;
  throw new MoorageError('FAILED_PRECONDITION', `The pool ${pool.id} is being deleted.`, {
    reason: 'POOL_BEING_DELETED',
    metadata: { pool_id: pool.id, operation_id: pool.operationId },
  });
}

async function poolFor(
  core: CoreContext,
  request: CreateVolume,
  source: Snapshot | undefined,
): Promise<StoredDocument<Pool>> {
  if (source === undefined) return getPool(core.store, request.poolId);
  if (request.poolId !== '' && request.poolId !== source.poolId) {
    throw invalidField('pool_id', `must be the snapshot's pool, ${source.poolId}, or empty`);
  }
  return getPool(core.store, source.poolId);
}

function measure(
  core: CoreContext,
  request: CreateVolume,
  source: Snapshot | undefined,
): { readonly sizeBytes: number; readonly cloneDepth: number } {
  if (source === undefined) return { sizeBytes: request.sizeBytes, cloneDepth: 0 };
  if (source.state !== 'completed') {
    throw new MoorageError(
      'FAILED_PRECONDITION',
      `The snapshot ${source.id} is ${source.state}; it must be completed.`,
      {
        reason: 'SNAPSHOT_NOT_COMPLETED',
        metadata: { snapshot_id: source.id, state: source.state },
      },
    );
  }
  if (request.sizeBytes !== 0 && request.sizeBytes < source.sizeBytes) {
    throw invalidField(
      'size_bytes',
      `must be at least the snapshot's ${source.sizeBytes} bytes, or 0 for the same, and is ${request.sizeBytes}`,
    );
  }
  const cloneDepth = source.cloneDepth + 1;
  if (cloneDepth > core.settings.hardCloneDepth) throw tooDeep(source.id, cloneDepth, core.settings.hardCloneDepth);
  return { sizeBytes: request.sizeBytes === 0 ? source.sizeBytes : request.sizeBytes, cloneDepth };
}

/** The refusal of a clone that would be too deep. */
export function tooDeep(sourceId: string, depth: number, limit: number): MoorageError {
  return new MoorageError(
    'FAILED_PRECONDITION',
    `What is made from ${sourceId} would be ${depth} generations deep; the limit is ${limit}. Copy the data into a new volume.`,
    { reason: 'CLONE_TOO_DEEP', metadata: { source_id: sourceId, depth: String(depth), limit: String(limit) } },
  );
}

function planImage(volume: Volume, source: Snapshot | undefined): ImagePlan {
  const base = source?.image?.points.find((point) => point.name === BASE_POINT);
  const parent =
    source?.image === undefined || base === undefined
      ? undefined
      : { name: source.image.name, backendId: source.image.backendId, point: base, resourceId: source.id };
  return {
    identity: { ...identityOf(volume), ...(parent === undefined ? {} : { parent }) },
    pointName: '',
    ...(parent === undefined ? {} : { parent }),
  };
}

/** How the operation is carried out. */
export function createVolumeDefinition(core: CoreContext): OperationDefinition<CreateVolumePlan> {
  return {
    kind: 'volume.create',
    phases: { 'create-image': (context) => createImage(core, context) },
    onRefused: (context, error) => giveUp(core, context, error),
    images: async (plan) => [imageRecord(plan.image, '', [])],
  };
}

async function createImage(
  core: CoreContext,
  context: PhaseContext<CreateVolumePlan>,
): Promise<Next<CreateVolumePlan>> {
  const { operation, plan } = context;
  const pool = (await getPool(core.store, operation.poolId)).value;
  const outcome = await makeImage(core, context, pool, plan.image);
  if ('again' in outcome) {
    const { again, debris } = outcome;
    return {
      kind: 'phase',
      phase: 'create-image',
      plan: { image: again },
      writes: async () => [putDebris(debris, 'any')],
    };
  }
  return {
    kind: 'succeeded',
    writes: async () => {
      const document = await getVolume(core.store, operation.resourceId);
      const { operationId: _, ...volume } = volumeTo(document.value, 'available');
      return [putVolume({ ...volume, image: outcome.made, updateTime: core.clock.now() }, document.rev)];
    },
  };
}

async function giveUp(
  core: CoreContext,
  context: PhaseContext<CreateVolumePlan>,
  error: BackendError,
): Promise<Next<CreateVolumePlan>> {
  const { operation, plan } = context;
  const pool = (await getPool(core.store, operation.poolId)).value;
  const failure = refusal(error, 'The volume could not be made');
  return {
    kind: 'failed',
    failure,
    writes: async () => {
      const document = await getVolume(core.store, operation.resourceId);
      volumeTo(document.value, 'gone');
      const now = core.clock.now();
      const tombstone = {
        id: document.value.id,
        state: 'gone' as const,
        goneTime: now,
        reason: failure.message,
        poolId: pool.id,
      };
      return [
        putTombstone(document.key, tombstone, document.rev),
        debrisOf(core, pool, plan.image, failure.message),
        ...(await expireDependents(core.store, document.value.id, now + KEPT_MILLISECONDS)),
      ];
    },
  };
}
