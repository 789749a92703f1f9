import { MoorageError } from '../../errors.js';
import { cutOffWrites } from '../../journal/cut-offs.js';
import type { Intent, Next, OperationDefinition, PhaseContext } from '../../journal/definition.js';
import { keys, putExport } from '../../journal/documents.js';
import { newId } from '../../model/ids.js';
import type { Operation, StoredFailure } from '../../model/operation.js';
import type { Export, Pool } from '../../model/resources.js';
import type { BackendError } from '../../ports/backend.js';
import type { StoredDocument } from '../../ports/store.js';
import { exportTo } from '../../transitions.js';
import { type CoreContext, findExport, getExport, getPool, getVolume } from '../context.js';
import { requireImage } from '../identity.js';
import { refusal } from '../images.js';
import type { Caller, Unexport } from '../types.js';
import { clientsOf } from './clients.js';
import { endExport } from './create-export.js';

/*
 * UNEXPORT
 *
 * After it the volume may go elsewhere, so its answer is a promise: nobody reaches the volume through this export any more.
 * Withdrawn rights do not touch a connection that is open, so rights alone are not enough.
 *
 * Without force: refused while the export is open on its node, which is so while a client is connected as its user, watches
 * the image, or owns its lock (a frozen host loses its watch after half a minute, and still comes back to write).
 *
 * In this order, and each found client is committed to the plan before it is cut off:
 *   1. the user is deleted: no new connection;
 *   2. its clients are listed (somebody may have connected in between, whatever was seen before);
 *   3. each is cut off, and every server of the pool is known to refuse it; that it is to stay so is committed with the plan;
 *   4. listed again, until there is nothing new;
 *   5. the locks that they left are broken, by exact owner;
 *   6. the catalogue entry goes; the export is gone.
 */

/** Plan of the operation. */
export interface RemoveExportPlan {
  readonly force: boolean;
  /** Clients that were cut off, or are to be. */
  readonly targets: readonly string[];
  /** Set on the way back. */
  readonly failure?: StoredFailure;
}

type Context = PhaseContext<RemoveExportPlan>;

/** What the call comes to, from what the store holds now. */
export async function intendUnexport(
  core: CoreContext,
  request: Unexport,
  caller: Caller,
): Promise<Intent & { readonly document: StoredDocument<Export> | undefined }> {
  const found = await findExport(core.store, request.exportId);
  const nothing = { intent: 'nothing' as const, resourceId: request.exportId };
  if (found.value.state === 'gone') return { ...nothing, operationId: '', document: undefined };
  const document = found as StoredDocument<Export>;
  const item = document.value;
  if (caller.role === 'node' && item.nodeId !== caller.name) {
    throw new MoorageError('NOT_FOUND', `There is no export ${JSON.stringify(item.id)}.`, { reason: 'NOT_FOUND' });
  }
  if (request.force && caller.role !== 'admin') {
    throw new MoorageError('PERMISSION_DENIED', 'force: only an administrator may cut a node off.', {
      reason: 'FORCE_NEEDS_ADMIN',
    });
  }
  if (item.state === 'exporting') {
    throw new MoorageError(
      'ABORTED',
      `The export ${item.id} is being made by ${item.operationId}. Withdraw it after that.`,
      {
        reason: 'OPERATION_IN_PROGRESS',
        metadata: { export_id: item.id, operation_id: item.operationId ?? '' },
        retryAfterMilliseconds: 500,
      },
    );
  }
  if (item.state === 'unexporting' && (!request.force || (await isForced(core, item)))) {
    return { ...nothing, operationId: item.operationId ?? '', document };
  }
  const operationId = newId('op');
  const plan: RemoveExportPlan = { force: request.force, targets: [] };
  const unexporting = item.state === 'unexporting' ? item : exportTo(item, 'unexporting');
  return {
    intent: 'operation',
    kind: 'export.remove',
    operationId,
    resourceId: item.id,
    poolId: item.poolId,
    firstPhase: request.force ? 'withdraw' : 'check-closed',
    plan,
    locks: [{ resourceId: item.id, mode: 'exclusive' }],
    writes: [putExport({ ...unexporting, operationId, updateTime: core.clock.now() }, document.rev)],
    document,
  };
}

/** Whether the withdrawal that is under way cuts the node off anyhow. */
async function isForced(core: CoreContext, item: Export): Promise<boolean> {
  const running = await core.store.get<Operation<RemoveExportPlan | null>>(keys.operation(item.operationId ?? ''));
  return running?.value.plan?.force === true;
}

/** How the operation is carried out. */
export function removeExportDefinition(core: CoreContext): OperationDefinition<RemoveExportPlan> {
  return {
    kind: 'export.remove',
    phases: {
      'check-closed': (context) => checkClosed(core, context),
      withdraw: (context) => withdraw(core, context),
      'cut-off': (context) => cutOff(core, context),
      'forget-export': (context) => forget(core, context),
    },
    // Nothing of this may be given up: the volume stays where it is until the promise holds.
    onRefused: async (context, error) => {
      if (context.operation.phase === 'check-closed') return reopen(core, context.operation.resourceId, refused(error));
      throw new Error(`The withdrawal of ${context.operation.resourceId} was refused: ${error.message}`, {
        cause: error,
      });
    },
    images: async (_plan, { resourceId }) => {
      const item = await getExport(core.store, resourceId);
      return [requireImage((await getVolume(core.store, item.value.volumeId)).value)];
    },
  };
}

function refused(error: BackendError): MoorageError {
  return refusal(error, 'The export could not be withdrawn');
}

interface Subject {
  readonly item: Export;
  readonly pool: Pool;
  readonly image: ReturnType<typeof requireImage>;
}

async function subject(core: CoreContext, context: Context): Promise<Subject> {
  const item = (await getExport(core.store, context.operation.resourceId)).value;
  const pool = (await getPool(core.store, item.poolId)).value;
  return { item, pool, image: requireImage((await getVolume(core.store, item.volumeId)).value) };
}

/** Without force: refuses while somebody has the export open. */
async function checkClosed(core: CoreContext, context: Context): Promise<Next<RemoveExportPlan>> {
  const { item } = await subject(core, context);
  const open = await clientsOf(core, context.step, item);
  if (open.length === 0) return { kind: 'phase', phase: 'withdraw', plan: context.plan };
  const failure = new MoorageError(
    'FAILED_PRECONDITION',
    `The volume ${item.volumeId} is still open on ${item.nodeId} (${open.join(', ')}). ` +
      'Detach it there first, or unexport with force to cut that node off.',
    {
      reason: 'EXPORT_OPEN',
      metadata: { export_id: item.id, volume_id: item.volumeId, node_id: item.nodeId, addresses: open.join(',') },
    },
  );
  return reopen(core, item.id, failure);
}

function reopen(core: CoreContext, exportId: string, failure: MoorageError): Next<RemoveExportPlan> {
  return {
    kind: 'failed',
    failure,
    writes: async () => {
      const document = await getExport(core.store, exportId);
      const { operationId: _, ...item } = exportTo(document.value, 'exported');
      return [putExport({ ...item, updateTime: core.clock.now() }, document.rev)];
    },
  };
}

/** Deletes the user, then finds whom that left connected. */
async function withdraw(core: CoreContext, context: Context): Promise<Next<RemoveExportPlan>> {
  const { item, pool } = await subject(core, context);
  await context.step('revoke-access', (step) => core.backend().fence.revokeAccess(pool, item.id, step));
  const open = await clientsOf(core, context.step, item);
  const fresh = open.filter((address) => !context.plan.targets.includes(address));
  if (fresh.length === 0) return { kind: 'phase', phase: 'forget-export', plan: context.plan };
  const { id: subjectId, nodeId } = item;
  return {
    kind: 'phase',
    phase: 'cut-off',
    plan: { ...context.plan, targets: [...context.plan.targets, ...fresh] },
    writes: async () =>
      cutOffWrites(core.clock, pool.settings.cluster, fresh, {
        reason: 'export',
        subjectId,
        nodeId,
        provenDead: false,
      }),
  };
}

/** Cuts the recorded clients off and breaks the locks that they left; then looks again. */
async function cutOff(core: CoreContext, context: Context): Promise<Next<RemoveExportPlan>> {
  const { pool, image } = await subject(core, context);
  const { fence } = core.backend();
  const { targets } = context.plan;
  const expirySeconds = core.settings.cutOffExpirySeconds;
  await context.step('cut-off', (step) => fence.cutOff(pool, { addresses: targets, expirySeconds }, step));
  await context.step('break-locks', (step) => fence.breakLocks(pool, { image, ownerAddresses: targets }, step));
  return { kind: 'phase', phase: 'withdraw', plan: context.plan };
}

async function forget(core: CoreContext, context: Context): Promise<Next<RemoveExportPlan>> {
  const { item, pool } = await subject(core, context);
  await context.step('remove-catalogue-entry', (step) => core.backend().data.removeCatalogueEntry(pool, item.id, step));
  return { kind: 'succeeded', writes: () => endExport(core, item.id) };
}
