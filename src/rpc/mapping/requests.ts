import { invalidField, MoorageError } from '../../core/errors.js';
import { requireId } from '../../core/model/ids.js';
import type { RbdPoolSettings } from '../../core/model/resources.js';
import type {
  CreatePool,
  CreateVolume,
  ExportVolume,
  GrantExport,
  PageRequest,
  ResourceMutation,
  ResourceUpdate,
} from '../../core/services/types.js';
import type { FieldMask__Output } from '../../generated/google/protobuf/FieldMask.js';
import type { CreatePoolRequest__Output } from '../../generated/moorage/v1/CreatePoolRequest.js';
import type { CreateVolumeRequest__Output } from '../../generated/moorage/v1/CreateVolumeRequest.js';
import type { ExportRequest__Output } from '../../generated/moorage/v1/ExportRequest.js';
import type { GrantExportRequest__Output } from '../../generated/moorage/v1/GrantExportRequest.js';
import type { RbdPoolSettings__Output } from '../../generated/moorage/v1/RbdPoolSettings.js';
import type { VolumeSource__Output } from '../../generated/moorage/v1/VolumeSource.js';
import { fromDuration, fromInt64 } from './scalars.js';

/*
 * Requests whose shape differs from the core's. Only what the messages can say and the core's types cannot (an empty oneof,
 * a number too large, an unknown enum value) is refused here; everything else the core checks.
 */

/** Which page is asked for. */
export function fromPage(request: { pageSize: number; pageToken: string }): PageRequest {
  return { pageSize: request.pageSize, pageToken: request.pageToken };
}

/** Delete, undelete and remove. */
export function fromResourceMutation(
  id: string,
  request: { clientToken: string; etag: string; validateOnly: boolean },
): ResourceMutation {
  return { clientToken: request.clientToken, id, etag: request.etag, validateOnly: request.validateOnly };
}

/** What all updates have in common. */
export function fromUpdate(
  id: string,
  request: {
    clientToken: string;
    etag: string;
    validateOnly: boolean;
    updateMask: FieldMask__Output | null;
    tags: Readonly<Record<string, string>>;
  },
): ResourceUpdate {
  return { ...fromResourceMutation(id, request), updateMask: request.updateMask?.paths ?? [], tags: request.tags };
}

export function fromCreateVolume(request: CreateVolumeRequest__Output): CreateVolume {
  return {
    clientToken: request.clientToken,
    validateOnly: request.validateOnly,
    poolId: request.poolId,
    sizeBytes: fromInt64('size_bytes', request.sizeBytes),
    sourceSnapshotId: sourceSnapshot(request.source),
    displayName: request.displayName,
    tags: request.tags,
    encrypted: request.encrypted,
    multiAttach: request.multiAttach,
  };
}

function sourceSnapshot(source: VolumeSource__Output | null): string {
  if (source === null) return '';
  switch (source.source) {
    case 'snapshotId':
      requireId('snap', 'source.snapshot_id', source.snapshotId ?? '');
      return source.snapshotId ?? '';
    case 'volumeId':
      throw notYet('source.volume_id', 'make a snapshot of the volume and a volume from that');
    case 'imageId':
      throw notYet('source.image_id', 'there are no golden images yet');
    default:
      throw invalidField('source', 'is there and names no source; set source.snapshot_id, or leave source unset');
  }
}

export function fromGrantExport(request: GrantExportRequest__Output): GrantExport {
  return {
    clientToken: request.clientToken,
    validateOnly: request.validateOnly,
    volumeId: request.volumeId,
    nodeId: request.nodeId,
    instance: request.instance,
    migration: request.migration,
    readOnly: request.readOnly,
    lifetimeMilliseconds: fromDuration('lifetime', request.lifetime) ?? 0,
  };
}

export function fromExport(request: ExportRequest__Output): ExportVolume {
  const common = {
    clientToken: request.clientToken,
    validateOnly: request.validateOnly,
    volumeId: request.volumeId,
  };
  switch (request.authority) {
    case 'grantId':
      requireId('grant', 'grant_id', request.grantId ?? '');
      return { ...common, grantId: request.grantId ?? '' };
    case 'direct': {
      const direct = request.direct;
      if (!direct) throw invalidField('direct', 'is empty; say at least direct.node_id');
      const lifetime = fromDuration('direct.descriptor_lifetime', direct.descriptorLifetime);
      return {
        ...common,
        grantId: '',
        direct: {
          nodeId: direct.nodeId,
          instance: direct.instance,
          migration: direct.migration,
          readOnly: direct.readOnly,
          descriptorLifetimeMilliseconds: lifetime ?? 0,
        },
      };
    }
    default:
      throw invalidField('authority', 'is missing; a node gives grant_id, an administrator direct');
  }
}

export function fromCreatePool(request: CreatePoolRequest__Output): CreatePool {
  if (!request.rbd) throw invalidField('settings', 'is missing; set rbd {cluster, ceph_pool}');
  return {
    clientToken: request.clientToken,
    validateOnly: request.validateOnly,
    poolId: request.poolId,
    settings: fromRbdSettings(request.rbd),
    undeleteWindowSeconds:
      request.undeleteWindowSeconds === undefined
        ? undefined
        : fromInt64('undelete_window_seconds', request.undeleteWindowSeconds),
    tags: request.tags,
  };
}

function fromRbdSettings(settings: RbdPoolSettings__Output): RbdPoolSettings {
  const base = { backend: 'rbd', cluster: settings.cluster, cephPool: settings.cephPool } as const;
  const isolate = settings.isolate ? { isolate: true } : {};
  switch (settings.access) {
    case 'RBD_ACCESS_UNSPECIFIED':
    case 'RBD_ACCESS_MANAGED':
      return { ...base, access: 'managed', keyringUser: settings.keyringUser, ...isolate };
    case 'RBD_ACCESS_KEYRING':
      return { ...base, access: 'keyring', keyringUser: settings.keyringUser, ...isolate };
    default:
      throw invalidField(
        'rbd.access',
        `${String(settings.access)} is unknown; it is RBD_ACCESS_MANAGED or RBD_ACCESS_KEYRING`,
      );
  }
}

function notYet(field: string, advice: string): MoorageError {
  return new MoorageError('UNIMPLEMENTED', `${field} is kept free and not implemented yet: ${advice}.`, {
    reason: 'NOT_IMPLEMENTED',
    fieldViolations: [{ field, description: advice }],
  });
}
