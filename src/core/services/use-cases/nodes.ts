import type { Node } from '../../model/resources.js';
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

export interface RegisterNode extends Mutation {
  readonly nodeId: string;
  readonly publicKey: Uint8Array;
  readonly storageAddresses: readonly string[];
  readonly initiatorName: string;
  readonly tags: Readonly<Record<string, string>>;
}

export interface UpdateNode extends ResourceUpdate {
  readonly initiatorName: string;
}

export interface FenceNode extends ResourceMutation {
  /** For people. */
  readonly reason: string;
}

export interface UnfenceNode extends ResourceMutation {
  /** The caller's word that nothing of the node runs any more that was cut off. */
  readonly clientsAreDead: boolean;
}

export interface NodeService {
  register(request: RegisterNode, caller: Caller): Promise<Changed<Versioned<Node>>>;
  get(id: string, caller: Caller): Promise<Versioned<Node>>;
  list(request: PageRequest, caller: Caller): Promise<Page<Node>>;
  update(request: UpdateNode, caller: Caller): Promise<Changed<Versioned<Node>>>;
  remove(request: ResourceMutation, caller: Caller): Promise<void>;
  /** Cuts the whole node off. */
  fence(request: FenceNode, caller: Caller): Promise<Changed<Versioned<Node>>>;
  /** Takes back all that the node was cut off with. */
  unfence(request: UnfenceNode, caller: Caller): Promise<Changed<Versioned<Node>>>;
}
