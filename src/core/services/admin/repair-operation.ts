import { randomUUID } from 'node:crypto';
import { MoorageError } from '../../errors.js';
import type { Next, OperationDefinition, PhaseContext } from '../../journal/definition.js';
import {
  expireDependents,
  KEPT_MILLISECONDS,
  keys,
  putExport,
  putSnapshot,
  putVolume,
} from '../../journal/documents.js';
import type { Journal, Recorded } from '../../journal/journal.js';
import { newId } from '../../model/ids.js';
import type { ImageParent, ImageRecord } from '../../model/image.js';
import type { Export, Pool, Snapshot, Tombstone, Volume } from '../../model/resources.js';
import type { OwnConnection } from '../../ports/backend.js';
import type { StoredDocument, Write } from '../../ports/store.js';
import { type ExportIdentity, exportEntry, type ImageIdentity, imageEntry, readEntry } from '../catalogue.js';
import { type CoreContext, getPool } from '../context.js';
import { DEFAULT_DESCRIPTOR_LIFETIME } from '../exports/create-export.js';
import { ancestorsOf } from '../exports/rules.js';
import { identityOf, requireImage, snapshotIdentityOf } from '../identity.js';
import { closeConnection, isLostConnection, refusal } from '../images.js';
import { isSnapshotId } from './names.js';
import { resourceKey } from './survey.js';

/*
 * What Repair changes on a backend goes through the journal, as an operation that has the thing for itself: what was judged
 * before it began is judged again under its lock, from what the store says then, so that it never undoes what somebody else
 * has just done. Each part may be done again.
 */

/** Plan of the operation. */
export type RepairPlan =
  /** Writes the entry of a volume, snapshot or export anew, from the store. */
  | { readonly action: 'put-entry' }
  /** Removes the entry of something that is neither in the store nor on the backend. */
  | { readonly action: 'remove-entry' }
  /** Grows an image to the size on record: an expand that was cut short. */
  | { readonly action: 'grow-image'; readonly connection?: OwnConnection }
  /** Brings an image back from the trash, under a new name. */
  | { readonly action: 'restore-image'; readonly newName: string; readonly formerNames: readonly string[] }
  | {
      readonly action: 'set-child';
      readonly parent: ImageParent;
      readonly childBackendId: string;
      readonly listed: boolean;
    }
  /** Gives an open export its user again. */
  | { readonly action: 'grant-access' }
  /** Takes the user of an export away that is not open, and cuts off whoever is connected as it. */
  | { readonly action: 'revoke-access' }
  /** Takes an export from the catalogue into the store. */
  | { readonly action: 'adopt-export'; readonly identity: ExportIdentity };

type Context = PhaseContext<RepairPlan>;
type Done = Next<RepairPlan>;

/** Begins the operation that carries a plan out. @throws MoorageError ABORTED when something else holds the thing */
export function beginRepair(
  journal: Journal,
  target: { readonly resourceId: string; readonly poolId: string; readonly principal: string },
  plan: RepairPlan,
): Promise<Recorded> {
  const { resourceId, poolId, principal } = target;
  const volume =
    plan.action === 'adopt-export' ? [{ resourceId: plan.identity.volumeId, mode: 'shared' as const }] : [];
  return journal.record({
    method: 'Repair',
    principal,
    clientToken: randomUUID(),
    parameters: plan,
    passesHold: true,
    intend: async () => ({
      intent: 'operation',
      kind: 'admin.repair',
      operationId: newId('op'),
      resourceId,
      poolId,
      firstPhase: 'mend',
      plan,
      locks: [{ resourceId, mode: 'exclusive' }, ...volume],
      writes: [],
    }),
  });
}

/** How the operation is carried out. */
export function repairDefinition(core: CoreContext): OperationDefinition<RepairPlan> {
  return {
    kind: 'admin.repair',
    phases: {
      mend: async (context) => {
        const pool = (await getPool(core.store, context.operation.poolId)).value;
        return mend(core, context, pool);
      },
    },
    onRefused: async ({ operation, plan }, error) => ({
      kind: 'failed',
      failure: refusal(error, `${operation.resourceId} could not be mended (${plan.action})`),
      writes: () => letTokensGo(core, operation.resourceId),
    }),
    images: async (plan, { resourceId }) => {
      if (plan.action !== 'grow-image') return [];
      const resource = await live(core, resourceId);
      return resource?.value.image === undefined ? [] : [resource.value.image];
    },
  };
}

function mend(core: CoreContext, context: Context, pool: Pool): Promise<Done> {
  const { plan } = context;
  switch (plan.action) {
    case 'put-entry':
      return putEntry(core, context, pool);
    case 'remove-entry':
      return removeEntry(core, context, pool);
    case 'grow-image':
      return growImage(core, context, pool, plan.connection);
    case 'restore-image':
      return restoreImage(core, context, pool, plan.newName, plan.formerNames);
    case 'set-child':
      return setChild(core, context, pool, plan);
    case 'grant-access':
      return grantAccess(core, context, pool);
    case 'revoke-access':
      return revokeAccess(core, context, pool);
    case 'adopt-export':
      return adoptExport(core, context, pool, plan.identity);
  }
}

const done = (writes: () => Promise<readonly Write[]> = async () => []): Done => ({ kind: 'succeeded', writes });

/** Tokens of what is not in the store go with nothing else. */
async function letTokensGo(core: CoreContext, id: string): Promise<readonly Write[]> {
  const alive = id.startsWith('exp-') ? await liveExport(core, id) : await live(core, id);
  return alive === undefined ? expireDependents(core.store, id, core.clock.now() + KEPT_MILLISECONDS) : [];
}

async function live(core: CoreContext, id: string): Promise<StoredDocument<Volume | Snapshot> | undefined> {
  const document = await core.store.get<Volume | Snapshot | Tombstone>(resourceKey(id));
  return document === undefined || document.value.state === 'gone'
    ? undefined
    : (document as StoredDocument<Volume | Snapshot>);
}

async function liveExport(core: CoreContext, id: string): Promise<StoredDocument<Export> | undefined> {
  const document = await core.store.get<Export | Tombstone>(keys.export(id));
  return document === undefined || document.value.state === 'gone' ? undefined : (document as StoredDocument<Export>);
}

/** What the catalogue says of a volume or snapshot. */
export function identityOfResource(resource: Volume | Snapshot): ImageIdentity {
  return isSnapshotId(resource.id) ? snapshotIdentityOf(resource as Snapshot) : identityOf(resource as Volume);
}

/** Puts a volume or snapshot. */
export function putResource(resource: Volume | Snapshot, expect: number | 'absent'): Write {
  return isSnapshotId(resource.id) ? putSnapshot(resource as Snapshot, expect) : putVolume(resource as Volume, expect);
}

async function putEntry(core: CoreContext, context: Context, pool: Pool): Promise<Done> {
  const id = context.operation.resourceId;
  const item = id.startsWith('exp-') ? await liveExport(core, id) : undefined;
  const resource = id.startsWith('exp-') ? undefined : await live(core, id);
  if (item === undefined && resource === undefined) return done();
  const entry =
    item === undefined
      ? imageEntry(core.vault, identityOfResource((resource as StoredDocument<Volume | Snapshot>).value))
      : exportEntry(core.vault, item.value);
  await context.step('put-catalogue-entry', (step) => core.backend().data.putCatalogueEntry(pool, entry, step));
  return done();
}

async function removeEntry(core: CoreContext, context: Context, pool: Pool): Promise<Done> {
  const id = context.operation.resourceId;
  const { data } = core.backend();
  const finish = () => done(() => letTokensGo(core, id));
  if (id.startsWith('exp-') ? await liveExport(core, id) : await live(core, id)) return finish();
  if (!id.startsWith('exp-')) {
    const values = await context.step('get-entries', (step) => data.getCatalogueEntries(pool, [id], step));
    const value = values.get(id);
    const identity = value === undefined ? undefined : readEntry(core.vault, id, value);
    const names = identity === undefined || identity.kind === 'export' ? [] : [identity.name, ...identity.formerNames];
    const queries = names.map((name) => ({ name, backendId: '' }));
    const facts = await context.step('inspect-images', (step) => data.inspectImages(pool, queries, step));
    if (facts.some((fact) => fact.backendId !== '')) return finish();
  }
  await context.step('remove-catalogue-entry', (step) => data.removeCatalogueEntry(pool, id, step));
  return finish();
}

async function growImage(
  core: CoreContext,
  context: Context,
  pool: Pool,
  connection: OwnConnection | undefined,
): Promise<Done> {
  const { data } = core.backend();
  const resource = (await live(core, context.operation.resourceId))?.value;
  if (resource?.state !== 'available') return done();
  if (connection === undefined) {
    const opened = await context.step('open-connection', (step) => data.openConnection(pool, step));
    return { kind: 'phase', phase: 'mend', plan: { action: 'grow-image', connection: opened } };
  }
  const image = requireImage(resource);
  try {
    const { sizeBytes } = resource;
    await context.step('expand-image', (step) => data.expandImage(pool, { connection, image, sizeBytes }, step));
  } catch (error) {
    if (!isLostConnection(error)) throw error;
    await closeConnection(core, context, pool, connection);
    return { kind: 'phase', phase: 'mend', plan: { action: 'grow-image' } };
  }
  await closeConnection(core, context, pool, connection);
  return done();
}

async function restoreImage(
  core: CoreContext,
  context: Context,
  pool: Pool,
  newName: string,
  formerNames: readonly string[],
): Promise<Done> {
  const id = context.operation.resourceId;
  const resource = (await live(core, id))?.value;
  if (resource === undefined || (resource.state !== 'available' && resource.state !== 'completed')) return done();
  const image = requireImage(resource);
  const names = [...new Set([...formerNames, ...image.formerNames, image.name])].filter((name) => name !== newName);
  const identity = { ...identityOfResource(resource), name: newName, formerNames: names };
  await context.step('restore-image', (step) =>
    core.backend().data.restoreImage(pool, { catalogueEntry: imageEntry(core.vault, identity), image, newName }, step),
  );
  return done(async () => {
    const document = await live(core, id);
    if (document === undefined) return [];
    const restored: ImageRecord = { ...requireImage(document.value), name: newName, formerNames: names };
    return [putResource({ ...document.value, image: restored, updateTime: core.clock.now() }, document.rev)];
  });
}

async function setChild(
  core: CoreContext,
  context: Context,
  pool: Pool,
  plan: Extract<RepairPlan, { action: 'set-child' }>,
): Promise<Done> {
  const { parent, childBackendId, listed } = plan;
  await context.step('set-child', (step) =>
    core.backend().data.setChild(pool, { parent, childBackendId, listed }, step),
  );
  return done();
}

/** The user as GrantAccess makes it, or finds it: sealed for the store. */
async function accessOf(
  core: CoreContext,
  context: Context,
  pool: Pool,
  item: Pick<Export, 'id' | 'volumeId' | 'readOnly'>,
): Promise<{ readonly sealedAccess: string; readonly ancestorIds: readonly string[] } | undefined> {
  const volume = (await live(core, item.volumeId))?.value;
  if (volume === undefined) return undefined;
  const image = requireImage(volume);
  const ancestors = await ancestorsOf(core.store, image);
  const { id: exportId, readOnly } = item;
  const images = ancestors.map((ancestor) => ancestor.image);
  const access = await context.step('grant-access', (step) =>
    core.backend().fence.grantAccess(pool, { exportId, image, ancestors: images, readOnly }, step),
  );
  const sealedAccess = core.vault.seal(access, `export/${item.id}`);
  access.fill(0);
  return { sealedAccess, ancestorIds: ancestors.map((ancestor) => ancestor.id) };
}

async function grantAccess(core: CoreContext, context: Context, pool: Pool): Promise<Done> {
  const id = context.operation.resourceId;
  const item = await liveExport(core, id);
  if (item?.value.state !== 'exported') return done();
  const access = await accessOf(core, context, pool, item.value);
  if (access === undefined) return done();
  return done(async () => {
    const document = await liveExport(core, id);
    if (document?.value.state !== 'exported') return [];
    const { sealedAccess } = access;
    return [putExport({ ...document.value, sealedAccess, updateTime: core.clock.now() }, document.rev)];
  });
}

/** Rounds in which somebody new was found connected, after which it is tried again from the start. */
const CUT_OFF_ROUNDS = 10;

async function revokeAccess(core: CoreContext, context: Context, pool: Pool): Promise<Done> {
  const id = context.operation.resourceId;
  const { fence, data } = core.backend();
  const finish = () => done(() => letTokensGo(core, id));
  if ((await liveExport(core, id)) !== undefined) return finish();
  const values = await context.step('get-entries', (step) => data.getCatalogueEntries(pool, [id], step));
  const value = values.get(id);
  // In the catalogue and in the store as nothing at all, it is open: Repair takes it into the store.
  const known = (await core.store.get(keys.export(id))) !== undefined;
  if (!known && value !== undefined && readEntry(core.vault, id, value) !== undefined) return finish();
  await context.step('revoke-access', (step) => fence.revokeAccess(pool, id, step));
  const expirySeconds = core.settings.cutOffExpirySeconds;
  const cutOff = new Set<string>();
  for (let round = 0; round < CUT_OFF_ROUNDS; round += 1) {
    const clients = await context.step('list-clients', (step) => fence.listClients(pool, { exportId: id }, step));
    const addresses = clients.filter((address) => !cutOff.has(address));
    if (addresses.length === 0) return finish();
    await context.step('cut-off', (step) => fence.cutOff(pool, { addresses, expirySeconds }, step));
    for (const address of addresses) cutOff.add(address);
  }
  throw new Error(`Somebody connects again and again as the user of ${id}.`);
}

async function adoptExport(core: CoreContext, context: Context, pool: Pool, identity: ExportIdentity): Promise<Done> {
  const { id, volumeId, nodeId, instance, readOnly, grantId, createTime } = identity;
  if ((await core.store.get(keys.export(id))) !== undefined) return done();
  const access = await accessOf(core, context, pool, identity);
  if (access === undefined) {
    return {
      kind: 'failed',
      failure: new MoorageError('FAILED_PRECONDITION', `The volume ${volumeId} of ${id} is not in the store.`, {
        reason: 'VOLUME_NOT_IN_STORE',
        metadata: { volume_id: volumeId, export_id: id },
      }),
      writes: () => letTokensGo(core, id),
    };
  }
  return done(async () => {
    const volume = await core.store.get<Volume>(keys.volume(volumeId));
    if (volume === undefined || (await core.store.get(keys.export(id))) !== undefined) return [];
    const others = volume.value.exportIds.filter((other) => other !== id);
    const now = core.clock.now();
    const item: Export = {
      id,
      poolId: pool.id,
      volumeId,
      nodeId,
      instance,
      state: 'exported',
      statusMessage: '',
      grantId,
      migration: others.length > 0 && !volume.value.multiAttach,
      readOnly,
      createTime,
      updateTime: now,
      ancestorIds: access.ancestorIds,
      sealedAccess: access.sealedAccess,
      descriptorLifetimeMilliseconds: identity.descriptorLifetimeMilliseconds ?? DEFAULT_DESCRIPTOR_LIFETIME,
    };
    const exportIds = [...others, id];
    return [putExport(item, 'absent'), putVolume({ ...volume.value, exportIds, updateTime: now }, volume.rev)];
  });
}
