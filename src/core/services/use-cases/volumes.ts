import type { Volume, VolumeState } from '../../model/resources.js';
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

export interface CreateVolume extends Mutation {
  readonly poolId: string;
  readonly sizeBytes: number;
  /** Empty for an empty volume. */
  readonly sourceSnapshotId: string;
  readonly displayName: string;
  readonly tags: Readonly<Record<string, string>>;
  readonly encrypted: boolean;
  readonly multiAttach: boolean;
}

export interface ExpandVolume extends ResourceMutation {
  readonly sizeBytes: number;
}

export interface ListVolumes extends PageRequest {
  readonly poolId: string;
  readonly sourceSnapshotId: string;
  readonly states: readonly VolumeState[];
  readonly tags: Readonly<Record<string, string>>;
}

export interface VolumeService {
  create(request: CreateVolume, caller: Caller): Promise<Changed<Versioned<Volume>>>;
  get(id: string, caller: Caller): Promise<Versioned<Volume>>;
  list(request: ListVolumes, caller: Caller): Promise<Page<Volume>>;
  update(request: UpdateLabels, caller: Caller): Promise<Changed<Versioned<Volume>>>;
  expand(request: ExpandVolume, caller: Caller): Promise<Changed<Versioned<Volume>>>;
  /** The resource is undefined when it was purged before. */
  delete(request: ResourceMutation, caller: Caller): Promise<Changed<Versioned<Volume> | undefined>>;
  undelete(request: ResourceMutation, caller: Caller): Promise<Changed<Versioned<Volume>>>;
}
