import { randomUUID } from 'node:crypto';
import type { Next, OperationDefinition, PhaseContext } from '../../journal/definition.js';
import { putSnapshot, putVolume } from '../../journal/documents.js';
import type { Journal, Recorded } from '../../journal/journal.js';
import { newId } from '../../model/ids.js';
import type { ImageParent, ImageRecord } from '../../model/image.js';
import type { Pool, Snapshot, Volume } from '../../model/resources.js';
import type { OwnConnection } from '../../ports/backend.js';
import type { StoredDocument, Write } from '../../ports/store.js';
import { type ExportIdentity, exportEntry, type ImageIdentity, imageEntry, readEntry } from '../catalogue.js';
import { type CoreContext, getPool } from '../context.js';
import { identityOf, requireImage, snapshotIdentityOf } from '../identity.js';
import { closeConnection, isLostConnection, refusal } from '../images.js';
import { keepCutOff } from './cut-offs.js';
import { isSnapshotId } from './names.js';
import { adoptExport, done, grantAccess, letTokensGo, live, liveExport, revokeAccess } from './repair-exports.js';

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
  /** Cuts somebody off again, or takes it back, as the store wants it. */
  | { readonly action: 'keep-cut-off'; readonly address: string }
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
      writes: async () => (plan.action === 'keep-cut-off' ? [] : letTokensGo(core, operation.resourceId)),
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
    case 'keep-cut-off':
      return keepCutOff(core, context, pool, plan.address);
    case 'adopt-export':
      return adoptExport(core, context, pool, plan.identity);
  }
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
