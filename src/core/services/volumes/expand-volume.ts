import { invalidField, MoorageError } from '../../errors.js';
import type { Intent, Next, OperationDefinition, PhaseContext } from '../../journal/definition.js';
import { putVolume } from '../../journal/documents.js';
import { newId } from '../../model/ids.js';
import type { Pool, Volume } from '../../model/resources.js';
import { requireVolumeSize } from '../../model/validation.js';
import type { BackendError, OwnConnection } from '../../ports/backend.js';
import type { StoredDocument } from '../../ports/store.js';
import { imageEntry } from '../catalogue.js';
import { type CoreContext, getPool, getVolume, requireEtag } from '../context.js';
import { identityOf, requireImage } from '../identity.js';
import { closeConnection, isLostConnection, refusal } from '../images.js';
import type { ExpandVolume } from '../types.js';

/*
 * ExpandVolume: a node may have the image open, so the work goes through a connection of its own whose addresses are in the
 * plan: open it → catalogue entry with the new size → flush and resize → commit the size. Never smaller. The guest sees the
 * new size when the node's storage-utils extends.
 */

/** Plan of the operation. */
export interface ExpandVolumePlan {
  readonly sizeBytes: number;
  readonly connection?: OwnConnection;
}

/** What the call comes to, from what the store holds now. */
export async function intendExpandVolume(
  core: CoreContext,
  request: ExpandVolume,
): Promise<Intent & { readonly document: StoredDocument<Volume> }> {
  requireVolumeSize('size_bytes', request.sizeBytes);
  const document = await getVolume(core.store, request.id);
  const volume = document.value;
  requireEtag(document, request.etag);
  requireAvailable(volume);
  if (request.sizeBytes < volume.sizeBytes) {
    throw invalidField(
      'size_bytes',
      `must not be less than the size now, ${volume.sizeBytes} bytes; a volume never shrinks`,
    );
  }
  if (request.sizeBytes === volume.sizeBytes && volume.operationId === undefined) {
    return { intent: 'nothing', resourceId: volume.id, operationId: '', document };
  }
  const operationId = newId('op');
  const plan: ExpandVolumePlan = { sizeBytes: request.sizeBytes };
  return {
    intent: 'operation',
    kind: 'volume.expand',
    operationId,
    resourceId: volume.id,
    poolId: volume.poolId,
    firstPhase: 'connect',
    plan,
    locks: [{ resourceId: volume.id, mode: 'exclusive' }],
    writes: [putVolume({ ...volume, operationId, updateTime: core.clock.now() }, document.rev)],
    document,
  };
}

/** Refuses a volume that cannot be used now. @throws MoorageError FAILED_PRECONDITION */
export function requireAvailable(volume: Volume): void {
  if (volume.state === 'available') return;
  throw new MoorageError('FAILED_PRECONDITION', `The volume ${volume.id} is ${volume.state}; it must be available.`, {
    reason: 'VOLUME_NOT_AVAILABLE',
    metadata: { volume_id: volume.id, state: volume.state, operation_id: volume.operationId ?? '' },
  });
}

/** How the operation is carried out. */
export function expandVolumeDefinition(core: CoreContext): OperationDefinition<ExpandVolumePlan> {
  return {
    kind: 'volume.expand',
    phases: {
      connect: async (context) => {
        const pool = await poolOf(core, context);
        const connection = await context.step('open-connection', (step) =>
          core.backend().data.openConnection(pool, step),
        );
        return { kind: 'phase', phase: 'expand-image', plan: { ...context.plan, connection } };
      },
      'expand-image': (context) => expandImage(core, context),
    },
    onRefused: async (context, error) => giveUp(core, context, error),
    images: async (_plan, operation) => [requireImage((await getVolume(core.store, operation.resourceId)).value)],
  };
}

async function poolOf(core: CoreContext, context: PhaseContext<ExpandVolumePlan>): Promise<Pool> {
  return (await getPool(core.store, context.operation.poolId)).value;
}

async function expandImage(
  core: CoreContext,
  context: PhaseContext<ExpandVolumePlan>,
): Promise<Next<ExpandVolumePlan>> {
  const { plan, operation } = context;
  const { connection, sizeBytes } = plan;
  if (connection === undefined) return { kind: 'phase', phase: 'connect', plan };
  const pool = await poolOf(core, context);
  const { data } = core.backend();
  const volume = (await getVolume(core.store, operation.resourceId)).value;
  const image = requireImage(volume);
  const identity = { ...identityOf(volume), sizeBytes };
  await context.step('put-catalogue-entry', (step) =>
    data.putCatalogueEntry(pool, imageEntry(core.vault, identity), step),
  );
  let expanded: { readonly sizeBytes: number };
  try {
    expanded = await context.step('expand-image', (step) =>
      data.expandImage(pool, { connection, image, sizeBytes }, step),
    );
  } catch (error) {
    if (!isLostConnection(error)) throw error;
    await closeConnection(core, context, pool, connection);
    return { kind: 'phase', phase: 'connect', plan: { sizeBytes } };
  }
  await closeConnection(core, context, pool, connection);
  return {
    kind: 'succeeded',
    writes: async () => {
      const document = await getVolume(core.store, operation.resourceId);
      const { operationId: _, ...rest } = document.value;
      const largestSizeBytes = Math.max(image.largestSizeBytes, expanded.sizeBytes);
      return [
        putVolume(
          {
            ...rest,
            sizeBytes: expanded.sizeBytes,
            image: { ...requireImage(document.value), sizeBytes: expanded.sizeBytes, largestSizeBytes },
            updateTime: core.clock.now(),
          },
          document.rev,
        ),
      ];
    },
  };
}

async function giveUp(
  core: CoreContext,
  context: PhaseContext<ExpandVolumePlan>,
  error: BackendError,
): Promise<Next<ExpandVolumePlan>> {
  const { connection } = context.plan;
  if (connection !== undefined) {
    const pool = await poolOf(core, context);
    const { data } = core.backend();
    const volume = (await getVolume(core.store, context.operation.resourceId)).value;
    await context.step('put-catalogue-entry', (step) =>
      data.putCatalogueEntry(pool, imageEntry(core.vault, identityOf(volume)), step),
    );
    // An agent has only so many: one that nobody closes is lost until it restarts.
    await closeConnection(core, context, pool, connection);
  }
  return {
    kind: 'failed',
    failure: refusal(error, 'The volume could not be expanded'),
    writes: async () => {
      const document = await getVolume(core.store, context.operation.resourceId);
      const { operationId: _, ...volume } = document.value;
      return [putVolume({ ...volume, updateTime: core.clock.now() }, document.rev)];
    },
  };
}
