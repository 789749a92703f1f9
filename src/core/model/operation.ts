import type { ErrorCode } from '../errors.js';

/** What an operation does. Its definition (core/journal/definitions) says how. */
export type OperationKind =
  | 'volume.create'
  | 'volume.update'
  | 'volume.expand'
  | 'volume.delete'
  | 'volume.undelete'
  | 'snapshot.create'
  | 'snapshot.update'
  | 'snapshot.delete'
  | 'snapshot.undelete'
  | 'export.create'
  | 'export.remove'
  | 'node.fence'
  | 'node.unfence'
  | 'pool.delete'
  | 'admin.repair';

export type OperationState = 'running' | 'succeeded' | 'failed';

export type LockMode = 'shared' | 'exclusive';

/** One lock that an operation holds from its begin to its finish. */
export interface Lock {
  /** Id of the volume, snapshot, export or pool; with "/labels" behind it only its name and tags. */
  readonly resourceId: string;
  readonly mode: LockMode;
}

/** A failure as it is kept in the store and told to every caller that joins. */
export interface StoredFailure {
  readonly code: ErrorCode;
  readonly message: string;
  readonly reason: string;
  readonly metadata: Readonly<Record<string, string>>;
}

/**
 * One journaled change. `plan` holds every value that a step uses; what a step observes and a later one needs is committed
 * to it first.
 */
export interface Operation<Plan = unknown> {
  readonly id: string;
  readonly kind: OperationKind;
  readonly resourceId: string;
  readonly poolId: string;
  /** `inc` of the controller that works on it. */
  readonly owner: string;
  readonly state: OperationState;
  readonly phase: string;
  readonly plan: Plan;
  readonly locks: readonly Lock[];
  readonly progressPercent: number;
  /** Whether it is to leave out what it can do without (OperationDefinition.cancellable). */
  readonly cancelRequested?: boolean;
  /** Why the current step is tried again, for people; empty when it goes well. */
  readonly statusMessage: string;
  readonly failure?: StoredFailure;
  readonly principal: string;
  readonly createTime: number;
  readonly updateTime: number;
  readonly endTime?: number;
}

/** `lock/<resource>`: who holds it. */
export interface LockRecord {
  readonly holders: readonly { readonly operationId: string; readonly mode: LockMode }[];
}

/** `token/<principal>/<method>/<token>`: what a client token made. */
export interface TokenRecord {
  /** SHA-256 over the canonical parameters, hexadecimal. */
  readonly parametersHash: string;
  readonly resourceId: string;
  /** Empty where the call needed no operation. */
  readonly operationId: string;
  readonly createTime: number;
}

/** An agent of a controller, as the backend sees it. */
export interface AgentRecord {
  readonly agentId: string;
  readonly cluster: string;
  readonly role: 'data' | 'fence';
  readonly addresses: readonly string[];
  /** Dead, but its addresses are not yet known to be cut off and its locks not yet broken. */
  readonly dead: boolean;
  /** Its process is known to have ended: the controller that started it saw it end. */
  readonly reaped?: boolean;
}

/** `controller/<inc>`. Its beat stands in `beat/<inc>` (docs/decisions/0002-beat-document.md). */
export interface ControllerRecord {
  readonly inc: string;
  /** `left`: it stopped in good order and its agents have ended. `fencing`, `fenced`: another one takes over from it. */
  readonly state: 'live' | 'left' | 'fencing' | 'fenced';
  /** `inc` of who takes over from it. */
  readonly takenOverBy?: string;
  readonly agents: readonly AgentRecord[];
  /** The newest layout of the store that it understands (journal/layout.ts); 1 unless said. */
  readonly layout?: number;
  /** Its process, for others on the same machine (core/ports/process.ts). */
  readonly process?: string;
  /** Host name and process id, for people. */
  readonly description: string;
}
