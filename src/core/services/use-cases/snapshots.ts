import type { Snapshot, SnapshotState } from '../../model/resources.js';
import type {
  Caller,
  Changed,
  Mutation,
  Page,
  PageRequest,
  ResourceMutation,
  UpdateLabels,
  Versioned,
} from './call.js';

export interface CreateSnapshot extends Mutation {
  readonly volumeId: string;
  readonly etag: string;
  readonly displayName: string;
  readonly tags: Readonly<Record<string, string>>;
}

export interface ListSnapshots extends PageRequest {
  readonly poolId: string;
  readonly volumeId: string;
  readonly states: readonly SnapshotState[];
  readonly tags: Readonly<Record<string, string>>;
}

export interface SnapshotService {
  create(request: CreateSnapshot, caller: Caller): Promise<Changed<Versioned<Snapshot>>>;
  get(id: string, caller: Caller): Promise<Versioned<Snapshot>>;
  list(request: ListSnapshots, caller: Caller): Promise<Page<Snapshot>>;
  update(request: UpdateLabels, caller: Caller): Promise<Changed<Versioned<Snapshot>>>;
  delete(request: ResourceMutation, caller: Caller): Promise<Changed<Versioned<Snapshot> | undefined>>;
  undelete(request: ResourceMutation, caller: Caller): Promise<Changed<Versioned<Snapshot>>>;
}
