import { listAll } from '../../journal/agents.js';
import { indexes, keys, putOperation, putPoint } from '../../journal/documents.js';
import type { Operation } from '../../model/operation.js';
import type { Export, PointInTime, Snapshot, Tombstone, Volume } from '../../model/resources.js';
import type { StoredDocument } from '../../ports/store.js';
import { examineCutOffs } from './cut-offs.js';
import { Report } from './findings.js';
import { type Batch, type Look, lookAtExports, lookAtResources, onlyOf, type Progress, settle } from './looking.js';
import { ownerOf } from './names.js';
import type { Examined, Stray } from './resources.js';
import type { Survey } from './survey.js';

/*
 * Everything is looked at from each side, a batch at a time: what the store has, what the catalogue has beside it, what the
 * backend has beside both. Each batch ends in ids that are examined, whatever side they were found from; so a batch needs no
 * memory of the ones before, and a walk can go on wherever it stopped.
 */

/** What one side is. The order matters: what the store has wrong ends before something is taken in beside it. */
export const WALKS = [
  'operations',
  'exports',
  'volumes',
  'snapshots',
  'catalogue',
  'catalogue-exports',
  'users',
  'images',
  'cut-offs',
] as const;
export type Walk = (typeof WALKS)[number];

/** The order for an empty store: first everything is taken in. */
export const REBUILD_WALKS: readonly Walk[] = [
  'catalogue',
  'catalogue-exports',
  'users',
  'images',
  'volumes',
  'snapshots',
];

/** How many things a batch looks at. */
const BATCH = 100;

/** Takes one batch of a walk. @throws BackendError */
export async function takeBatch(survey: Survey, walk: Walk, cursor: string, progress: Progress): Promise<Batch> {
  switch (walk) {
    case 'operations':
      return operations(survey, progress);
    case 'exports':
      return exportsOfStore(survey, cursor, progress);
    case 'volumes':
      return resourcesOfStore(survey, indexes.volumesOfPool(survey.pool.id), cursor, progress);
    case 'snapshots':
      return resourcesOfStore(survey, indexes.snapshotsOfPool(survey.pool.id), cursor, progress);
    case 'catalogue':
      return catalogue(survey, cursor, progress);
    case 'catalogue-exports':
      return catalogueExports(survey, cursor, progress);
    case 'users':
      return users(survey, progress);
    case 'images':
      return images(survey, cursor, progress);
    case 'cut-offs':
      return examineCutOffs(survey, progress);
  }
}

async function resourcesOfStore(survey: Survey, index: string, cursor: string, progress: Progress): Promise<Batch> {
  const page = await survey.core.store.list<Volume | Snapshot>(index, {
    limit: BATCH,
    ...(cursor === '' ? {} : { after: cursor }),
  });
  const ids = page.documents.map(({ value }) => value.id);
  progress.resources += ids.length;
  return settle(survey.core, lookAtResources(survey), ids, progress, page.cursor);
}

async function exportsOfStore(survey: Survey, cursor: string, progress: Progress): Promise<Batch> {
  const page = await survey.core.store.list<Export>(indexes.exports, {
    limit: BATCH,
    ...(cursor === '' ? {} : { after: cursor }),
  });
  const ids = page.documents.filter(({ value }) => value.poolId === survey.pool.id).map(({ value }) => value.id);
  progress.resources += ids.length;
  return settle(survey.core, lookAtExports(survey), ids, progress, page.cursor);
}

async function catalogue(survey: Survey, cursor: string, progress: Progress): Promise<Batch> {
  const { data } = survey.core.backend();
  const range = { cursor, limit: BATCH };
  const page = await data.listCatalogueEntries(survey.pool, range, survey.context('list-entries'));
  progress.entries += page.entries.length;
  const ids: string[] = [];
  const strange: string[] = [];
  for (const { key, value } of page.entries) {
    if (ownerOf(key) === key) ids.push(key);
    else if (!key.startsWith('exp-') && 'forged' in survey.entry(key, value)) strange.push(key);
  }
  const documents = await survey.resources(ids);
  const absent = ids.filter((id) => (documents.get(id)?.value.state ?? 'gone') === 'gone');
  const next = page.nextCursor === '' ? undefined : page.nextCursor;
  const batch = await settle(survey.core, lookAtResources(survey), absent, progress, next);
  if (strange.length === 0) return batch;
  const found = new Map(batch.found);
  for (const key of strange) {
    const report = new Report(survey.pool.id, '');
    report.none({
      class: 'entry-forged',
      says: `The catalogue has an entry under ${JSON.stringify(key.slice(0, 100))} that was not written under this controller's master key.`,
      remedy: 'It is not believed.',
    });
    found.set(key, report.differences);
  }
  return { ...batch, found };
}

async function catalogueExports(survey: Survey, cursor: string, progress: Progress): Promise<Batch> {
  const { data } = survey.core.backend();
  const range = { cursor, limit: BATCH * 5 };
  const page = await data.listCatalogueEntries(survey.pool, range, survey.context('list-entries'));
  const ids = page.entries.map(({ key }) => key).filter((key) => key.startsWith('exp-'));
  const next = page.nextCursor === '' ? undefined : page.nextCursor;
  const documents = await survey.exports(ids);
  const absent = ids.filter((id) => (documents.get(id)?.value.state ?? 'gone') === 'gone');
  return settle(survey.core, lookAtExports(survey), absent, progress, next);
}

async function users(survey: Survey, progress: Progress): Promise<Batch> {
  const context = survey.context('list-access');
  // As many questions to the monitors as there are exports.
  const patient = { ...context, timeoutMilliseconds: survey.core.settings.purgeTimeoutMilliseconds };
  const ids = await survey.core.backend().fence.listAccess(survey.pool, patient);
  const documents = await survey.exports(ids);
  const absent = ids.filter((id) => (documents.get(id)?.value.state ?? 'gone') === 'gone');
  // One that is in the catalogue too is told of with its entry.
  const told: string[] = [];
  for (let from = 0; from < absent.length; from += 1000) {
    const few = absent.slice(from, from + 1000);
    const entries = await survey.entries(few);
    told.push(...few.filter((id) => !entries.has(id)));
  }
  return settle(survey.core, lookAtExports(survey), told, progress, undefined);
}

async function images(survey: Survey, cursor: string, progress: Progress): Promise<Batch> {
  const { data } = survey.core.backend();
  const page = await data.listImages(survey.pool, { cursor, limit: BATCH }, survey.context('list-images'));
  progress.images += page.images.length;
  const byOwner = new Map<string, Stray[]>();
  for (const { name, backendId } of page.images) {
    const owner = ownerOf(name);
    if (owner === undefined) progress.foreignImages += 1;
    else byOwner.set(owner, [...(byOwner.get(owner) ?? []), { name, backendId }]);
  }
  const ids = [...byOwner.keys()];
  const [documents, entries] = await Promise.all([survey.resources(ids), survey.entries(ids)]);
  const strays = new Map<string, Stray[]>();
  for (const [id, claimed] of byOwner) {
    const value = documents.get(id)?.value as Volume | Snapshot | Tombstone | undefined;
    const own = value !== undefined && 'image' in value ? value.image?.backendId : undefined;
    const entry = entries.get(id);
    const identity = entry !== undefined && 'identity' in entry ? entry.identity : undefined;
    const named = identity === undefined || identity.kind === 'export' ? [] : [identity.name, ...identity.formerNames];
    const isLive = value !== undefined && value.state !== 'gone';
    // What is in the catalogue and not in the store was told of there.
    const left = claimed.filter(({ name, backendId }) => (isLive ? backendId !== own : !named.includes(name)));
    if (left.length > 0) strays.set(id, left);
  }
  const next = page.nextCursor === '' ? undefined : page.nextCursor;
  const look = onlyOf(lookAtResources(survey, strays), strays);
  return settle(survey.core, look, [...strays.keys()], progress, next);
}

/** Operations and points in time of the pool that nobody works on any more. */
async function operations(survey: Survey, progress: Progress): Promise<Batch> {
  const { store } = survey.core;
  const look: Look = async () => {
    const results = new Map<string, Examined>();
    for (const document of await listAll<Operation>(store, indexes.operationsRunning)) {
      const { id, kind, owner, resourceId, poolId } = document.value;
      if (poolId !== survey.pool.id || (await store.get(keys.controller(owner))) !== undefined) continue;
      const report = new Report(survey.pool.id, id);
      report.automatic(
        {
          class: 'operation-abandoned',
          says: `${id} (${kind} of ${resourceId}) runs and belongs to the controller ${owner}, which is not there.`,
          remedy: 'This controller takes it over and finishes it.',
        },
        {
          kind: 'adopt-operation',
          writes: async (inc) => [putOperation({ ...document.value, owner: inc }, document.rev)],
          operation: document,
        },
      );
      results.set(id, { differences: report.differences, busy: false });
    }
    for (const document of await listAll<PointInTime>(store, indexes.points)) {
      const examined = await examinePoint(survey, document);
      if (examined !== undefined) results.set(document.value.id, examined);
    }
    return results;
  };
  const running = await listAll<Operation>(store, indexes.operationsRunning);
  progress.resources += running.filter(({ value }) => value.poolId === survey.pool.id).length;
  return settle(survey.core, look, [], progress, undefined);
}

async function examinePoint(survey: Survey, document: StoredDocument<PointInTime>): Promise<Examined | undefined> {
  const { id, poolId, volumeId, operationIds, point } = document.value;
  if (poolId !== survey.pool.id || operationIds.length === 0) return undefined;
  const running: string[] = [];
  for (const operationId of operationIds) if (await survey.runs(operationId)) running.push(operationId);
  if (running.length === operationIds.length) return undefined;
  const report = new Report(survey.pool.id, id);
  report.automatic(
    {
      class: 'point-left',
      says: `The point in time ${id} of ${volumeId} waits for operations that do not run.`,
      remedy: 'It no longer waits for them; the reaper removes it when nothing else needs it.',
    },
    {
      kind: 'commit',
      writes: async () => {
        // One without an id is removed by its name, which never recurs.
        const left = { ...document.value, operationIds: running, point: point ?? { name: id, backendId: '' } };
        return [putPoint(left, document.rev)];
      },
    },
  );
  return { differences: report.differences, busy: false };
}
