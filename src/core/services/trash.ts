import { MoorageError } from '../errors.js';
import type { Intent, Next, OperationDefinition, PhaseContext } from '../journal/definition.js';
import { newId } from '../model/ids.js';
import { type ImageRecord, nextImageName } from '../model/image.js';
import type { LockMode, OperationKind } from '../model/operation.js';
import type { Pool, Tombstone } from '../model/resources.js';
import type { BackendError } from '../ports/backend.js';
import type { StoredDocument, Write } from '../ports/store.js';
import { type ImageIdentity, imageEntry } from './catalogue.js';
import { type CoreContext, getPool, requireEtag } from './context.js';
import { requireImage } from './identity.js';
import { refusal } from './images.js';
import type { ResourceMutation } from './types.js';

/*
 * Delete and undelete, alike for volumes and snapshots.
 *
 * Delete: commit as `deleting` → the image goes to the backend's trash → commit as `deleted`, to be purged when the pool's
 * window is over. For the caller it is done then; the reaper does the rest. Refused by the backend (somebody has it open): as
 * it was before.
 *
 * Undelete: under a new name on the backend, which is in the plan and the catalogue first, so that a late delete of the old
 * name hits nothing. It and the reaper's `purging` exclude each other by compare-and-set on the same document.
 */

/** A volume or a snapshot, as far as trash is concerned. */
export interface Trashable {
  readonly id: string;
  readonly poolId: string;
  readonly state: string;
  readonly updateTime: number;
  readonly deleteTime?: number;
  readonly purgeTime?: number;
  readonly operationId?: string;
  readonly image?: ImageRecord;
}

/** What differs between volumes and snapshots. */
export interface TrashKind<R extends Trashable> {
  readonly deleteKind: OperationKind;
  readonly undeleteKind: OperationKind;
  /** The state of one that can be used: "available", "completed". */
  readonly usable: 'available' | 'completed';
  find(id: string): Promise<StoredDocument<R> | StoredDocument<Tombstone>>;
  get(id: string): Promise<StoredDocument<R>>;
  put(resource: R, expect: number): Write;
  to(resource: R, state: 'deleting' | 'deleted' | 'available' | 'completed'): R;
  identity(resource: R): ImageIdentity;
  /** Throws when it must not be deleted now. */
  requireDeletable(resource: R): Promise<void>;
}

/** Plan of an undelete. */
export interface UndeletePlan {
  readonly newName: string;
}

/** What a delete comes to; undefined as the document when the resource was purged long ago. */
export async function intendDelete<R extends Trashable>(
  core: CoreContext,
  kind: TrashKind<R>,
  request: ResourceMutation,
): Promise<Intent & { readonly document: StoredDocument<R> | undefined }> {
  const found = await kind.find(request.id);
  if (found.value.state === 'gone')
    return { intent: 'nothing', resourceId: request.id, operationId: '', document: undefined };
  const document = found as StoredDocument<R>;
  const resource = document.value;
  if (resource.state === 'deleted' && resource.operationId !== undefined) throw beingUndeleted(resource);
  if (resource.state === 'deleting' || resource.state === 'deleted' || resource.state === 'purging') {
    return { ...remembered(document), operationId: resource.operationId ?? '', document };
  }
  requireEtag(document, request.etag);
  await kind.requireDeletable(resource);
  const now = core.clock.now();
  const operationId = newId('op');
  const deleting = { ...kind.to(resource, 'deleting'), operationId, deleteTime: now, updateTime: now };
  return {
    ...operation(kind.deleteKind, operationId, resource, 'trash-image', {}, 'exclusive'),
    writes: [kind.put(deleting, document.rev)],
    document,
  };
}

/** What an undelete comes to. */
export async function intendUndelete<R extends Trashable>(
  core: CoreContext,
  kind: TrashKind<R>,
  request: ResourceMutation,
): Promise<Intent & { readonly document: StoredDocument<R> }> {
  const document = await kind.get(request.id);
  const resource = document.value;
  if (resource.state === kind.usable) return { ...remembered(document), document };
  if (resource.state !== 'deleted') {
    throw new MoorageError(
      'FAILED_PRECONDITION',
      `${resource.id} is ${resource.state}; only what is deleted can be undeleted.`,
      {
        reason: resource.state === 'purging' ? 'PURGING' : 'NOT_DELETED',
        metadata: { id: resource.id, state: resource.state },
      },
    );
  }
  requireEtag(document, request.etag);
  const image = requireImage(resource);
  const plan: UndeletePlan = { newName: nextImageName(resource.id, image.name) };
  const operationId = newId('op');
  return {
    ...operation(kind.undeleteKind, operationId, resource, 'restore-image', plan, 'exclusive'),
    writes: [kind.put({ ...resource, operationId, updateTime: core.clock.now() }, document.rev)],
    document,
  };
}

/**
 * It is so already. The call's token is recorded all the same: should it arrive once more after the opposite was done in
 * between, it must not do anything then.
 */
function remembered(document: StoredDocument<{ readonly id: string }>) {
  return {
    intent: 'immediate' as const,
    resourceId: document.value.id,
    writes: [{ kind: 'check' as const, key: document.key, expect: document.rev }],
  };
}

function beingUndeleted(resource: Trashable): MoorageError {
  return new MoorageError(
    'ABORTED',
    `${resource.id} is being undeleted by ${resource.operationId}. Try again after that.`,
    {
      reason: 'OPERATION_IN_PROGRESS',
      metadata: { id: resource.id, operation_id: resource.operationId ?? '' },
      retryAfterMilliseconds: 500,
    },
  );
}

function operation(
  kind: OperationKind,
  operationId: string,
  resource: Trashable,
  firstPhase: string,
  plan: unknown,
  mode: LockMode,
) {
  return {
    intent: 'operation' as const,
    kind,
    operationId,
    resourceId: resource.id,
    poolId: resource.poolId,
    firstPhase,
    plan,
    locks: [{ resourceId: resource.id, mode }],
  };
}

/** How a delete is carried out. */
export function deleteDefinition<R extends Trashable>(
  core: CoreContext,
  kind: TrashKind<R>,
): OperationDefinition<Record<string, never>> {
  return {
    kind: kind.deleteKind,
    phases: { 'trash-image': (context) => trashImage(core, kind, context) },
    onRefused: async (context, error) => ({
      kind: 'failed',
      failure: refusal(error, `${context.operation.resourceId} could not be deleted`),
      writes: async () => {
        const document = await kind.get(context.operation.resourceId);
        const { operationId: _, deleteTime: __, ...resource } = kind.to(document.value, kind.usable);
        return [kind.put({ ...resource, updateTime: core.clock.now() } as R, document.rev)];
      },
    }),
    images: async (_plan, { resourceId }) => [requireImage((await kind.get(resourceId)).value)],
  };
}

async function trashImage<R extends Trashable>(
  core: CoreContext,
  kind: TrashKind<R>,
  context: PhaseContext<Record<string, never>>,
): Promise<Next<Record<string, never>>> {
  const { operation: own } = context;
  const pool: Pool = (await getPool(core.store, own.poolId)).value;
  const image = requireImage((await kind.get(own.resourceId)).value);
  await context.step('trash-image', (step) =>
    core.backend().data.trashImage(pool, { image, defermentSeconds: pool.undeleteWindowSeconds }, step),
  );
  return {
    kind: 'succeeded',
    writes: async () => {
      const document = await kind.get(own.resourceId);
      const { operationId: _, ...resource } = kind.to(document.value, 'deleted');
      const now = core.clock.now();
      const purgeTime = now + pool.undeleteWindowSeconds * 1000;
      return [kind.put({ ...resource, purgeTime, updateTime: now } as R, document.rev)];
    },
  };
}

/** How an undelete is carried out. */
export function undeleteDefinition<R extends Trashable>(
  core: CoreContext,
  kind: TrashKind<R>,
): OperationDefinition<UndeletePlan> {
  return {
    kind: kind.undeleteKind,
    phases: { 'restore-image': (context) => restoreImage(core, kind, context) },
    onRefused: async (context, error: BackendError) => ({
      kind: 'failed',
      failure: refusal(error, `${context.operation.resourceId} could not be undeleted`),
      writes: async () => {
        const document = await kind.get(context.operation.resourceId);
        const { operationId: _, ...resource } = document.value;
        return [kind.put({ ...resource, updateTime: core.clock.now() } as R, document.rev)];
      },
    }),
    images: async (_plan, { resourceId }) => [requireImage((await kind.get(resourceId)).value)],
  };
}

async function restoreImage<R extends Trashable>(
  core: CoreContext,
  kind: TrashKind<R>,
  context: PhaseContext<UndeletePlan>,
): Promise<Next<UndeletePlan>> {
  const { operation: own, plan } = context;
  const pool = (await getPool(core.store, own.poolId)).value;
  const { value } = await kind.get(own.resourceId);
  const image = requireImage(value);
  const identity = { ...kind.identity(value), name: plan.newName, formerNames: [...image.formerNames, image.name] };
  await context.step('restore-image', (step) =>
    core
      .backend()
      .data.restoreImage(
        pool,
        { catalogueEntry: imageEntry(core.vault, identity), image, newName: plan.newName },
        step,
      ),
  );
  return {
    kind: 'succeeded',
    writes: async () => {
      const document = await kind.get(own.resourceId);
      const { operationId: _, deleteTime: __, purgeTime: ___, ...resource } = kind.to(document.value, kind.usable);
      const restored = { ...image, name: plan.newName, formerNames: identity.formerNames };
      return [kind.put({ ...resource, image: restored, updateTime: core.clock.now() } as unknown as R, document.rev)];
    },
  };
}
