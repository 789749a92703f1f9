import { MoorageError } from '../../errors.js';
import type { Intent, Next, OperationDefinition, PhaseContext } from '../../journal/definition.js';
import { expireDependents, KEPT_MILLISECONDS, putDebris, putSnapshot, putTombstone } from '../../journal/documents.js';
import { newId, requireId } from '../../model/ids.js';
import type { ImageParent, ImageRecord } from '../../model/image.js';
import type { StoredFailure } from '../../model/operation.js';
import type { Snapshot } from '../../model/resources.js';
import { requireTags, requireText } from '../../model/validation.js';
import type { BackendError } from '../../ports/backend.js';
import { snapshotTo } from '../../transitions.js';
import { type CoreContext, getPool, getSnapshot, getVolume, requireEtag } from '../context.js';
import { requireImage, snapshotIdentityOf } from '../identity.js';
import { debrisOf, type ImagePlan, imageRecord, isLostConnection, makeImage, refusal } from '../images.js';
import type { CreateSnapshot } from '../types.js';
import { BASE_POINT, tooDeep } from '../volumes/create-volume.js';
import { requireAvailable } from '../volumes/expand-volume.js';
import { endFlattening, flattenFurther, forgetParent } from './flatten.js';
import { leave, removeIfLast } from './leave-point.js';
import type { PointsInTime } from './points.js';

/*
 * CreateSnapshot: commit the snapshot as `pending` → take the point in time, shared with whoever else waits for one of this
 * volume (points.ts); what the volume acknowledged before is in the snapshot → clone the point to an image of the snapshot's
 * own and take `base` of it, from which volumes will be cloned → where the chain of clones has become long, flatten that image
 * (flatten.ts) → the last member removes the volume's point → commit as `completed`.
 */

/** Plan of the operation. */
export interface CreateSnapshotPlan {
  readonly volumeId: string;
  /** Name of the snapshot's image; moves on when a step is done again. */
  readonly imageName: string;
  /** The shared point, from when it is recorded. */
  readonly pointId?: string;
  /** From when the point is taken. */
  readonly parent?: ImageParent;
  readonly sizeBytes?: number;
  /** From when it is made; without a parent from when it is flattened. */
  readonly image?: ImageRecord;
  /** Whether its image is to be flattened. */
  readonly flatten?: boolean;
  /** Whether it is of no use unless it is flattened: volumes made from it must read nothing that a node may write. */
  readonly isolate?: boolean;
  /** From when it is known that it was not flattened although it was to be: why, for people. */
  readonly notFlattened?: string;
  /** From when a step was refused for good: what the caller is told once the point is left. */
  readonly failure?: StoredFailure;
}

type Context = PhaseContext<CreateSnapshotPlan>;

/** Checks a request's fields. @throws MoorageError */
export function checkCreateSnapshot(request: CreateSnapshot): void {
  requireId('vol', 'volume_id', request.volumeId);
  requireText('display_name', request.displayName);
  requireTags(request.tags);
}

/** What the call comes to, from what the store holds now. */
export async function intendCreateSnapshot(
  core: CoreContext,
  request: CreateSnapshot,
): Promise<Intent & { readonly snapshot: Snapshot }> {
  const document = await getVolume(core.store, request.volumeId);
  const volume = document.value;
  requireEtag(document, request.etag);
  requireAvailable(volume);
  const cloneDepth = volume.cloneDepth + 1;
  if (cloneDepth > core.settings.hardCloneDepth) throw tooDeep(volume.id, cloneDepth, core.settings.hardCloneDepth);
  const now = core.clock.now();
  const snapshot: Snapshot = {
    id: newId('snap'),
    poolId: volume.poolId,
    volumeId: volume.id,
    state: 'pending',
    statusMessage: '',
    sizeBytes: volume.sizeBytes,
    displayName: request.displayName,
    tags: request.tags,
    encrypted: volume.encrypted,
    createTime: now,
    updateTime: now,
    cloneDepth,
    operationId: newId('op'),
  };
  const isolate = (await getPool(core.store, volume.poolId)).value.settings.isolate === true;
  const plan: CreateSnapshotPlan = {
    volumeId: volume.id,
    imageName: snapshot.id,
    ...(cloneDepth < core.settings.softCloneDepth && !isolate ? {} : { flatten: true }),
    ...(isolate ? { isolate } : {}),
  };
  return {
    intent: 'operation',
    kind: 'snapshot.create',
    operationId: snapshot.operationId ?? '',
    resourceId: snapshot.id,
    poolId: volume.poolId,
    firstPhase: 'take-point',
    plan,
    locks: [
      { resourceId: snapshot.id, mode: 'exclusive' },
      { resourceId: volume.id, mode: 'shared' },
    ],
    writes: [putSnapshot(snapshot, 'absent'), { kind: 'check', key: document.key, expect: document.rev }],
    snapshot,
  };
}

/** How the operation is carried out. */
export function createSnapshotDefinition(
  core: CoreContext,
  points: PointsInTime,
): OperationDefinition<CreateSnapshotPlan> {
  return {
    kind: 'snapshot.create',
    phases: {
      'take-point': async (context) => {
        await points.take(context);
        return { kind: 'reload' };
      },
      'create-image': (context) => createImage(core, context),
      flatten: (context) => flatten(core, context),
      'remove-point': (context) => leavePoint(core, context),
      abandon: async (context) => abandoned(core, context, await removeIfLast(core, context)),
    },
    onRefused: async (context, error) => refused(core, context, error),
    cancellable: ({ phase, plan }) => plan.flatten === true && plan.isolate !== true && BEFORE_FLATTENED.has(phase),
    images: async (plan, { resourceId }) => {
      const volume = await getVolume(core.store, plan.volumeId);
      const snapshot = await getSnapshot(core.store, resourceId);
      return [
        requireImage(volume.value),
        imageRecord(imagePlan(snapshot.value, plan), plan.image?.backendId ?? '', []),
      ];
    },
  };
}

/** Phases in which a flattening can still be left out, or broken off. */
const BEFORE_FLATTENED: ReadonlySet<string> = new Set(['take-point', 'create-image', 'flatten']);

function imagePlan(snapshot: Snapshot, plan: CreateSnapshotPlan): ImagePlan {
  const identity = {
    ...snapshotIdentityOf(snapshot),
    name: plan.imageName,
    sizeBytes: plan.sizeBytes ?? snapshot.sizeBytes,
    ...(plan.parent === undefined ? {} : { parent: plan.parent }),
  };
  return { identity, pointName: BASE_POINT, ...(plan.parent === undefined ? {} : { parent: plan.parent }) };
}

async function createImage(core: CoreContext, context: Context): Promise<Next<CreateSnapshotPlan>> {
  const { operation, plan } = context;
  const pool = (await getPool(core.store, operation.poolId)).value;
  const snapshot = (await getSnapshot(core.store, operation.resourceId)).value;
  const outcome = await makeImage(core, context, pool, imagePlan(snapshot, plan));
  if ('made' in outcome) return afterImage(context, outcome.made);
  const { again, debris } = outcome;
  return {
    kind: 'phase',
    phase: 'create-image',
    plan: { ...plan, imageName: again.identity.name },
    writes: async () => [putDebris(debris, 'any')],
  };
}

function afterImage({ operation, plan }: Context, image: ImageRecord): Next<CreateSnapshotPlan> {
  const made = { ...plan, image };
  if (plan.flatten !== true) return { kind: 'phase', phase: 'remove-point', plan: made };
  // From here it may take hours, and the volume is needed only as the parent of what is its child in the store: it can be
  // expanded, exported and deleted meanwhile.
  const locks = operation.locks.filter((lock) => lock.resourceId === operation.resourceId);
  return { kind: 'phase', phase: 'flatten', plan: made, locks };
}

/** Flattens the snapshot's image, unless it was cancelled; then it is as it was, or flattened all the same. */
async function flatten(core: CoreContext, context: Context): Promise<Next<CreateSnapshotPlan>> {
  const { operation, plan } = context;
  const { image } = plan;
  if (image === undefined) return { kind: 'phase', phase: 'create-image', plan };
  const pool = (await getPool(core.store, operation.poolId)).value;
  const cancelled = operation.cancelRequested === true ? 'it was cancelled' : undefined;
  const notFlattened = plan.notFlattened ?? cancelled;
  const outcome = await (notFlattened === undefined
    ? flattenFurther(core, context, pool, image)
    : endFlattening(core, context, pool, image));
  if (outcome.kind === 'going-on') {
    const { progressPercent } = outcome;
    // Read again each time: it may have been cancelled.
    if (progressPercent === operation.progressPercent) return { kind: 'reload' };
    return { kind: 'phase', phase: 'flatten', plan, progressPercent };
  }
  if (outcome.kind === 'not-flattened') {
    return { kind: 'phase', phase: 'remove-point', plan: { ...plan, notFlattened: notFlattened ?? '' } };
  }
  const snapshot = (await getSnapshot(core.store, operation.resourceId)).value;
  const { parent: _, ...identity } = imagePlan(snapshot, plan).identity;
  await forgetParent(core, context, pool, identity);
  const { notFlattened: __, ...flattened } = plan;
  return { kind: 'phase', phase: 'remove-point', plan: { ...flattened, image: outcome.image } };
}

/** Leaves the shared point, and removes it from the backend when nobody else needs it. */
async function leavePoint(core: CoreContext, context: Context): Promise<Next<CreateSnapshotPlan>> {
  const { operation, plan } = context;
  const { image } = plan;
  if (image === undefined) return { kind: 'phase', phase: 'create-image', plan };
  const removed = await removeIfLast(core, context);
  return {
    kind: 'succeeded',
    writes: async () => {
      const document = await getSnapshot(core.store, operation.resourceId);
      const { operationId: _, ...snapshot } = snapshotTo(document.value, 'completed');
      const completed = { ...snapshot, ...depthOf(plan, snapshot), image, updateTime: core.clock.now() };
      return [putSnapshot(completed, document.rev), ...(await leave(core, context, removed))];
    },
  };
}

/** How deep it lies in the end, and why so deep. */
function depthOf(
  { image, notFlattened }: CreateSnapshotPlan,
  { cloneDepth }: Snapshot,
): Pick<Snapshot, 'cloneDepth' | 'statusMessage'> {
  if (image?.parent === undefined) return { cloneDepth: 0, statusMessage: '' };
  const statusMessage =
    notFlattened === undefined ? '' : `It lies ${cloneDepth} generations deep and was not flattened: ${notFlattened}.`;
  return { cloneDepth, statusMessage };
}

/** A step was refused for good: the point is left, and removed if nobody else needs it, before the failure is committed. */
async function refused(core: CoreContext, context: Context, error: BackendError): Promise<Next<CreateSnapshotPlan>> {
  if (isLostConnection(error)) return { kind: 'reload' };
  // Not even the way back is possible: the volume's record keeps a point that was taken, and it goes with the volume.
  if (context.plan.failure !== undefined) return abandoned(core, context, true, true);
  if (
    context.operation.phase === 'flatten' &&
    error.code === 'RESOURCE_EXHAUSTED' &&
    context.plan.isolate !== true &&
    context.plan.notFlattened === undefined
  ) {
    // A full pool: the snapshot is good without it, too.
    return { kind: 'phase', phase: 'flatten', plan: { ...context.plan, notFlattened: error.message } };
  }
  const { code, message, reason, metadata } = refusal(error, 'The snapshot could not be made');
  return { kind: 'phase', phase: 'abandon', plan: { ...context.plan, failure: { code, message, reason, metadata } } };
}

async function abandoned(
  core: CoreContext,
  context: Context,
  removed: boolean,
  givenUp = false,
): Promise<Next<CreateSnapshotPlan>> {
  const { operation, plan } = context;
  const pool = (await getPool(core.store, operation.poolId)).value;
  const stored = plan.failure;
  const failure = new MoorageError(stored?.code ?? 'INTERNAL', stored?.message ?? 'The snapshot could not be made.', {
    reason: stored?.reason ?? 'INTERNAL',
    metadata: stored?.metadata ?? {},
  });
  return {
    kind: 'failed',
    failure,
    writes: async () => {
      const document = await getSnapshot(core.store, operation.resourceId);
      snapshotTo(document.value, 'gone');
      const now = core.clock.now();
      const tombstone = {
        id: document.value.id,
        state: 'gone' as const,
        goneTime: now,
        reason: failure.message,
        poolId: operation.poolId,
      };
      return [
        putTombstone(document.key, tombstone, document.rev),
        debrisOf(core, pool, imagePlan(document.value, plan), failure.message, plan.image),
        ...(await leave(core, context, removed, givenUp)),
        ...(await expireDependents(core.store, document.value.id, now + KEPT_MILLISECONDS)),
      ];
    },
  };
}
