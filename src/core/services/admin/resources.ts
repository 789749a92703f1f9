import { listAll } from '../../journal/agents.js';
import { indexes, putLock, putTombstone, putVolume } from '../../journal/documents.js';
import { nextImageName } from '../../model/image.js';
import type { Export, Snapshot, Tombstone, Volume } from '../../model/resources.js';
import type { ImageFacts } from '../../ports/backend.js';
import type { StoredDocument, Write } from '../../ports/store.js';
import { putIfSame } from './adopt.js';
import { debrisWrites, isDebris } from './debris.js';
import { compareEntry, usable } from './entries.js';
import { type Difference, Report } from './findings.js';
import { compareHeader } from './headers.js';
import { isSnapshotId } from './names.js';
import { settledWrites } from './settle.js';
import type { FoundEntry, FoundLocks, Survey } from './survey.js';

/*
 * A volume or snapshot of the store, held against its entry in the catalogue and its image. Findings of something that an
 * operation works on are no findings: `busy` says so, and it is looked at again.
 */

/** What looking at one thing came to. */
export interface Examined {
  readonly differences: readonly Difference[];
  /** Something works on it, or it changed meanwhile: what differs may be on its way. */
  readonly busy: boolean;
}

/** An image under a name that is a resource's, which is not the one on its record. */
export interface Stray {
  readonly name: string;
  readonly backendId: string;
}

type Resource = Volume | Snapshot;
type LiveDocument = StoredDocument<Resource>;

/** All that is known of one volume or snapshot that the store has. */
export interface Subject {
  readonly survey: Survey;
  readonly document: LiveDocument;
  readonly resource: Resource;
  readonly entry: FoundEntry | undefined;
  readonly facts: ImageFacts | undefined;
  readonly locks: FoundLocks;
  readonly report: Report;
}

/** Examines volumes and snapshots that are in the store. */
export async function examineResources(
  survey: Survey,
  documents: readonly LiveDocument[],
  strays: ReadonlyMap<string, readonly Stray[]>,
): Promise<ReadonlyMap<string, Examined>> {
  const ids = documents.map(({ value }) => value.id);
  const queries = documents.map(({ value: { id, image } }) => ({
    name: image?.name ?? id,
    backendId: image?.backendId ?? '',
    ...(image?.parent === undefined ? {} : { parent: image.parent }),
  }));
  const [entries, facts] = await Promise.all([survey.entries(ids), survey.images(queries)]);
  const results = new Map<string, Examined>();
  for (const [position, document] of documents.entries()) {
    const resource = document.value;
    const { id } = resource;
    const report = new Report(survey.pool.id, id);
    const locks = await survey.locks(id);
    const subject: Subject = {
      survey,
      document,
      resource,
      entry: entries.get(id),
      facts: facts[position],
      locks,
      report,
    };
    await compare(subject, strays.get(id) ?? []);
    const again = (await survey.resources([id])).get(id);
    const changed = again?.rev !== document.rev;
    const busy = locks.running || changed || (await survey.runs(resource.operationId));
    results.set(id, { differences: report.differences, busy });
  }
  return results;
}

async function compare(subject: Subject, strays: readonly Stray[]): Promise<void> {
  const { resource, locks } = subject;
  if (locks.stale.length > 0) staleLock(subject);
  if (locks.running) return;
  // The reaper is at it, and finishes it.
  if (resource.state === 'purging') return;
  if (await staleState(subject)) return;
  if (await compareEntry(subject)) return;
  await comparePlace(subject);
  if (!isSnapshotId(resource.id)) await compareExportList(subject);
  for (const stray of strays) await orphan(subject, stray);
}

function staleLock({ locks, report, resource }: Subject): void {
  const { stale } = locks;
  report.automatic(
    {
      class: 'lock-stale',
      says: `${resource.id} is locked by ${stale.join(', ')}, which does not run.`,
      remedy: 'The lock is taken away.',
    },
    { kind: 'commit', writes: async () => lockWrites(locks) },
  );
}

/** The writes that take the holders away that do not run. */
export function lockWrites({ documents, stale }: FoundLocks): readonly Write[] {
  return documents.map((document) => {
    const holders = document.value.holders.filter((holder) => !stale.includes(holder.operationId));
    return putLock(document.key, { holders }, document.rev);
  });
}

const TRANSITIONAL: ReadonlySet<string> = new Set(['creating', 'pending', 'deleting']);

/** An operation that has ended, or never was, and its resource waits for it. */
async function staleState({ survey, document, resource, facts, report }: Subject): Promise<boolean> {
  const { id, state, operationId } = resource;
  if (operationId === undefined && !TRANSITIONAL.has(state)) return false;
  if (await survey.runs(operationId)) return false;
  const by = operationId === undefined ? 'no operation' : `${operationId}, which does not run`;
  report.automatic(
    {
      class: 'state-stale',
      says: `${id} is ${state} and is being changed by ${by}.`,
      remedy: 'It goes back to the state that it had before, or to the one that its image has; what was not made goes.',
    },
    { kind: 'commit', writes: () => settledWrites(survey.core, document, facts) },
  );
  return true;
}

/** Where the image is: live, in the trash, or nowhere. */
async function comparePlace(subject: Subject): Promise<void> {
  const { document, resource, facts, report } = subject;
  const { id, state, image } = resource;
  if (image === undefined || facts === undefined || facts.backendId === '') {
    report.onRequest(
      {
        class: 'image-missing',
        says: `${id} is ${state}, and its image ${image?.name ?? id} is not on the storage.`,
        remedy:
          'Asked for by this class, Repair forgets it: what it held is lost. Make sure before that this is the right storage.',
        image: { name: image?.name ?? id, backendId: image?.backendId ?? '' },
      },
      { kind: 'commit', writes: () => forgetWrites(subject) },
    );
    return;
  }
  const where = { name: facts.listedName === '' ? facts.trashedName : facts.listedName, backendId: facts.backendId };
  const isUsable = state === 'available' || state === 'completed';
  if (isUsable && facts.listedName === '') {
    report.onRequest(
      {
        class: 'image-trashed',
        says: `${id} is ${state}, and its image is in the storage's trash.`,
        remedy:
          'Asked for by this class, Repair takes the image out of the trash. If it was meant to be deleted, delete it: that finds it done.',
        image: where,
      },
      { kind: 'operation', plan: { action: 'restore-image', ...namesAfter(subject) } },
    );
  } else if (state === 'deleted' && facts.trashedName === '') {
    report.onRequest(
      {
        class: 'image-not-trashed',
        says: `${id} is deleted, and its image is not in the storage's trash. The reaper leaves it alone.`,
        remedy: 'Asked for by this class, Repair makes it usable again. To have it deleted, delete it after that.',
        image: where,
      },
      {
        kind: 'commit',
        writes: async () => putIfSame(document, usable({ ...resource, image: { ...image, name: where.name } })),
      },
    );
  } else if (where.name !== image.name) {
    report.onRequest(
      {
        class: 'image-renamed',
        says: `The image of ${id} has the name ${where.name} instead of ${image.name}.`,
        remedy: 'Asked for by this class, Repair takes over its name.',
        image: where,
      },
      {
        kind: 'commit',
        writes: async () => {
          const formerNames = [...new Set([...image.formerNames, image.name])];
          return putIfSame(document, { ...resource, image: { ...image, name: where.name, formerNames } });
        },
      },
    );
  }
  await compareHeader(subject, facts, image);
}

/** A name that the image never had, also after what the catalogue knows. */
function namesAfter({ resource, entry }: Subject): { newName: string; formerNames: readonly string[] } {
  const identity = entry !== undefined && 'identity' in entry ? entry.identity : undefined;
  const known = identity === undefined || identity.kind === 'export' ? [] : [identity.name, ...identity.formerNames];
  const { id, image } = resource;
  const names = [...new Set([...known, ...(image?.formerNames ?? []), image?.name ?? id])];
  const number = (name: string) => (name === id ? 1 : Number(name.slice(id.length + 1)) || 1);
  const last = names.reduce((a, b) => (number(a) >= number(b) ? a : b), id);
  return { newName: nextImageName(id, last), formerNames: names };
}

async function forgetWrites({ survey, document, resource, locks }: Subject): Promise<readonly Write[] | undefined> {
  const { store, clock } = survey.core;
  const needed = await store.list(indexes.childrenOf(resource.id), { limit: 1 });
  const exported = 'exportIds' in resource && resource.exportIds.length > 0;
  if (needed.documents.length > 0 || exported) return undefined;
  const reason = 'Its image was not on the storage; an administrator has it forgotten.';
  const tombstone: Tombstone = { id: resource.id, state: 'gone', goneTime: clock.now(), reason };
  return [putTombstone(document.key, tombstone, document.rev), ...lockWrites(locks)];
}

/** The volume's own list of its exports, by which the rules of exporting judge. */
async function compareExportList({ survey, document, resource, report }: Subject): Promise<void> {
  const volume = resource as Volume;
  const listed = await survey.exports(volume.exportIds);
  const found = await listAll<Export>(survey.core.store, indexes.exportsOfVolume(volume.id));
  const open = found.map(({ value }) => value.id);
  const dead = volume.exportIds.filter((id) => listed.get(id)?.value.state === 'gone' || !listed.has(id));
  const unlisted = open.filter((id) => !volume.exportIds.includes(id));
  if (dead.length === 0 && unlisted.length === 0) return;
  const exportIds = [...volume.exportIds.filter((id) => !dead.includes(id)), ...unlisted];
  report.automatic(
    {
      class: 'export-list',
      says: `${volume.id} lists the exports ${volume.exportIds.join(', ') || 'none'}; open are ${open.join(', ') || 'none'}.`,
      remedy: 'The list is put right.',
    },
    { kind: 'commit', writes: async () => [putVolume({ ...volume, exportIds }, document.rev)] },
  );
}

/** An image with a name of this resource that is not its image: a former try of a step, made late. */
async function orphan({ survey, document, resource, report }: Subject, stray: Stray): Promise<void> {
  // It was being made when it was found: now it is on record.
  if (stray.backendId === resource.image?.backendId) return;
  if (await isDebris(survey, stray.name)) return;
  const [facts] = await survey.images([{ name: stray.name, backendId: stray.backendId }]);
  if (facts === undefined || facts.backendId === '') return;
  report.automatic(
    {
      class: 'image-orphaned',
      says: `The image ${stray.name} (${stray.backendId}) has a name of ${resource.id}, whose image is another.`,
      remedy: 'It is left to the reaper, which destroys it.',
      image: stray,
    },
    {
      kind: 'commit',
      writes: () =>
        debrisWrites(survey, stray.name, facts, `a late request made it beside the image of ${resource.id}`, [
          { kind: 'check', key: document.key, expect: document.rev },
        ]),
    },
  );
}
