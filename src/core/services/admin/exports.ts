import { keys, putVolume } from '../../journal/documents.js';
import type { Export, Node, Volume } from '../../model/resources.js';
import type { AccessFacts } from '../../ports/backend.js';
import type { StoredDocument, Write } from '../../ports/store.js';
import { exportIdentityOf } from '../catalogue.js';
import { endedWrites } from '../exports/create-export.js';
import { ancestorsOf } from '../exports/rules.js';
import { Report } from './findings.js';
import { type Examined, lockWrites } from './resources.js';
import { settledExportWrites } from './settle.js';
import type { FoundEntry, Survey } from './survey.js';

/*
 * An export of the store, held against its entry in the catalogue and its user on the backend. Withdrawing removes the
 * user first and the entry last: so an export that has neither has ended, and one that has an entry is open.
 */

type ExportSubject = {
  readonly survey: Survey;
  readonly document: StoredDocument<Export>;
  readonly entry: FoundEntry | undefined;
  readonly report: Report;
};

/** Examines exports that are in the store. */
export async function examineExports(
  survey: Survey,
  documents: readonly StoredDocument<Export>[],
): Promise<ReadonlyMap<string, Examined>> {
  const entries = await survey.entries(documents.map(({ value }) => value.id));
  const results = new Map<string, Examined>();
  const examineOne = async (document: StoredDocument<Export>): Promise<void> => {
    const { id, operationId } = document.value;
    const report = new Report(survey.pool.id, id);
    const locks = await survey.locks(id);
    if (locks.stale.length > 0) {
      report.automatic(
        {
          class: 'lock-stale',
          says: `${id} is locked by ${locks.stale.join(', ')}, which does not run.`,
          remedy: 'The lock is taken away.',
        },
        { kind: 'commit', writes: async () => lockWrites(locks) },
      );
    }
    if (!locks.running) await compare({ survey, document, entry: entries.get(id), report });
    const again = (await survey.exports([id])).get(id);
    const busy = locks.running || again?.rev !== document.rev || (await survey.runs(operationId));
    results.set(id, { differences: report.differences, busy });
  };
  await Promise.all(documents.map(examineOne));
  return results;
}

async function compare(subject: ExportSubject): Promise<void> {
  const { survey, document, report } = subject;
  const { id, state, operationId, volumeId } = document.value;
  if (state !== 'exported' || operationId !== undefined) {
    if (await survey.runs(operationId)) return;
    report.automatic(
      {
        class: 'state-stale',
        says: `${id} is ${state} and is being changed by ${operationId ?? 'no operation'}, which does not run.`,
        remedy: 'It counts as open again, or goes when it never was. Unexport it to have it withdrawn.',
      },
      { kind: 'commit', writes: () => settledExportWrites(survey.core, document) },
    );
    return;
  }
  const volume = await survey.core.store.get<Volume>(keys.volume(volumeId));
  if (volume === undefined || volume.value.state === ('gone' as string) || volume.value.image === undefined) {
    report.none({
      class: 'parent-unknown',
      says: `${id} is an export of ${volumeId}, which is not in the store.`,
      remedy: 'If the catalogue has the volume, Repair takes it into the store by itself.',
    });
    return;
  }
  if (!volume.value.exportIds.includes(id)) unlisted(subject, volume);
  const node = await survey.core.store.get<Node>(keys.node(document.value.nodeId));
  // The users of a fenced node's exports are deleted, and stay so until each is withdrawn.
  if (node?.value.fence !== undefined) return;
  const access = await accessFacts(survey, document.value, volume.value);
  if (access !== undefined) compareAccess(subject, access);
}

function unlisted({ document, report }: ExportSubject, volume: StoredDocument<Volume>): void {
  const { id } = document.value;
  const exportIds = [...volume.value.exportIds, id];
  report.automatic(
    {
      class: 'export-list',
      says: `${id} is open, and ${volume.value.id} does not list it.`,
      remedy: 'The list is put right.',
    },
    {
      kind: 'commit',
      writes: async (): Promise<Write[]> => [
        putVolume({ ...volume.value, exportIds }, volume.rev),
        { kind: 'check', key: document.key, expect: document.rev },
      ],
    },
  );
}

/** Undefined while what it is made from is not in the store: what its rights should be is not known then. */
async function accessFacts(survey: Survey, item: Export, volume: Volume): Promise<AccessFacts | undefined> {
  const { image } = volume;
  if (image === undefined) return undefined;
  const ancestors = await ancestorsOf(survey.core.store, image).catch(() => undefined);
  if (ancestors === undefined) return undefined;
  const access = item.sealedAccess === undefined ? new Uint8Array() : openAccess(survey, item);
  try {
    return await survey.core.backend().fence.inspectAccess(
      survey.pool,
      {
        exportId: item.id,
        image,
        ancestors: ancestors.map((ancestor) => ancestor.image),
        readOnly: item.readOnly,
        access,
      },
      survey.context('inspect-access'),
    );
  } finally {
    access.fill(0);
  }
}

function openAccess(survey: Survey, item: Export): Uint8Array {
  try {
    return survey.core.vault.open(item.sealedAccess ?? '', `export/${item.id}`);
  } catch {
    // Sealed under a master key that is lost: as good as none.
    return new Uint8Array();
  }
}

function compareAccess({ survey, document, entry, report }: ExportSubject, access: AccessFacts): void {
  const item = document.value;
  const { id, volumeId, nodeId } = item;
  const managed = survey.pool.settings.access === 'managed';
  const rewrite = { kind: 'operation', plan: { action: 'put-entry' } } as const;
  const grant = { kind: 'operation', plan: { action: 'grant-access' } } as const;
  if (entry === undefined && (!managed || !access.exists)) {
    report.automatic(
      {
        class: 'export-ended',
        says: `${id} (${volumeId} on ${nodeId}) is open in the store; on the storage it has ended.`,
        remedy: 'It ends in the store too. A node that has the volume open all the same keeps Repair from it.',
      },
      { kind: 'commit', writes: () => endWrites(survey, document) },
    );
    return;
  }
  if (entry === undefined) {
    const says = `${id} has no entry in the catalogue.`;
    report.automatic({ class: 'entry-missing', says, remedy: 'It is written again from the store.' }, rewrite);
  } else if ('forged' in entry) {
    const says = `The catalogue's entry of ${id} was not written under this controller's master key.`;
    report.automatic({ class: 'entry-forged', says, remedy: 'It is written again from the store.' }, rewrite);
  } else {
    const wanted = exportIdentityOf(item);
    const { identity } = entry;
    const same =
      identity.kind === 'export' &&
      identity.volumeId === wanted.volumeId &&
      identity.nodeId === wanted.nodeId &&
      identity.instance === wanted.instance &&
      identity.readOnly === wanted.readOnly;
    if (!same) {
      const says = `The catalogue's entry of ${id} says something else than the store.`;
      report.automatic({ class: 'entry-differs', says, remedy: 'It is written again from the store.' }, rewrite);
    }
  }
  if (!access.exists) {
    report.automatic(
      {
        class: 'access-missing',
        says: `${id} (${volumeId} on ${nodeId}) is open, and its user is not on the storage.`,
        remedy: 'The user is made again, with a new key: the node has to export and connect again.',
      },
      grant,
    );
  } else if (!access.rightsMatch || !access.accessMatches) {
    const what = access.rightsMatch ? 'another key' : 'other rights';
    report.automatic(
      {
        class: 'access-differs',
        says: `The user of ${id} (${volumeId} on ${nodeId}) has ${what} than it was given.`,
        remedy: 'It gets the rights that it should have, and the store the key that it has.',
      },
      grant,
    );
  }
}

/** Nothing while a client is connected as its user or the volume is open and has no other export: it has not ended then. */
async function endWrites(survey: Survey, document: StoredDocument<Export>): Promise<readonly Write[] | undefined> {
  const { fence, data } = survey.core.backend();
  const item = document.value;
  const exportId = item.id;
  const clients =
    survey.pool.settings.access === 'managed'
      ? await fence.listClients(survey.pool, { exportId }, survey.context('list-clients'))
      : [];
  if (clients.length > 0) return undefined;
  const volume = await survey.core.store.get<Volume>(keys.volume(item.volumeId));
  const others = volume?.value.exportIds?.filter((id) => id !== exportId) ?? [];
  if (others.length === 0 && volume?.value.image !== undefined) {
    const holders = await data.getUsage(survey.pool, volume.value.image, survey.context('get-usage'));
    if (holders.length > 0 && !(await isExportedNow(survey, item.volumeId))) return undefined;
  }
  return endedWrites(survey.core, document, 'It had ended on the storage.');
}

/** Whether the catalogue has another export of the volume, which the store does not know yet: then that one has it open. */
async function isExportedNow(survey: Survey, volumeId: string): Promise<boolean> {
  const { data } = survey.core.backend();
  let cursor = '';
  do {
    const page = await data.listCatalogueEntries(survey.pool, { cursor, limit: 500 }, survey.context('list-entries'));
    for (const { key, value } of page.entries) {
      const entry = key.startsWith('exp-') ? survey.entry(key, value) : undefined;
      if (entry !== undefined && 'identity' in entry && entry.identity.kind === 'export') {
        if (entry.identity.volumeId === volumeId) return true;
      }
    }
    cursor = page.nextCursor;
  } while (cursor !== '');
  return false;
}
