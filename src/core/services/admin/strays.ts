import { keys } from '../../journal/documents.js';
import type { Tombstone } from '../../model/resources.js';
import type { ImageFacts } from '../../ports/backend.js';
import type { StoredDocument, Write } from '../../ports/store.js';
import type { ImageIdentity } from '../catalogue.js';
import { adoptWrites, findImage, flaw } from './adopt.js';
import { debrisWrites, isDebris } from './debris.js';
import { Report } from './findings.js';
import { type Examined, lockWrites, type Stray } from './resources.js';
import { type FoundEntry, resourceKey, type Survey } from './survey.js';

/*
 * What the catalogue or the backend has and the store has not: something that a lost or an older store does not know of,
 * which is taken in; or something that the store knows to be gone, which a late request made again, and which is cleared
 * away. Without an authenticated entry, and without a trace in the store, nothing is ours, whatever its name.
 */

/** Examines volumes and snapshots that are not in the store, or gone there. */
export async function examineStrays(
  survey: Survey,
  ids: readonly string[],
  strays: ReadonlyMap<string, readonly Stray[]>,
): Promise<ReadonlyMap<string, Examined>> {
  const entries = await survey.entries(ids);
  const documents = await survey.resources(ids);
  const results = new Map<string, Examined>();
  for (const id of ids) {
    const report = new Report(survey.pool.id, id);
    const document = documents.get(id);
    if (document !== undefined && document.value.state !== 'gone') {
      results.set(id, { differences: [], busy: true });
      continue;
    }
    const locks = await survey.locks(id);
    if (locks.stale.length > 0) {
      const says = `${id} is locked by ${locks.stale.join(', ')}, which does not run.`;
      report.automatic(
        { class: 'lock-stale', says, remedy: 'The lock is taken away.' },
        { kind: 'commit', writes: async () => lockWrites(locks) },
      );
    }
    const entry = entries.get(id);
    const identity = entry !== undefined && 'identity' in entry ? entry.identity : undefined;
    if (entry !== undefined && 'forged' in entry) forged(report, id);
    if (identity !== undefined && identity.kind !== 'export') {
      await known(survey, report, identity, document as StoredDocument<Tombstone> | undefined);
    }
    for (const stray of strays.get(id) ?? []) {
      await image(survey, report, stray, identity?.kind === 'export' ? undefined : identity, document);
    }
    const again = (await survey.resources([id])).get(id);
    results.set(id, { differences: report.differences, busy: locks.running || again?.rev !== document?.rev });
  }
  return results;
}

function forged(report: Report, id: string): void {
  report.none({
    class: 'entry-forged',
    says: `The catalogue has an entry of ${id} that was not written under this controller's master key.`,
    remedy: 'It is not believed. If the master key was lost, give the controller that one too.',
  });
}

async function known(
  survey: Survey,
  report: Report,
  identity: ImageIdentity,
  tombstone: StoredDocument<Tombstone> | undefined,
): Promise<void> {
  const { id } = identity;
  const facts = await findImage(survey, identity);
  if (identity.poolId !== survey.pool.id) {
    report.none({
      class: 'entry-differs',
      says: `The catalogue says that ${id} is of the pool ${identity.poolId}; it lies in that of ${survey.pool.id}.`,
      remedy: `This pool had the id ${identity.poolId}: create it under that one.`,
    });
    return;
  }
  if (facts === undefined) {
    report.automatic(
      {
        class: 'entry-stale',
        says: `The catalogue has an entry of ${id}, which is ${tombstone === undefined ? 'not' : 'gone'} in the store and has no image.`,
        remedy: 'The entry is removed.',
      },
      { kind: 'operation', plan: { action: 'remove-entry' } },
    );
    return;
  }
  const name = facts.listedName === '' ? facts.trashedName : facts.listedName;
  const where = { name, backendId: facts.backendId };
  if (tombstone !== undefined) {
    if (await isDebris(survey, name)) return;
    report.automatic(
      {
        class: 'image-orphaned',
        says: `The image ${name} (${facts.backendId}) is of ${id}, which is gone in the store since ${new Date(tombstone.value.goneTime).toISOString()}.`,
        remedy: 'It is left to the reaper, which destroys it and removes its entry.',
        image: where,
      },
      {
        kind: 'commit',
        writes: () =>
          debrisWrites(survey, name, facts, `a late request made it after ${id} was gone`, [
            { kind: 'check', key: tombstone.key, expect: tombstone.rev },
          ]),
      },
    );
    return;
  }
  const wrong = flaw(identity, facts);
  if (wrong === undefined) {
    report.automatic(
      {
        class: 'not-in-store',
        says: `${id} is in the catalogue and on the storage (${name}), and not in the store.`,
        remedy: 'It is taken into the store as the catalogue has it.',
        image: where,
      },
      { kind: 'commit', writes: () => adoptWrites(survey, identity, facts) },
    );
    return;
  }
  if (await isDebris(survey, name)) return;
  report.onRequest(
    {
      class: 'image-orphaned',
      says: `The image ${name} (${facts.backendId}) of ${id}, which is not in the store, is not whole: ${wrong}.`,
      remedy:
        'Most likely its making was cut short, and nobody was told of it. Asked for by this class, Repair leaves it to the reaper, which destroys it.',
      image: where,
    },
    { kind: 'commit', writes: () => unfinishedWrites(survey, id, name, facts) },
  );
}

function unfinishedWrites(
  survey: Survey,
  id: string,
  name: string,
  facts: ImageFacts,
): Promise<readonly Write[] | undefined> {
  return debrisWrites(survey, name, facts, `its making was cut short`, [
    { kind: 'check', key: resourceKey(id), expect: 'absent' },
  ]);
}

/** An image that has a name of ours. */
async function image(
  survey: Survey,
  report: Report,
  stray: Stray,
  identity: ImageIdentity | undefined,
  tombstone: StoredDocument<unknown> | undefined,
): Promise<void> {
  // The entry's own image is told of with the entry.
  if (identity !== undefined && [identity.name, ...identity.formerNames].includes(stray.name)) return;
  const [facts] = await survey.images([{ name: stray.name, backendId: stray.backendId }]);
  if (facts === undefined || facts.backendId === '' || (await isDebris(survey, stray.name))) return;
  if (identity === undefined && tombstone === undefined) {
    report.none({
      class: 'image-unknown',
      says: `The image ${stray.name} (${stray.backendId}) has a name as ours have it; neither store nor catalogue knows of it.`,
      remedy: 'It is not touched: whose it is cannot be known. Whoever made it may remove it.',
      image: stray,
    });
    return;
  }
  const key = resourceKey(stray.name.split('.')[0] ?? stray.name);
  report.automatic(
    {
      class: 'image-orphaned',
      says: `The image ${stray.name} (${stray.backendId}) is a former try at something that ${identity === undefined ? 'is gone' : 'has another image'}.`,
      remedy: 'It is left to the reaper, which destroys it.',
      image: stray,
    },
    {
      kind: 'commit',
      writes: () =>
        debrisWrites(survey, stray.name, facts, 'a late request made it', [
          { kind: 'check', key, expect: tombstone?.rev ?? 'absent' },
        ]),
    },
  );
}

/** Examines exports that are in the catalogue, or have a user, and are not open in the store. */
export async function examineStrayExports(
  survey: Survey,
  ids: readonly string[],
): Promise<ReadonlyMap<string, Examined>> {
  const entries = await survey.entries(ids);
  const documents = await survey.exports(ids);
  const results = new Map<string, Examined>();
  for (const id of ids) {
    const report = new Report(survey.pool.id, id);
    const document = documents.get(id);
    const locks = await survey.locks(id);
    const busy = locks.running || (document !== undefined && document.value.state !== 'gone');
    if (!busy) await strayExport(survey, report, id, entries.get(id), document !== undefined);
    const again = await survey.core.store.get(keys.export(id));
    results.set(id, { differences: report.differences, busy: busy || again?.rev !== document?.rev });
  }
  return results;
}

async function strayExport(
  survey: Survey,
  report: Report,
  id: string,
  entry: FoundEntry | undefined,
  isGone: boolean,
): Promise<void> {
  const identity = entry !== undefined && 'identity' in entry ? entry.identity : undefined;
  if (entry !== undefined && identity === undefined && !isGone) forged(report, id);
  if (identity?.kind === 'export' && !isGone) {
    report.automatic(
      {
        class: 'export-not-in-store',
        says: `${id} (${identity.volumeId} on ${identity.nodeId}) is open by the catalogue, and not in the store.`,
        remedy: 'It is taken into the store as open. Unexport it to have it withdrawn.',
      },
      { kind: 'operation', plan: { action: 'adopt-export', identity } },
    );
    return;
  }
  if (await hasUser(survey, id)) {
    report.automatic(
      {
        class: 'access-orphaned',
        says: `The storage has a user of ${id}, which is ${isGone ? 'gone' : 'neither in the store nor in the catalogue'}.`,
        remedy: 'The user is deleted; whoever is connected as it is cut off.',
      },
      { kind: 'operation', plan: { action: 'revoke-access' } },
    );
  }
  if (entry !== undefined && isGone) {
    report.automatic(
      {
        class: 'entry-stale',
        says: `The catalogue has an entry of ${id}, which is gone in the store.`,
        remedy: 'The entry is removed.',
      },
      { kind: 'operation', plan: { action: 'remove-entry' } },
    );
  }
}

async function hasUser(survey: Survey, exportId: string): Promise<boolean> {
  if (survey.pool.settings.access !== 'managed') return false;
  const nothing = { ancestors: [], readOnly: false, access: new Uint8Array() };
  const context = survey.context('inspect-access');
  return (await survey.core.backend().fence.inspectAccess(survey.pool, { exportId, ...nothing }, context)).exists;
}
