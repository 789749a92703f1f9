import type { Operation } from '../../core/model/operation.js';
import type { Export, Grant, Node, Snapshot, Volume } from '../../core/model/resources.js';
import type { PoolWithStatus, Versioned } from '../../core/services/types.js';
import type { Export as ApiExport } from '../../generated/moorage/v1/Export.js';
import type { Grant as ApiGrant } from '../../generated/moorage/v1/Grant.js';
import type { Node as ApiNode } from '../../generated/moorage/v1/Node.js';
import type { Operation as ApiOperation } from '../../generated/moorage/v1/Operation.js';
import type { Pool as ApiPool } from '../../generated/moorage/v1/Pool.js';
import type { Snapshot as ApiSnapshot } from '../../generated/moorage/v1/Snapshot.js';
import type { Volume as ApiVolume } from '../../generated/moorage/v1/Volume.js';
import { toTimestamp } from './scalars.js';
import { exportStates, nodeFenceStates, operationStates, poolHealths, snapshotStates, volumeStates } from './states.js';

/** The core's resources as the API shows them. What the API does not show (images, sealed access) stays here. */
export function toVolume({ value: volume, etag }: Versioned<Volume>): ApiVolume {
  return {
    id: volume.id,
    poolId: volume.poolId,
    sizeBytes: volume.sizeBytes,
    state: volumeStates[volume.state],
    statusMessage: volume.statusMessage,
    source: volume.sourceSnapshotId === undefined ? null : { snapshotId: volume.sourceSnapshotId },
    displayName: volume.displayName,
    tags: { ...volume.tags },
    encrypted: volume.encrypted,
    multiAttach: volume.multiAttach,
    createTime: toTimestamp(volume.createTime),
    updateTime: toTimestamp(volume.updateTime),
    deleteTime: toTimestamp(volume.deleteTime),
    purgeTime: toTimestamp(volume.purgeTime),
    etag,
    cloneDepth: volume.cloneDepth,
    exportIds: [...volume.exportIds],
    operationId: volume.operationId ?? '',
  };
}

export function toSnapshot({ value: snapshot, etag }: Versioned<Snapshot>): ApiSnapshot {
  return {
    id: snapshot.id,
    poolId: snapshot.poolId,
    volumeId: snapshot.volumeId,
    sizeBytes: snapshot.sizeBytes,
    state: snapshotStates[snapshot.state],
    statusMessage: snapshot.statusMessage,
    displayName: snapshot.displayName,
    tags: { ...snapshot.tags },
    encrypted: snapshot.encrypted,
    createTime: toTimestamp(snapshot.createTime),
    updateTime: toTimestamp(snapshot.updateTime),
    pointTime: toTimestamp(snapshot.pointTime),
    deleteTime: toTimestamp(snapshot.deleteTime),
    purgeTime: toTimestamp(snapshot.purgeTime),
    etag,
    cloneDepth: snapshot.cloneDepth,
    operationId: snapshot.operationId ?? '',
  };
}

export function toExport({ value, etag }: Versioned<Export>): ApiExport {
  return {
    id: value.id,
    volumeId: value.volumeId,
    nodeId: value.nodeId,
    instance: value.instance,
    state: exportStates[value.state],
    statusMessage: value.statusMessage,
    grantId: value.grantId,
    migration: value.migration,
    readOnly: value.readOnly,
    createTime: toTimestamp(value.createTime),
    updateTime: toTimestamp(value.updateTime),
    etag,
    operationId: value.operationId ?? '',
  };
}

export function toGrant(grant: Grant): ApiGrant {
  return {
    id: grant.id,
    volumeId: grant.volumeId,
    nodeId: grant.nodeId,
    instance: grant.instance,
    migration: grant.migration,
    readOnly: grant.readOnly,
    expireTime: toTimestamp(grant.expireTime),
    createTime: toTimestamp(grant.createTime),
    exportId: grant.exportId,
    revokeTime: toTimestamp(grant.revokeTime),
  };
}

export function toNode({ value: node, etag }: Versioned<Node>): ApiNode {
  return {
    id: node.id,
    publicKey: Buffer.from(node.publicKey, 'base64'),
    publicKeyId: node.publicKeyId,
    storageAddresses: [...node.storageAddresses],
    initiatorName: node.initiatorName,
    tags: { ...node.tags },
    createTime: toTimestamp(node.createTime),
    updateTime: toTimestamp(node.updateTime),
    etag,
    certificateKeyId: node.certificateKeyId ?? '',
    fenceState: node.fence === undefined ? 'NODE_FENCE_STATE_UNSPECIFIED' : nodeFenceStates[node.fence.state],
    fenceReason: node.fence?.reason ?? '',
    fenceTime: toTimestamp(node.fence?.time),
    operationId: node.fence?.operationId ?? '',
  };
}

export function toPool({ value: { pool, status }, etag }: Versioned<PoolWithStatus>): ApiPool {
  return {
    id: pool.id,
    backend: pool.settings.backend,
    settings: 'rbd',
    rbd: {
      cluster: pool.settings.cluster,
      cephPool: pool.settings.cephPool,
      access: pool.settings.access === 'keyring' ? 'RBD_ACCESS_KEYRING' : 'RBD_ACCESS_MANAGED',
      keyringUser: pool.settings.keyringUser,
      isolate: pool.settings.isolate === true,
    },
    health: poolHealths[status.health],
    statusMessage: status.statusMessage,
    capacityBytes: status.capacityBytes,
    freeBytes: status.freeBytes,
    capacityTime: toTimestamp(status.capacityTime === 0 ? undefined : status.capacityTime),
    undeleteWindowSeconds: pool.undeleteWindowSeconds,
    tags: { ...pool.tags },
    createTime: toTimestamp(pool.createTime),
    updateTime: toTimestamp(pool.updateTime),
    etag,
  };
}

export function toOperation(operation: Operation): ApiOperation {
  return {
    id: operation.id,
    kind: operation.kind,
    resourceId: operation.resourceId,
    state: operationStates[operation.state],
    phase: operation.phase,
    progressPercent: operation.progressPercent,
    statusMessage: operation.failure?.message ?? operation.statusMessage,
    failureCode: operation.failure?.code ?? '',
    principal: operation.principal,
    createTime: toTimestamp(operation.createTime),
    updateTime: toTimestamp(operation.updateTime),
    endTime: toTimestamp(operation.endTime),
    cancelRequested: operation.cancelRequested ?? false,
  };
}
