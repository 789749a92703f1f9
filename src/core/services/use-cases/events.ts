import type { Operation } from '../../model/operation.js';
import type { Export, Node, Snapshot, Volume } from '../../model/resources.js';
import type { Caller, Versioned } from './call.js';
import type { PoolWithStatus } from './pools.js';

/** Kinds of resources that can be watched. */
export type ResourceType = 'volume' | 'snapshot' | 'export' | 'node' | 'pool' | 'operation';

export interface WatchRequest {
  /** Empty: all that there is first. */
  readonly resumeToken: string;
  /** Empty: all that the caller may see. */
  readonly types: readonly ResourceType[];
  /** Empty: all pools. */
  readonly poolId: string;
}

/** What happened. */
export type ChangeEvent =
  | { readonly kind: 'volume'; readonly resource: Versioned<Volume> }
  | { readonly kind: 'snapshot'; readonly resource: Versioned<Snapshot> }
  | { readonly kind: 'export'; readonly resource: Versioned<Export> }
  | { readonly kind: 'node'; readonly resource: Versioned<Node> }
  | { readonly kind: 'pool'; readonly resource: Versioned<PoolWithStatus> }
  | { readonly kind: 'operation'; readonly resource: Versioned<Operation> }
  | {
      readonly kind: 'gone';
      readonly type: ResourceType;
      readonly id: string;
      readonly goneTime: number;
      /** Empty unless it could not be made. */
      readonly reason: string;
    };

/** One message of a watch; the token says where to go on after it. */
export type WatchEvent = (ChangeEvent | { readonly kind: 'synced' } | { readonly kind: 'bookmark' }) & {
  readonly resumeToken: string;
};

export interface EventService {
  /**
   * What there is, then what changes, until the caller's signal aborts. Reads on only as fast as it is asked.
   * @param stopping aborts when the server drains: the watch ends with UNAVAILABLE after a last bookmark
   * @throws MoorageError OUT_OF_RANGE when the token has expired; RESOURCE_EXHAUSTED when there are too many watches;
   *   UNAVAILABLE when it must go on elsewhere
   */
  watch(request: WatchRequest, caller: Caller, stopping: AbortSignal): AsyncGenerator<WatchEvent, void, undefined>;
}
