import { MoorageError } from './errors.js';
import type { ExportState, SnapshotState, VolumeState } from './model/resources.js';

/*
 * The one table of states. Nothing else changes a state: every write of a resource in another state goes through
 * `volumeTo`, `snapshotTo` or `exportTo`, and a change that is not in the table is a bug that stops before the commit.
 */

const VOLUME: Readonly<Record<VolumeState, readonly VolumeState[]>> = {
  creating: ['available', 'gone'],
  available: ['deleting', 'error'],
  deleting: ['deleted', 'available'],
  deleted: ['available', 'purging'],
  purging: ['gone'],
  gone: [],
  error: ['deleting', 'available'],
};

const SNAPSHOT: Readonly<Record<SnapshotState, readonly SnapshotState[]>> = {
  pending: ['completed', 'gone'],
  completed: ['deleting', 'error'],
  deleting: ['deleted', 'completed'],
  deleted: ['completed', 'purging'],
  purging: ['gone'],
  gone: [],
  error: ['deleting', 'completed'],
};

const EXPORT: Readonly<Record<ExportState, readonly ExportState[]>> = {
  exporting: ['exported', 'gone'],
  exported: ['unexporting'],
  unexporting: ['gone', 'exported'],
  gone: [],
  error: ['unexporting'],
};

function move<State extends string, Resource extends { readonly id: string; readonly state: State }>(
  table: Readonly<Record<State, readonly State[]>>,
  resource: Resource,
  state: State,
): Resource {
  if (!table[resource.state].includes(state)) {
    throw new MoorageError('INTERNAL', `${resource.id} cannot go from ${resource.state} to ${state}.`, {
      reason: 'ILLEGAL_TRANSITION',
    });
  }
  return { ...resource, state };
}

/** The volume in another state. @throws MoorageError INTERNAL when the table does not have that change */
export function volumeTo<R extends { readonly id: string; readonly state: VolumeState }>(
  volume: R,
  state: VolumeState,
): R {
  return move(VOLUME, volume, state);
}

/** The snapshot in another state. @throws MoorageError INTERNAL when the table does not have that change */
export function snapshotTo<R extends { readonly id: string; readonly state: SnapshotState }>(
  snapshot: R,
  state: SnapshotState,
): R {
  return move(SNAPSHOT, snapshot, state);
}

/** The export in another state. @throws MoorageError INTERNAL when the table does not have that change */
export function exportTo<R extends { readonly id: string; readonly state: ExportState }>(
  item: R,
  state: ExportState,
): R {
  return move(EXPORT, item, state);
}
