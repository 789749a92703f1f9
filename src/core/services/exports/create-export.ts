import { MoorageError } from '../../errors.js';
import type { Intent, Next, OperationDefinition, PhaseContext } from '../../journal/definition.js';
import {
  expireDependents,
  KEPT_MILLISECONDS,
  keys,
  putExport,
  putGrant,
  putNewExport,
  putTombstone,
  putVolume,
} from '../../journal/documents.js';
import { newId } from '../../model/ids.js';
import type { Export, Grant, Volume } from '../../model/resources.js';
import type { BackendError } from '../../ports/backend.js';
import type { StoredDocument, Write } from '../../ports/store.js';
import { exportTo } from '../../transitions.js';
import { exportEntry } from '../catalogue.js';
import { type CoreContext, getExport, getNode, getPool, getVolume } from '../context.js';
import { requireImage } from '../identity.js';
import { refusal } from '../images.js';
import { requireNotFenced } from '../node-fence.js';
import type { Caller, ExportVolume } from '../types.js';
import { requireAvailable } from '../volumes/expand-volume.js';
import { authorise, redeemedExport, requireGrantedTo } from './authority.js';
import { type Ancestor, ancestorsOf, judge } from './rules.js';

/*
 * Export: by a grant or an administrator's word → judged by the rules → commit the export as `exporting`, listed by its volume,
 * pinning its ancestors, the grant redeemed → catalogue entry, then the export's own user on the backend → commit it as
 * `exported` with the user's key, sealed. The descriptor is made afresh for each answer (exports.ts).
 */

/** Plan of the operation: everything stands in the export's document. */
export type CreateExportPlan = Record<string, never>;

/** What the call comes to, from what the store holds now. */
export async function intendExport(
  core: CoreContext,
  request: ExportVolume,
  caller: Caller,
): Promise<Intent & { readonly item: Export }> {
  const authority = await authorise(core, request, caller);
  const { wish, grant } = authority;
  const volumeDocument = await getVolume(core.store, request.volumeId);
  const volume = volumeDocument.value;
  const redeemed = await redeemedExport(core, grant);
  if (redeemed !== undefined) return existing(redeemed);
  requireAvailable(volume);
  const node = await getNode(core.store, wish.nodeId);
  requireNotFenced(node.value);
  requireGrantedTo(node.value, grant?.value);
  const others = await core.store.getMany<Export>(volume.exportIds.map(keys.export));
  // One that ended between the two reads has left the volume's list too: this commit meets a conflict and is judged again.
  const exports = others.flatMap((other) => (other === undefined || other.value.state === 'gone' ? [] : [other.value]));
  const verdict = judge(volume, exports, wish);
  if ('existing' in verdict) return joinExisting(verdict.existing, grant);
  const ancestors = await ancestorsOf(core.store, requireImage(volume));
  await requireIsolated(core, volume, ancestors);
  const now = core.clock.now();
  const item: Export = {
    id: newId('exp'),
    poolId: volume.poolId,
    volumeId: volume.id,
    nodeId: node.value.id,
    instance: wish.instance,
    state: 'exporting',
    statusMessage: '',
    grantId: grant?.value.id ?? '',
    migration: exports.length > 0 && !volume.multiAttach,
    readOnly: wish.readOnly,
    createTime: now,
    updateTime: now,
    operationId: newId('op'),
    ancestorIds: ancestors.map((ancestor) => ancestor.id),
    descriptorLifetimeMilliseconds: authority.descriptorLifetimeMilliseconds,
  };
  return {
    intent: 'operation',
    kind: 'export.create',
    operationId: item.operationId ?? '',
    resourceId: item.id,
    poolId: item.poolId,
    firstPhase: 'grant-access',
    plan: {},
    locks: [
      { resourceId: item.id, mode: 'exclusive' },
      { resourceId: volume.id, mode: 'shared' },
      ...ancestors.map((ancestor) => ({ resourceId: ancestor.id, mode: 'shared' as const })),
    ],
    writes: [
      ...putNewExport(item),
      putVolume({ ...volume, exportIds: [...volume.exportIds, item.id], updateTime: now }, volumeDocument.rev),
      { kind: 'check', key: node.key, expect: node.rev },
      ...(grant === undefined ? [] : [putGrant({ ...grant.value, exportId: item.id }, grant.rev)]),
      ...markMigration(item, others),
    ],
    item,
  };
}

/** @throws MoorageError FAILED_PRECONDITION when it would read an image that another node may write, and the pool forbids that */
async function requireIsolated(core: CoreContext, volume: Volume, ancestors: readonly Ancestor[]): Promise<void> {
  const pool = (await getPool(core.store, volume.poolId)).value;
  // A snapshot's image is never exported; a volume's may be, and its node writes it.
  const writable = ancestors.find(({ id }) => id.startsWith('vol-'));
  if (pool.settings.isolate !== true || writable === undefined) return;
  throw new MoorageError(
    'FAILED_PRECONDITION',
    `The volume ${volume.id} reads ${writable.id}, and the pool ${pool.id} isolates volumes. Make it from a snapshot of this pool.`,
    { reason: 'NOT_ISOLATED', metadata: { volume_id: volume.id, ancestor_id: writable.id } },
  );
}

function existing(item: Export): Intent & { readonly item: Export } {
  return {
    intent: 'nothing',
    resourceId: item.id,
    operationId: item.state === 'exporting' ? (item.operationId ?? '') : '',
    item,
  };
}

/** A grant for what is there already is redeemed by that, so that it cannot be redeemed once more after it. */
function joinExisting(item: Export, grant: StoredDocument<Grant> | undefined): Intent & { readonly item: Export } {
  const found = existing(item);
  if (grant === undefined) return found;
  const operationId = item.state === 'exporting' ? (item.operationId ?? '') : '';
  const writes = [putGrant({ ...grant.value, exportId: item.id }, grant.rev)];
  return { intent: 'immediate', resourceId: item.id, operationId, writes, item };
}

/** The first export of a migration says so too, from when the second is there. */
function markMigration(item: Export, others: readonly (StoredDocument<Export> | undefined)[]): readonly Write[] {
  if (!item.migration) return [];
  return others.flatMap((other) =>
    other === undefined || other.value.state === 'gone'
      ? []
      : [putExport({ ...other.value, migration: true }, other.rev)],
  );
}

/** How the operation is carried out. */
export function createExportDefinition(core: CoreContext): OperationDefinition<CreateExportPlan> {
  return {
    kind: 'export.create',
    phases: { 'grant-access': (context) => grantAccess(core, context) },
    onRefused: async (context, error) => giveUp(core, context, error),
    images: async () => [],
  };
}

async function grantAccess(
  core: CoreContext,
  context: PhaseContext<CreateExportPlan>,
): Promise<Next<CreateExportPlan>> {
  const { operation } = context;
  const item = (await getExport(core.store, operation.resourceId)).value;
  const pool = (await getPool(core.store, item.poolId)).value;
  const image = requireImage((await getVolume(core.store, item.volumeId)).value);
  const ancestors = (await ancestorsOf(core.store, image)).map((ancestor) => ancestor.image);
  const { data, fence } = core.backend();
  await context.step('put-catalogue-entry', (step) =>
    data.putCatalogueEntry(pool, exportEntry(core.vault, item), step),
  );
  const access = await context.step('grant-access', (step) =>
    fence.grantAccess(pool, { exportId: item.id, image, ancestors, readOnly: item.readOnly }, step),
  );
  const sealedAccess = core.vault.seal(access, `export/${item.id}`);
  access.fill(0);
  return {
    kind: 'succeeded',
    writes: async () => {
      const document = await getExport(core.store, item.id);
      const { operationId: _, ...exported } = exportTo(document.value, 'exported');
      return [putExport({ ...exported, sealedAccess, updateTime: core.clock.now() }, document.rev)];
    },
  };
}

/** The way back: whatever user and catalogue entry were made are taken away before the export is committed as gone. */
async function giveUp(
  core: CoreContext,
  context: PhaseContext<CreateExportPlan>,
  error: BackendError,
): Promise<Next<CreateExportPlan>> {
  const item = (await getExport(core.store, context.operation.resourceId)).value;
  const pool = (await getPool(core.store, item.poolId)).value;
  const { data, fence } = core.backend();
  await context.step('revoke-access', (step) => fence.revokeAccess(pool, item.id, step));
  await context.step('remove-catalogue-entry', (step) => data.removeCatalogueEntry(pool, item.id, step));
  const failure = refusal(error, 'The volume could not be exported');
  return { kind: 'failed', failure, writes: () => endExport(core, item.id, failure.message) };
}

/** The writes that end an export: it is gone, its volume no longer lists it, and a migration's other side is an ordinary one. */
export async function endExport(core: CoreContext, exportId: string, reason?: string): Promise<readonly Write[]> {
  const document = await getExport(core.store, exportId);
  exportTo(document.value, 'gone');
  return endedWrites(core, document, reason);
}

/** The same for one that has ended on the backend without an operation of this store. */
export async function endedWrites(
  core: CoreContext,
  document: StoredDocument<Export>,
  reason?: string,
): Promise<readonly Write[]> {
  const exportId = document.value.id;
  const { poolId, nodeId } = document.value;
  const now = core.clock.now();
  const volume = await core.store.get<Volume>(keys.volume(document.value.volumeId));
  const writes: Write[] = [
    putTombstone(
      document.key,
      { id: exportId, state: 'gone', goneTime: now, poolId, nodeId, ...(reason === undefined ? {} : { reason }) },
      document.rev,
    ),
    ...(await expireDependents(core.store, exportId, now + KEPT_MILLISECONDS)),
  ];
  if (volume === undefined || volume.value.state === 'gone') return writes;
  const exportIds = volume.value.exportIds.filter((id) => id !== exportId);
  writes.push(putVolume({ ...volume.value, exportIds, updateTime: now }, volume.rev));
  for (const id of exportIds) {
    const other = await core.store.get<Export>(keys.export(id));
    if (other?.value.migration === true) writes.push(putExport({ ...other.value, migration: false }, other.rev));
  }
  return writes;
}
