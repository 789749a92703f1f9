import type { ImageParent } from '../../model/image.js';
import type { Snapshot, Volume } from '../../model/resources.js';
import type { ImageFacts } from '../../ports/backend.js';
import type { ImageIdentity } from '../catalogue.js';
import { followed, putIfSame } from './adopt.js';
import { isSnapshotId } from './names.js';
import { identityOfResource } from './repair-operation.js';
import type { Subject } from './resources.js';

/*
 * A volume or snapshot, held against its entry in the catalogue.
 */

type Resource = Volume | Snapshot;

/** @returns whether the entry was newer than the document, so that nothing else of it is worth comparing */
export async function compareEntry({ document, resource, entry, facts, report }: Subject): Promise<boolean> {
  const { id } = resource;
  const rewrite = { kind: 'operation', plan: { action: 'put-entry' } } as const;
  const again = 'The entry is written again from the store.';
  if (entry === undefined) {
    report.automatic({ class: 'entry-missing', says: `${id} has no entry in the catalogue.`, remedy: again }, rewrite);
    return false;
  }
  if ('forged' in entry) {
    const says = `The catalogue's entry of ${id} was not written under this controller's master key.`;
    report.automatic({ class: 'entry-forged', says, remedy: again }, rewrite);
    return false;
  }
  const { identity } = entry;
  const differing = identity.kind === 'export' ? ['kind'] : differingFields(identity, resource);
  if (differing.length === 0) return false;
  const says = `The catalogue's entry of ${id} says something else than the store: ${differing.join(', ')}.`;
  if (identity.kind === 'export' || (identity.updateTime ?? 0) <= resource.updateTime) {
    report.automatic({ class: 'entry-differs', says, remedy: again }, rewrite);
    return false;
  }
  const value = followNewer(resource, identity, facts);
  report.automatic(
    {
      class: 'entry-differs',
      says: `${says} The entry is newer: the store is older than the storage.`,
      remedy: 'The store takes over what the entry says.',
    },
    { kind: 'commit', writes: async () => putIfSame(document, value) },
  );
  return true;
}

/** Also back from deleted, when it was undeleted after the store was as old as this. */
function followNewer(resource: Resource, identity: ImageIdentity, facts: ImageFacts | undefined): Resource {
  const value = followed(resource, identity);
  const undeleted = resource.state === 'deleted' && facts?.listedName !== '' && facts?.listedName === identity.name;
  return undeleted ? usable(value) : value;
}

/** It, no longer deleted. */
export function usable(resource: Resource): Resource {
  const { deleteTime: _, purgeTime: __, ...rest } = resource;
  return { ...rest, state: isSnapshotId(resource.id) ? 'completed' : 'available' } as Resource;
}

function differingFields(entry: ImageIdentity, resource: Resource): string[] {
  const wanted = identityOfResource(resource);
  const essence = (parent: ImageParent | undefined) =>
    parent === undefined ? '' : `${parent.resourceId}/${parent.backendId}/${parent.point.backendId}`;
  const same: Readonly<Record<string, boolean>> = {
    kind: entry.kind === wanted.kind,
    pool: entry.poolId === wanted.poolId,
    name: entry.name === wanted.name,
    size: entry.sizeBytes === wanted.sizeBytes,
    parent: essence(entry.parent) === essence(wanted.parent),
    volume: entry.volumeId === wanted.volumeId,
    'display name': entry.displayName === wanted.displayName,
    tags: sorted(entry.tags) === sorted(wanted.tags),
    'multi-attach': entry.multiAttach === wanted.multiAttach,
    'creation time': entry.createTime === wanted.createTime,
  };
  return Object.entries(same).flatMap(([name, holds]) => (holds ? [] : [name]));
}

function sorted(tags: Readonly<Record<string, string>>): string {
  return JSON.stringify(Object.entries(tags).sort(([a], [b]) => (a < b ? -1 : 1)));
}
