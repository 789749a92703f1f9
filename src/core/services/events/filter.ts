import { MoorageError } from '../../errors.js';
import type { Operation } from '../../model/operation.js';
import type { Export, Node, Pool, Snapshot, Tombstone, Volume } from '../../model/resources.js';
import { requireName } from '../../model/validation.js';
import type { StoredDocument } from '../../ports/store.js';
import { versioned } from '../context.js';
import type { Caller, ChangeEvent, PoolWithStatus, ResourceType, WatchRequest } from '../types.js';

/* What of all that changes a watch is told, and how. */

/** What a role may read by Get and List, it may watch. */
const TYPES_OF_ROLE: Readonly<Record<Caller['role'], readonly ResourceType[]>> = {
  admin: ['pool', 'node', 'volume', 'snapshot', 'export', 'operation'],
  reader: ['pool', 'node', 'volume', 'snapshot', 'export', 'operation'],
  node: ['export'],
  none: [],
};

/** What a watch lets through. */
export interface WatchFilter {
  /** In the order in which they are first told: what others refer to before them. */
  readonly types: readonly ResourceType[];
  /** Empty: all. */
  readonly poolId: string;
  /** Of exports only those of this node; undefined: all. */
  readonly nodeId: string | undefined;
}

/**
 * Reads the filter of a request.
 * @throws MoorageError PERMISSION_DENIED for a kind that the role may not read
 */
export function filterOf(request: WatchRequest, caller: Caller): WatchFilter {
  if (request.poolId !== '') requireName('pool_id', request.poolId);
  const allowed = TYPES_OF_ROLE[caller.role];
  const forbidden = request.types.find((type) => !allowed.includes(type));
  if (forbidden !== undefined) {
    throw new MoorageError('PERMISSION_DENIED', `types: the role ${caller.role} may not watch ${forbidden}s.`, {
      reason: 'TYPE_NOT_ALLOWED',
      metadata: { role: caller.role, type: forbidden },
    });
  }
  const wanted = new Set(request.types.length === 0 ? allowed : request.types);
  return {
    types: allowed.filter((type) => wanted.has(type)),
    poolId: request.poolId,
    nodeId: caller.role === 'node' ? caller.name : undefined,
  };
}

/** The kind of resource that stands under a key, and whether that is what is left of one. */
const TYPE_OF_KEY: Readonly<Record<string, ResourceType>> = {
  volume: 'volume',
  snapshot: 'snapshot',
  export: 'export',
  node: 'node',
  pool: 'pool',
  op: 'operation',
};

/** What a document of the feed is told as; undefined when this watch is not told of it. */
export function eventOf(
  filter: WatchFilter,
  document: StoredDocument,
  withStatus: (pool: Pool) => PoolWithStatus,
): ChangeEvent | undefined {
  const [first = '', second = ''] = document.key.split('/');
  const type = TYPE_OF_KEY[first === 'gone' ? second : first];
  if (type === undefined || !filter.types.includes(type)) return undefined;
  const about = document.value as {
    readonly id: string;
    readonly state?: string;
    readonly poolId?: string;
    readonly nodeId?: string;
  };
  if (filter.poolId !== '' && filter.poolId !== (type === 'pool' ? about.id : about.poolId)) return undefined;
  if (filter.nodeId !== undefined && filter.nodeId !== about.nodeId) return undefined;
  if (about.state === 'gone') {
    const { id, goneTime, reason = '' } = document.value as Tombstone;
    return { kind: 'gone', type, id, goneTime, reason };
  }
  switch (type) {
    case 'volume':
      return { kind: type, resource: versioned(document as StoredDocument<Volume>) };
    case 'snapshot':
      return { kind: type, resource: versioned(document as StoredDocument<Snapshot>) };
    case 'export':
      return { kind: type, resource: versioned(document as StoredDocument<Export>) };
    case 'node':
      return { kind: type, resource: versioned(document as StoredDocument<Node>) };
    case 'operation':
      return { kind: type, resource: versioned(document as StoredDocument<Operation>) };
    case 'pool': {
      const pool = versioned(document as StoredDocument<Pool>);
      return { kind: type, resource: { ...pool, value: withStatus(pool.value) } };
    }
  }
}
