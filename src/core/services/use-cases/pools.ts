import type { Pool, PoolStatus, RbdPoolSettings } from '../../model/resources.js';
import type {
  Caller,
  Changed,
  Mutation,
  Page,
  PageRequest,
  ResourceMutation,
  ResourceUpdate,
  Versioned,
} from './call.js';

export interface CreatePool extends Mutation {
  readonly poolId: string;
  readonly settings: RbdPoolSettings;
  /** Undefined: the default. */
  readonly undeleteWindowSeconds: number | undefined;
  readonly tags: Readonly<Record<string, string>>;
}

export interface UpdatePool extends ResourceUpdate {
  readonly undeleteWindowSeconds: number;
}

export interface PoolWithStatus {
  readonly pool: Pool;
  readonly status: PoolStatus;
}

export interface PoolService {
  create(request: CreatePool, caller: Caller): Promise<Changed<Versioned<PoolWithStatus>>>;
  get(id: string, caller: Caller): Promise<Versioned<PoolWithStatus>>;
  list(request: PageRequest, caller: Caller): Promise<Page<PoolWithStatus>>;
  update(request: UpdatePool, caller: Caller): Promise<Changed<Versioned<PoolWithStatus>>>;
  /** Only an empty one. Answers the operation's id; empty when there was no such pool. */
  delete(request: ResourceMutation, caller: Caller): Promise<{ readonly operationId: string }>;
}
