import type { AdminService } from './use-cases/admin.js';
import type { EnrollmentService } from './use-cases/enrollment.js';
import type { EventService } from './use-cases/events.js';
import type { ExportService } from './use-cases/exports.js';
import type { NodeService } from './use-cases/nodes.js';
import type { OperationService } from './use-cases/operations.js';
import type { PoolService } from './use-cases/pools.js';
import type { SnapshotService } from './use-cases/snapshots.js';
import type { VolumeService } from './use-cases/volumes.js';

/*
 * The use cases as the edge calls them: requests and answers in the core's own types, a file of use-cases/ for each service. The
 * edge (rpc) translates from and to the API's messages and authenticates the caller. That a role may call a method is decided
 * at the edge; that a caller may touch an object is decided here.
 *
 * Every service checks its request itself and throws MoorageError with the API's field names (snake case).
 */

export type * from './use-cases/admin.js';
export type * from './use-cases/call.js';
export type * from './use-cases/enrollment.js';
export type * from './use-cases/events.js';
export type * from './use-cases/exports.js';
export type * from './use-cases/nodes.js';
export type * from './use-cases/operations.js';
export type * from './use-cases/pools.js';
export type * from './use-cases/snapshots.js';
export type * from './use-cases/volumes.js';

/** Everything the edge calls. */
export interface Services {
  readonly volumes: VolumeService;
  readonly snapshots: SnapshotService;
  readonly exports: ExportService;
  readonly nodes: NodeService;
  readonly enrollment: EnrollmentService;
  readonly pools: PoolService;
  readonly operations: OperationService;
  readonly events: EventService;
  readonly admin: AdminService;
}
