import { MoorageError } from '../../errors.js';
import { cutOffWrites, recordCutOffs } from '../../journal/cut-offs.js';
import type { Next, PhaseContext } from '../../journal/definition.js';
import {
  expireDependents,
  KEPT_MILLISECONDS,
  keys,
  putExport,
  putNewExport,
  putVolume,
} from '../../journal/documents.js';
import type { Export, Node, Pool, Snapshot, Tombstone, Volume } from '../../model/resources.js';
import type { StoredDocument, Write } from '../../ports/store.js';
import { type ExportIdentity, readEntry } from '../catalogue.js';
import type { CoreContext } from '../context.js';
import { DEFAULT_DESCRIPTOR_LIFETIME } from '../exports/authority.js';
import { ancestorsOf } from '../exports/rules.js';
import { requireImage } from '../identity.js';
import type { RepairPlan } from './repair-operation.js';
import { resourceKey } from './survey.js';

/*
 * Mending exports: their users, and those that the store does not know of.
 */

type Context = PhaseContext<RepairPlan>;
type Done = Next<RepairPlan>;

/** The end of a mending. */
export const done = (writes: () => Promise<readonly Write[]> = async () => []): Done => ({ kind: 'succeeded', writes });

/** Tokens of what is not in the store go with nothing else. */
export async function letTokensGo(core: CoreContext, id: string): Promise<readonly Write[]> {
  const alive = id.startsWith('exp-') ? await liveExport(core, id) : await live(core, id);
  return alive === undefined ? expireDependents(core.store, id, core.clock.now() + KEPT_MILLISECONDS) : [];
}

/** The document of a volume or snapshot that is not gone. */
export async function live(core: CoreContext, id: string): Promise<StoredDocument<Volume | Snapshot> | undefined> {
  const document = await core.store.get<Volume | Snapshot | Tombstone>(resourceKey(id));
  return document === undefined || document.value.state === 'gone'
    ? undefined
    : (document as StoredDocument<Volume | Snapshot>);
}

/** The document of an export that is not gone. */
export async function liveExport(core: CoreContext, id: string): Promise<StoredDocument<Export> | undefined> {
  const document = await core.store.get<Export | Tombstone>(keys.export(id));
  return document === undefined || document.value.state === 'gone' ? undefined : (document as StoredDocument<Export>);
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

/** See RepairPlan. */
export async function grantAccess(core: CoreContext, context: Context, pool: Pool): Promise<Done> {
  const id = context.operation.resourceId;
  const item = await liveExport(core, id);
  if (item?.value.state !== 'exported') return done();
  const node = await core.store.get<Node>(keys.node(item.value.nodeId));
  if (node?.value.fence !== undefined) return done();
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

/** See RepairPlan. */
export async function revokeAccess(core: CoreContext, context: Context, pool: Pool): Promise<Done> {
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
    const cause = { reason: 'orphan', subjectId: id, nodeId: '', provenDead: false } as const;
    const writes = cutOffWrites(core.clock, pool.settings.cluster, addresses, cause);
    await recordCutOffs(core.store, writes, core.liveCheck, core.refreshMembership);
    await context.step('cut-off', (step) => fence.cutOff(pool, { addresses, expirySeconds }, step));
    for (const address of addresses) cutOff.add(address);
  }
  throw new Error(`Somebody connects again and again as the user of ${id}.`);
}

/** See RepairPlan. */
export async function adoptExport(
  core: CoreContext,
  context: Context,
  pool: Pool,
  identity: ExportIdentity,
): Promise<Done> {
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
    return [...putNewExport(item), putVolume({ ...volume.value, exportIds, updateTime: now }, volume.rev)];
  });
}
