import { MoorageError } from '../errors.js';
import type { ImageRecord } from '../model/image.js';
import type { Snapshot, Volume } from '../model/resources.js';
import type { ImageIdentity } from './catalogue.js';

/** The image of a volume or snapshot that must have one. @throws MoorageError INTERNAL */
export function requireImage(resource: { readonly id: string; readonly image?: ImageRecord }): ImageRecord {
  if (resource.image !== undefined) return resource.image;
  throw new MoorageError('INTERNAL', `${resource.id} has no image recorded.`, { reason: 'NO_IMAGE' });
}

/** What the catalogue says of a volume's image. */
export function identityOf(volume: Volume): ImageIdentity {
  const { image } = volume;
  return {
    id: volume.id,
    kind: 'volume',
    poolId: volume.poolId,
    name: image?.name ?? volume.id,
    formerNames: image?.formerNames ?? [],
    sizeBytes: volume.sizeBytes,
    displayName: volume.displayName,
    tags: volume.tags,
    encrypted: volume.encrypted,
    multiAttach: volume.multiAttach,
    createTime: volume.createTime,
    updateTime: volume.updateTime,
    largestSizeBytes: Math.max(volume.sizeBytes, image?.largestSizeBytes ?? 0),
    ...(volume.sourceSnapshotId === undefined ? {} : { sourceSnapshotId: volume.sourceSnapshotId }),
    ...(image?.parent === undefined ? {} : { parent: image.parent }),
  };
}

/** What the catalogue says of a snapshot's image. */
export function snapshotIdentityOf(snapshot: Snapshot): ImageIdentity {
  const { image } = snapshot;
  return {
    id: snapshot.id,
    kind: 'snapshot',
    poolId: snapshot.poolId,
    name: image?.name ?? snapshot.id,
    formerNames: image?.formerNames ?? [],
    sizeBytes: snapshot.sizeBytes,
    volumeId: snapshot.volumeId,
    displayName: snapshot.displayName,
    tags: snapshot.tags,
    encrypted: snapshot.encrypted,
    multiAttach: false,
    createTime: snapshot.createTime,
    updateTime: snapshot.updateTime,
    largestSizeBytes: Math.max(snapshot.sizeBytes, image?.largestSizeBytes ?? 0),
    ...(snapshot.pointTime === undefined ? {} : { pointTime: snapshot.pointTime }),
    ...(image?.parent === undefined ? {} : { parent: image.parent }),
  };
}
