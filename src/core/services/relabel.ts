import { MoorageError } from '../errors.js';
import type { Intent, Next, OperationDefinition, PhaseContext } from '../journal/definition.js';
import { newId } from '../model/ids.js';
import type { OperationKind } from '../model/operation.js';
import { requireText } from '../model/validation.js';
import { BackendError } from '../ports/backend.js';
import type { StoredDocument, Write } from '../ports/store.js';
import { type ImageIdentity, imageEntry } from './catalogue.js';
import { type CoreContext, getPool, requireEtag } from './context.js';
import { refusal } from './images.js';
import type { UpdateLabels } from './types.js';
import { readUpdateMask, sameTags } from './update-mask.js';

/*
 * UpdateVolume and UpdateSnapshot: name and tags. They stand in the catalogue too, from which a store can be made again, so
 * this is an operation: its plan holds what they are to be → catalogue entry → commit them. It may run beside snapshots and
 * exports, but not beside what writes the catalogue entry as well (expand, delete, undelete: they want the resource alone)
 * nor beside another update, which has the same second lock.
 */

/** A volume or a snapshot, as far as its labels are concerned. */
export interface Labelled {
  readonly id: string;
  readonly poolId: string;
  readonly state: string;
  readonly displayName: string;
  readonly tags: Readonly<Record<string, string>>;
  readonly updateTime: number;
  readonly operationId?: string;
}

/** What differs between volumes and snapshots. */
export interface LabelKind<R extends Labelled> {
  readonly operationKind: OperationKind;
  /** "volume", "snapshot". */
  readonly noun: string;
  /** The state of one that can be used. */
  readonly usable: 'available' | 'completed';
  get(id: string): Promise<StoredDocument<R>>;
  put(resource: R, expect: number): Write;
  identity(resource: R): ImageIdentity;
}

/** Plan of the operation. */
export interface RelabelPlan {
  readonly displayName: string;
  readonly tags: Readonly<Record<string, string>>;
}

/** What an update comes to, from what the store holds now; `changed` is the resource as it will be. */
export async function intendRelabel<R extends Labelled>(
  core: CoreContext,
  kind: LabelKind<R>,
  request: UpdateLabels,
): Promise<Intent & { readonly document: StoredDocument<R>; readonly changed: R }> {
  const mask = readUpdateMask(request.updateMask, ['display_name']);
  if (mask.has('display_name')) requireText('display_name', request.displayName);
  const document = await kind.get(request.id);
  const resource = document.value;
  requireEtag(document, request.etag);
  requireUsable(kind, resource);
  const plan: RelabelPlan = {
    displayName: mask.has('display_name') ? request.displayName : resource.displayName,
    tags: mask.tags(resource.tags, request.tags),
  };
  const now = core.clock.now();
  const changed = { ...resource, ...plan, updateTime: now };
  if (plan.displayName === resource.displayName && sameTags(plan.tags, resource.tags)) {
    // The token is recorded all the same: should the call arrive once more after another update, it must change nothing.
    const check = { kind: 'check' as const, key: document.key, expect: document.rev };
    return { intent: 'immediate', resourceId: resource.id, writes: [check], document, changed: resource };
  }
  const operationId = newId('op');
  return {
    intent: 'operation',
    kind: kind.operationKind,
    operationId,
    resourceId: resource.id,
    poolId: resource.poolId,
    firstPhase: 'put-catalogue-entry',
    plan,
    locks: [
      { resourceId: resource.id, mode: 'shared' },
      { resourceId: `${resource.id}/labels`, mode: 'exclusive' },
    ],
    writes: [kind.put({ ...resource, operationId, updateTime: now }, document.rev)],
    document,
    changed,
  };
}

function requireUsable<R extends Labelled>(kind: LabelKind<R>, resource: R): void {
  if (resource.state === kind.usable) return;
  throw new MoorageError(
    'FAILED_PRECONDITION',
    `The ${kind.noun} ${resource.id} is ${resource.state}; it must be ${kind.usable}.`,
    {
      reason: kind.usable === 'available' ? 'VOLUME_NOT_AVAILABLE' : 'SNAPSHOT_NOT_COMPLETED',
      metadata: { id: resource.id, state: resource.state, operation_id: resource.operationId ?? '' },
    },
  );
}

/** How the operation is carried out. */
export function relabelDefinition<R extends Labelled>(
  core: CoreContext,
  kind: LabelKind<R>,
): OperationDefinition<RelabelPlan> {
  return {
    kind: kind.operationKind,
    phases: {
      'put-catalogue-entry': async (context) => {
        await putEntry(core, kind, context, context.plan);
        return { kind: 'succeeded', writes: () => finished(core, kind, context, context.plan) };
      },
    },
    onRefused: (context, error) => giveUp(core, kind, context, error),
    // A catalogue entry is written without opening any image.
    images: async () => [],
  };
}

async function putEntry<R extends Labelled>(
  core: CoreContext,
  kind: LabelKind<R>,
  context: PhaseContext<RelabelPlan>,
  labels: Partial<RelabelPlan>,
): Promise<void> {
  const pool = (await getPool(core.store, context.operation.poolId)).value;
  const { value } = await kind.get(context.operation.resourceId);
  const entry = imageEntry(core.vault, { ...kind.identity(value), ...labels });
  await context.step('put-catalogue-entry', (step) => core.backend().data.putCatalogueEntry(pool, entry, step));
}

async function finished<R extends Labelled>(
  core: CoreContext,
  kind: LabelKind<R>,
  context: PhaseContext<RelabelPlan>,
  labels: Partial<RelabelPlan>,
): Promise<readonly Write[]> {
  const document = await kind.get(context.operation.resourceId);
  const { operationId: _, ...resource } = document.value;
  return [kind.put({ ...resource, ...labels, updateTime: core.clock.now() } as unknown as R, document.rev)];
}

/** The way back: the entry becomes what it was, because an earlier try of unknown outcome may have written it. */
async function giveUp<R extends Labelled>(
  core: CoreContext,
  kind: LabelKind<R>,
  context: PhaseContext<RelabelPlan>,
  error: BackendError,
): Promise<Next<RelabelPlan>> {
  try {
    await putEntry(core, kind, context, {});
  } catch (second) {
    // A backend that takes neither entry has taken neither.
    if (!(second instanceof BackendError && second.failure === 'permanent')) throw second;
  }
  return {
    kind: 'failed',
    failure: refusal(error, `${context.operation.resourceId} could not be changed`),
    writes: () => finished(core, kind, context, {}),
  };
}
