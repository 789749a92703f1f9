import type { ImageParent, ImageRecord, Point } from '../model/image.js';
import type { Pool, PoolStatus } from '../model/resources.js';

/*
 * The backend as the core sees it: the backend protocol (protos/moorage/backend/v1, whose comments bind) in the core's own
 * types. One object serves all pools; it finds the agents of a pool's cluster by itself. Every step is idempotent.
 */

/** Which step of which operation. */
export interface StepContext {
  readonly operationId: string;
  /** Name of the step, as "create-image". */
  readonly name: string;
  /** How long the step may take, in milliseconds. */
  readonly timeoutMilliseconds: number;
  /** Aborts when the controller is fenced or stops: the answer is then unknown. */
  readonly signal?: AbortSignal;
}

/**
 * How a step failed. `permanent`: it was refused and will be again. `not-begun`: nothing was sent, or the agent said that it
 * did not begin. `unknown`: it may or may not have taken effect; look again, never compensate.
 */
export type BackendFailure = 'permanent' | 'not-begun' | 'unknown';

/**
 * Reason of a failure when the agent's user has not the right to this in that pool. From the role "data" it may also mean that
 * somebody else holds an image's lock; the role "fence" holds none.
 */
export const NO_RIGHT = 'EPERM';

/** Failure of a step. */
export class BackendError extends Error {
  readonly failure: BackendFailure;
  /** gRPC status name, as "RESOURCE_EXHAUSTED". */
  readonly code: string;
  /** Reason of the agent's ErrorInfo, as "ENOSPC". */
  readonly reason: string;
  readonly metadata: Readonly<Record<string, string>>;

  constructor(
    failure: BackendFailure,
    code: string,
    message: string,
    details: { reason?: string; metadata?: Readonly<Record<string, string>>; cause?: unknown } = {},
  ) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = 'BackendError';
    this.failure = failure;
    this.code = code;
    this.reason = details.reason ?? code;
    this.metadata = details.metadata ?? {};
  }
}

/** Somebody who has an image open or holds its lock. */
export interface Holder {
  readonly address: string;
  readonly watches: boolean;
  readonly locks: boolean;
  readonly client: string;
}

/** What CreateImage came to. */
export type CreateImageOutcome =
  | {
      readonly kind: 'made';
      readonly backendId: string;
      readonly sizeBytes: number;
      /** The point that was asked for. */
      readonly points: readonly Point[];
    }
  | {
      readonly kind: 'unusable';
      readonly backendId: string;
      readonly points: readonly Point[];
      readonly reason: string;
    };

/** A catalogue entry. */
export interface CatalogueEntry {
  readonly key: string;
  readonly value: Uint8Array;
}

/** A connection of its own for work on an image that a node may have open. */
export interface OwnConnection {
  readonly connectionId: string;
  /** The start of the agent that it belongs to; it is gone with that. */
  readonly agentId: string;
  readonly addresses: readonly string[];
}

/** What goes into descriptors of a pool; kept by the backend so that Export of an exported volume asks no agent. */
export interface ConnectorFacts {
  readonly connector: string;
  readonly connectorJson: Uint8Array;
}

/** An image to look at: by its backendId, or by its name (also as it was before the trash) when that is empty. */
export interface ImageQuery {
  readonly name: string;
  readonly backendId: string;
  /** Asks whether this parent lists it as its child. */
  readonly parent?: ImageParent;
}

/** A point as an image's header has it; a node may have written it. */
export interface PointFacts {
  readonly name: string;
  readonly backendId: string;
  /** Removed while it had clones. */
  readonly trashed: boolean;
  /** Ids of the clones that it lists. */
  readonly children: readonly string[];
  /** Those of them that are not there. */
  readonly missingChildren: readonly string[];
}

/** What a look at an image came to. What the header says a node may have written: it is compared, never followed. */
export interface ImageFacts {
  /** Empty when there is nothing. */
  readonly backendId: string;
  /** Its name in the list of images; empty when it is not there. */
  readonly listedName: string;
  /** Its name in the trash; empty when it is not there. */
  readonly trashedName: string;
  /** Milliseconds since the epoch; 0 when it is not in the trash. */
  readonly trashTime: number;
  /** Until when the backend itself refuses to remove it from the trash. */
  readonly keptUntil: number;
  readonly header?: {
    readonly sizeBytes: number;
    /** Empty for none. */
    readonly parentBackendId: string;
    readonly parentPointBackendId: string;
    readonly points: readonly PointFacts[];
  };
  readonly headerUnreadable: boolean;
  readonly parentListsIt: boolean;
}

/** What a look at an export's user came to. */
export interface AccessFacts {
  readonly exists: boolean;
  readonly rightsMatch: boolean;
  readonly accessMatches: boolean;
}

/** The role "data". */
export interface DataBackend {
  /** Facts as they were last read; reads them when they never were. @throws BackendError */
  connectorFacts(pool: Pool): Promise<ConnectorFacts>;
  /** Health and capacity as they were last read; asks nobody. */
  poolStatus(pool: Pool): PoolStatus;
  /**
   * Reads capacity and facts now, and asks the agents of both roles whether they may work in the pool; one that may not, because
   * the pool was initialised after it connected, is started anew first. The check that a new pool can be used.
   * @throws BackendError
   */
  probePool(pool: Pool, context: StepContext): Promise<PoolStatus>;
  openConnection(pool: Pool, context: StepContext): Promise<OwnConnection>;
  closeConnection(pool: Pool, connection: OwnConnection, context: StepContext): Promise<void>;
  createImage(
    pool: Pool,
    request: {
      readonly catalogueEntry: CatalogueEntry;
      readonly name: string;
      readonly sizeBytes: number;
      readonly parent?: ImageParent;
      /** Empty for none. */
      readonly pointName: string;
    },
    context: StepContext,
  ): Promise<CreateImageOutcome>;
  takePoint(
    pool: Pool,
    request: { readonly connection: OwnConnection; readonly image: ImageRecord; readonly pointName: string },
    context: StepContext,
  ): Promise<{ readonly point: Point; readonly sizeBytes: number; readonly time: number }>;
  removePoint(
    pool: Pool,
    request: { readonly connection: OwnConnection; readonly image: ImageRecord; readonly point: Point },
    context: StepContext,
  ): Promise<void>;
  expandImage(
    pool: Pool,
    request: { readonly connection: OwnConnection; readonly image: ImageRecord; readonly sizeBytes: number },
    context: StepContext,
  ): Promise<{ readonly sizeBytes: number }>;
  /** Begins to flatten an image, or says after a moment how far that is; to be asked for until it is done. */
  flattenImage(
    pool: Pool,
    image: ImageRecord,
    context: StepContext,
  ): Promise<{ readonly flattened: boolean; readonly progressPercent: number }>;
  /** Ends a flattening. @returns whether the image is flattened all the same; otherwise it is a clone as before */
  stopFlatten(pool: Pool, image: ImageRecord, context: StepContext): Promise<boolean>;
  getUsage(pool: Pool, image: ImageRecord, context: StepContext): Promise<readonly Holder[]>;
  trashImage(
    pool: Pool,
    request: { readonly image: ImageRecord; readonly defermentSeconds: number },
    context: StepContext,
  ): Promise<void>;
  restoreImage(
    pool: Pool,
    request: { readonly catalogueEntry: CatalogueEntry; readonly image: ImageRecord; readonly newName: string },
    context: StepContext,
  ): Promise<void>;
  purgeImage(
    pool: Pool,
    request: { readonly image: ImageRecord; readonly catalogueKey: string },
    context: StepContext,
  ): Promise<void>;
  putCatalogueEntry(pool: Pool, entry: CatalogueEntry, context: StepContext): Promise<void>;
  removeCatalogueEntry(pool: Pool, key: string, context: StepContext): Promise<void>;
  listCatalogueEntries(
    pool: Pool,
    range: { readonly cursor: string; readonly limit: number },
    context: StepContext,
  ): Promise<{ readonly entries: readonly CatalogueEntry[]; readonly nextCursor: string }>;
  listImages(
    pool: Pool,
    range: { readonly cursor: string; readonly limit: number },
    context: StepContext,
  ): Promise<{
    readonly images: readonly { readonly name: string; readonly backendId: string; readonly trashed: boolean }[];
    readonly nextCursor: string;
  }>;
  /** Those that are there, by key; at most 1,000 keys. */
  getCatalogueEntries(
    pool: Pool,
    keys: readonly string[],
    context: StepContext,
  ): Promise<ReadonlyMap<string, Uint8Array>>;
  /** In the order asked; at most 1,000. */
  inspectImages(pool: Pool, images: readonly ImageQuery[], context: StepContext): Promise<readonly ImageFacts[]>;
  /** Puts a clone on its parent's list of children, or takes one off that is not there any more. */
  setChild(
    pool: Pool,
    request: { readonly parent: ImageParent; readonly childBackendId: string; readonly listed: boolean },
    context: StepContext,
  ): Promise<void>;
}

/** The role "fence". */
export interface FenceBackend {
  grantAccess(
    pool: Pool,
    request: {
      readonly exportId: string;
      readonly image: ImageRecord;
      /** Nearest first. */
      readonly ancestors: readonly ImageRecord[];
      readonly readOnly: boolean;
    },
    context: StepContext,
  ): Promise<Uint8Array>;
  revokeAccess(pool: Pool, exportId: string, context: StepContext): Promise<void>;
  listAccess(pool: Pool, context: StepContext): Promise<readonly string[]>;
  inspectAccess(
    pool: Pool,
    request: {
      readonly exportId: string;
      /** Unset asks only whether the user exists. */
      readonly image?: ImageRecord;
      /** Nearest first. */
      readonly ancestors: readonly ImageRecord[];
      readonly readOnly: boolean;
      /** What GrantAccess answered; empty when it is not known. */
      readonly access: Uint8Array;
    },
    context: StepContext,
  ): Promise<AccessFacts>;
  listClients(
    pool: Pool,
    request: { readonly exportId: string; readonly image?: ImageRecord },
    context: StepContext,
  ): Promise<readonly string[]>;
  cutOff(
    pool: Pool,
    request: { readonly addresses: readonly string[]; readonly expirySeconds: number },
    context: StepContext,
  ): Promise<void>;
  breakLocks(
    pool: Pool,
    request: { readonly image: ImageRecord; readonly ownerAddresses: readonly string[] },
    context: StepContext,
  ): Promise<number>;
  /** Takes cut-offs back. Ones that are not there are OK. */
  liftCutOff(pool: Pool, addresses: readonly string[], context: StepContext): Promise<void>;
  /** Everybody who is cut off on the pool's cluster now, whoever did it; by address, until when (milliseconds since the epoch). */
  listCutOff(pool: Pool, context: StepContext): Promise<ReadonlyMap<string, number>>;
}

/** Both roles. */
export interface Backend {
  readonly data: DataBackend;
  readonly fence: FenceBackend;
}

/** An agent that has just answered Hello. */
export interface AgentIdentity {
  readonly agentId: string;
  readonly cluster: string;
  readonly role: 'data' | 'fence';
  readonly addresses: readonly string[];
}

/** What the core does when agents come and go. */
export interface AgentLifecycle {
  /**
   * Called with every new agent before it is given any step. Resolves once its addresses are committed and, for the role
   * "data", its dead predecessors are cut off and the locks that they left are broken. Until then steps wait; in a pool that is
   * held back ({@link heldBack}) they wait on.
   */
  admit(agent: AgentIdentity): Promise<void>;
  /** Called as soon as an agent is known to be dead (its process is reaped). */
  died(agent: AgentIdentity): Promise<void>;
  /**
   * Why the role "data" may take no step in a pool although its agent is admitted: what a dead agent left there is not put right
   * yet. One sentence for people; undefined when it may.
   */
  heldBack(poolId: string): string | undefined;
}
