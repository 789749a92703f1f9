import { invalidField } from '../../core/errors.js';
import type { OperationState } from '../../core/model/operation.js';
import type { ExportState, NodeFence, PoolHealth, SnapshotState, VolumeState } from '../../core/model/resources.js';
import type { ResourceType } from '../../core/services/types.js';
import type { ExportState as ApiExportState } from '../../generated/moorage/v1/ExportState.js';
import type { NodeFenceState as ApiNodeFenceState } from '../../generated/moorage/v1/NodeFenceState.js';
import type { OperationState as ApiOperationState } from '../../generated/moorage/v1/OperationState.js';
import type { PoolHealth as ApiPoolHealth } from '../../generated/moorage/v1/PoolHealth.js';
import type { ResourceType as ApiResourceType } from '../../generated/moorage/v1/ResourceType.js';
import type { SnapshotState as ApiSnapshotState } from '../../generated/moorage/v1/SnapshotState.js';
import type { VolumeState as ApiVolumeState } from '../../generated/moorage/v1/VolumeState.js';

type Names<State extends string, Api> = Readonly<Record<State, Extract<Api, string>>>;

/** What is gone is not shown; UNSPECIFIED stands here so that the tables are whole. */
export const volumeStates: Names<VolumeState, ApiVolumeState> = {
  creating: 'VOLUME_STATE_CREATING',
  available: 'VOLUME_STATE_AVAILABLE',
  deleting: 'VOLUME_STATE_DELETING',
  deleted: 'VOLUME_STATE_DELETED',
  purging: 'VOLUME_STATE_PURGING',
  error: 'VOLUME_STATE_ERROR',
  gone: 'VOLUME_STATE_UNSPECIFIED',
};

export const snapshotStates: Names<SnapshotState, ApiSnapshotState> = {
  pending: 'SNAPSHOT_STATE_PENDING',
  completed: 'SNAPSHOT_STATE_COMPLETED',
  deleting: 'SNAPSHOT_STATE_DELETING',
  deleted: 'SNAPSHOT_STATE_DELETED',
  purging: 'SNAPSHOT_STATE_PURGING',
  error: 'SNAPSHOT_STATE_ERROR',
  gone: 'SNAPSHOT_STATE_UNSPECIFIED',
};

export const exportStates: Names<ExportState, ApiExportState> = {
  exporting: 'EXPORT_STATE_EXPORTING',
  exported: 'EXPORT_STATE_EXPORTED',
  unexporting: 'EXPORT_STATE_UNEXPORTING',
  error: 'EXPORT_STATE_ERROR',
  gone: 'EXPORT_STATE_UNSPECIFIED',
};

/** Of a node that is fenced; UNSPECIFIED says that it is not. */
export const nodeFenceStates: Names<NodeFence['state'], ApiNodeFenceState> = {
  fencing: 'NODE_FENCE_STATE_FENCING',
  fenced: 'NODE_FENCE_STATE_FENCED',
  unfencing: 'NODE_FENCE_STATE_UNFENCING',
};

export const operationStates: Names<OperationState, ApiOperationState> = {
  running: 'OPERATION_STATE_RUNNING',
  succeeded: 'OPERATION_STATE_SUCCEEDED',
  failed: 'OPERATION_STATE_FAILED',
};

export const poolHealths: Names<PoolHealth, ApiPoolHealth> = {
  unknown: 'POOL_HEALTH_UNSPECIFIED',
  ready: 'POOL_HEALTH_READY',
  unavailable: 'POOL_HEALTH_UNAVAILABLE',
};

export const resourceTypes: Names<ResourceType, ApiResourceType> = {
  volume: 'RESOURCE_TYPE_VOLUME',
  snapshot: 'RESOURCE_TYPE_SNAPSHOT',
  export: 'RESOURCE_TYPE_EXPORT',
  node: 'RESOURCE_TYPE_NODE',
  pool: 'RESOURCE_TYPE_POOL',
  operation: 'RESOURCE_TYPE_OPERATION',
};

/**
 * Reads the kinds of resources of a filter.
 * @throws MoorageError INVALID_ARGUMENT that names the field and the kinds there are
 */
export function fromResourceTypes(field: string, given: readonly (string | number)[]): ResourceType[] {
  return fromNames(field, 'kind', resourceTypes, given);
}

/**
 * Reads the states of a filter. A number that this version does not know comes from the loader as a number.
 * @throws MoorageError INVALID_ARGUMENT that names the field and the states there are
 */
export function fromStates<State extends string>(
  field: string,
  names: Readonly<Record<State, string>>,
  given: readonly (string | number)[],
): State[] {
  return fromNames(field, 'state', names, given);
}

function fromNames<Name extends string>(
  field: string,
  noun: string,
  names: Readonly<Record<Name, string>>,
  given: readonly (string | number)[],
): Name[] {
  const known = Object.entries<string>(names).filter(([, name]) => !name.endsWith('_UNSPECIFIED'));
  return given.map((value) => {
    const found = known.find(([, name]) => name === value);
    if (found === undefined) {
      throw invalidField(
        field,
        `${value} is no ${noun} to ask for; there are ${known.map(([, name]) => name).join(', ')}`,
      );
    }
    return found[0] as Name;
  });
}
