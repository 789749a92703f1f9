import { expireDependents, KEPT_MILLISECONDS, keys, putExport, putVolume } from '../../journal/documents.js';
import type { Export, Snapshot, Tombstone, Volume } from '../../model/resources.js';
import type { ImageFacts } from '../../ports/backend.js';
import type { StoredDocument, Write } from '../../ports/store.js';
import type { CoreContext } from '../context.js';
import { isSnapshotId } from './names.js';
import { putResource } from './repair-operation.js';

/*
 * What was being changed by an operation that will never end: back to what it was before. What was being made leaves no
 * document: if it was made in the end, the catalogue knows it, and Repair takes it from there.
 */

/** The writes that settle a volume or snapshot. */
export async function settledWrites(
  { store, clock }: Pick<CoreContext, 'store' | 'clock'>,
  document: StoredDocument<Volume | Snapshot>,
  facts?: ImageFacts,
): Promise<readonly Write[]> {
  const { operationId: _, ...resource } = document.value;
  const { id, state } = resource;
  if (state === 'creating' || state === 'pending') {
    return [
      { kind: 'delete', key: document.key, expect: document.rev },
      ...(await expireDependents(store, id, clock.now() + KEPT_MILLISECONDS)),
    ];
  }
  if (state !== 'deleting') return [putResource(resource, document.rev)];
  if (facts !== undefined && facts.backendId !== '' && facts.listedName === '') {
    const deleted = { ...resource, state: 'deleted' as const, purgeTime: Math.max(facts.keptUntil, clock.now()) };
    return [putResource(deleted as Volume | Snapshot, document.rev)];
  }
  const { deleteTime: __, ...back } = resource;
  const usable = isSnapshotId(id) ? 'completed' : 'available';
  return [putResource({ ...back, state: usable } as Volume | Snapshot, document.rev)];
}

/** The writes that settle an export. */
export async function settledExportWrites(
  { store, clock }: Pick<CoreContext, 'store' | 'clock'>,
  document: StoredDocument<Export>,
): Promise<readonly Write[]> {
  const { operationId: _, ...item } = document.value;
  if (item.state !== 'exporting') return [putExport({ ...item, state: 'exported' }, document.rev)];
  const volume = await store.get<Volume | Tombstone>(keys.volume(item.volumeId));
  const writes: Write[] = [
    { kind: 'delete', key: document.key, expect: document.rev },
    ...(await expireDependents(store, item.id, clock.now() + KEPT_MILLISECONDS)),
  ];
  if (volume === undefined || !('exportIds' in volume.value)) return writes;
  const exportIds = volume.value.exportIds.filter((id) => id !== item.id);
  return [...writes, putVolume({ ...volume.value, exportIds }, volume.rev)];
}
