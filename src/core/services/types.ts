import type { Operation, OperationState } from '../model/operation.js';
import type {
  Export,
  Grant,
  Node,
  Pool,
  PoolStatus,
  RbdPoolSettings,
  Snapshot,
  SnapshotState,
  Volume,
  VolumeState,
} from '../model/resources.js';

import type { Finding, FindingClass } from './admin/findings.js';

/*
 * The use cases as the edge calls them: requests and answers in the core's own types. The edge (rpc) translates from and to
 * the API's messages, authenticates the caller, and asks `authorize` nothing: that a role may call a method is decided at
 * the edge; that a caller may touch an object is decided here.
 *
 * Every service checks its request itself and throws MoorageError with the API's field names (snake case).
 */

/** `none`: whoever shows no certificate, where that is let through. */
export type Role = 'admin' | 'node' | 'reader' | 'none';

/** Who calls, and until when the answer is wanted. */
export interface Caller {
  /** Name in the certificate, or "local" on a plain-text socket. */
  readonly name: string;
  readonly role: Role;
  /** SHA-256 of the public key of the certificate (SubjectPublicKeyInfo), hexadecimal; unset without a certificate. */
  readonly certificateKeyId?: string;
  /** Monotonic milliseconds (Clock.monotonic) by which an answer must be given. */
  readonly deadline: number;
  /** Ends the waiting, never the operation. */
  readonly signal?: AbortSignal;
  readonly requestId: string;
}

/** What every mutation takes. */
export interface Mutation {
  readonly clientToken: string;
  readonly validateOnly: boolean;
}

/** What every mutation of a resource answers. */
export interface Changed<T> {
  readonly resource: T;
  /** Empty when no operation was needed. */
  readonly operationId: string;
}

/** A resource and its etag. */
export interface Versioned<T> {
  readonly value: T;
  readonly etag: string;
}

export interface Page<T> {
  readonly items: readonly Versioned<T>[];
  readonly nextPageToken: string;
}

export interface PageRequest {
  readonly pageSize: number;
  readonly pageToken: string;
}

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

/** Delete and undelete, and the base of the others. `etag` empty: not asked for. */
export interface ResourceMutation extends Mutation {
  readonly id: string;
  readonly etag: string;
}

/** An update. What `updateMask` does not name stays as it is, whatever the other fields say. */
export interface ResourceUpdate extends ResourceMutation {
  /** The paths of the field mask, as the API spells fields; "tags.KEY" is one tag. */
  readonly updateMask: readonly string[];
  readonly tags: Readonly<Record<string, string>>;
}

/** Of a volume or a snapshot. */
export interface UpdateLabels extends ResourceUpdate {
  readonly displayName: string;
}

export interface UpdateNode extends ResourceUpdate {
  readonly initiatorName: string;
}

export interface UpdatePool extends ResourceUpdate {
  readonly undeleteWindowSeconds: number;
}

export interface ExpandVolume extends ResourceMutation {
  readonly sizeBytes: number;
}

export interface CreateSnapshot extends Mutation {
  readonly volumeId: string;
  readonly etag: string;
  readonly displayName: string;
  readonly tags: Readonly<Record<string, string>>;
}

export interface ListVolumes extends PageRequest {
  readonly poolId: string;
  readonly sourceSnapshotId: string;
  readonly states: readonly VolumeState[];
  readonly tags: Readonly<Record<string, string>>;
}

export interface ListSnapshots extends PageRequest {
  readonly poolId: string;
  readonly volumeId: string;
  readonly states: readonly SnapshotState[];
  readonly tags: Readonly<Record<string, string>>;
}

export interface GrantExport extends Mutation {
  readonly volumeId: string;
  readonly nodeId: string;
  readonly instance: string;
  readonly migration: boolean;
  readonly readOnly: boolean;
  /** 0: the default. */
  readonly lifetimeMilliseconds: number;
}

export interface RevokeGrant extends Mutation {
  readonly grantId: string;
}

export interface DirectExport {
  readonly nodeId: string;
  readonly instance: string;
  readonly migration: boolean;
  readonly readOnly: boolean;
  /** 0: the default. */
  readonly descriptorLifetimeMilliseconds: number;
}

export interface ExportVolume extends Mutation {
  readonly volumeId: string;
  /** Exactly one of grantId and direct. */
  readonly grantId: string;
  readonly direct?: DirectExport;
}

export interface Exported extends Changed<Versioned<Export>> {
  /** Empty while the export is not done. */
  readonly descriptor: Uint8Array;
  readonly descriptorExpireTime: number | undefined;
}

export interface Unexport extends Mutation {
  readonly exportId: string;
  readonly force: boolean;
}

export interface ListExports extends PageRequest {
  readonly volumeId: string;
  readonly nodeId: string;
}

export interface RegisterNode extends Mutation {
  readonly nodeId: string;
  readonly publicKey: Uint8Array;
  readonly storageAddresses: readonly string[];
  readonly initiatorName: string;
  readonly tags: Readonly<Record<string, string>>;
}

export interface FenceNode extends ResourceMutation {
  /** For people. */
  readonly reason: string;
}

export interface UnfenceNode extends ResourceMutation {
  /** The caller's word that nothing of the node runs any more that was cut off. */
  readonly clientsAreDead: boolean;
}

export interface CreateEnrollmentToken extends Mutation {
  readonly nodeId: string;
  /** 0: the default. */
  readonly lifetimeMilliseconds: number;
  readonly storageAddresses: readonly string[];
  readonly initiatorName: string;
  readonly tags: Readonly<Record<string, string>>;
}

export interface EnrollmentToken {
  /** A secret; empty when only asked whether it could be. */
  readonly token: string;
  readonly expireTime: number;
}

export interface Enroll {
  readonly token: string;
  readonly publicKey: Uint8Array;
  /** PKCS #10, DER; empty: none is wanted. */
  readonly certificateRequest: Uint8Array;
}

export interface Enrolled {
  readonly node: Versioned<Node>;
  /** PEM; empty when none was asked for, or this controller signs none. */
  readonly certificate: string;
  /** PEM of who signed it. */
  readonly authority: string;
  /** What descriptors are sealed with: X25519, 32 bytes each. */
  readonly controllerPublicKeys: readonly Uint8Array[];
}

export interface RotateNodeKey extends Mutation {
  readonly nodeId: string;
  readonly etag: string;
  /** Empty: it stays. */
  readonly publicKey: Uint8Array;
  /** PKCS #10, DER; empty: the certificate stays. */
  readonly certificateRequest: Uint8Array;
  /** Of a node that rotates its own: made with the key that it has now, one for each controller that it knows. */
  readonly proofs: readonly Uint8Array[];
}

export interface RotatedNodeKey {
  readonly node: Versioned<Node>;
  readonly certificate: string;
  readonly authority: string;
}

export interface CreatePool extends Mutation {
  readonly poolId: string;
  readonly settings: RbdPoolSettings;
  /** Undefined: the default. */
  readonly undeleteWindowSeconds: number | undefined;
  readonly tags: Readonly<Record<string, string>>;
}

export interface PoolWithStatus {
  readonly pool: Pool;
  readonly status: PoolStatus;
}

export interface ListOperations extends PageRequest {
  readonly resourceId: string;
  readonly states: readonly OperationState[];
}

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

export interface SnapshotService {
  create(request: CreateSnapshot, caller: Caller): Promise<Changed<Versioned<Snapshot>>>;
  get(id: string, caller: Caller): Promise<Versioned<Snapshot>>;
  list(request: ListSnapshots, caller: Caller): Promise<Page<Snapshot>>;
  update(request: UpdateLabels, caller: Caller): Promise<Changed<Versioned<Snapshot>>>;
  delete(request: ResourceMutation, caller: Caller): Promise<Changed<Versioned<Snapshot> | undefined>>;
  undelete(request: ResourceMutation, caller: Caller): Promise<Changed<Versioned<Snapshot>>>;
}

export interface ExportService {
  grant(request: GrantExport, caller: Caller): Promise<Changed<Grant>>;
  /** Takes back one that was not redeemed; cuts nothing off. */
  revokeGrant(request: RevokeGrant, caller: Caller): Promise<Changed<Grant>>;
  export(request: ExportVolume, caller: Caller): Promise<Exported>;
  /** The resource is undefined when the export is gone. */
  unexport(request: Unexport, caller: Caller): Promise<Changed<Versioned<Export> | undefined>>;
  get(id: string, caller: Caller): Promise<Versioned<Export>>;
  list(request: ListExports, caller: Caller): Promise<Page<Export>>;
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

export interface EnrollmentService {
  createToken(request: CreateEnrollmentToken, caller: Caller): Promise<EnrollmentToken>;
  /** By whoever has the token. */
  enroll(request: Enroll, caller: Caller): Promise<Enrolled>;
  rotateKey(request: RotateNodeKey, caller: Caller): Promise<RotatedNodeKey>;
  /** Before every call of a node. @throws MoorageError PERMISSION_DENIED when it is none, or shows a certificate of before */
  admit(caller: Caller): Promise<void>;
}

export interface PoolService {
  create(request: CreatePool, caller: Caller): Promise<Changed<Versioned<PoolWithStatus>>>;
  get(id: string, caller: Caller): Promise<Versioned<PoolWithStatus>>;
  list(request: PageRequest, caller: Caller): Promise<Page<PoolWithStatus>>;
  update(request: UpdatePool, caller: Caller): Promise<Changed<Versioned<PoolWithStatus>>>;
  /** Only an empty one. Answers the operation's id; empty when there was no such pool. */
  delete(request: ResourceMutation, caller: Caller): Promise<{ readonly operationId: string }>;
}

export interface OperationService {
  get(id: string, caller: Caller): Promise<Operation>;
  list(request: ListOperations, caller: Caller): Promise<{ items: readonly Operation[]; nextPageToken: string }>;
  wait(id: string, timeoutMilliseconds: number | undefined, caller: Caller): Promise<Operation>;
  /** Asks it to leave out what it can do without, and waits for its end. */
  cancel(id: string, caller: Caller): Promise<Operation>;
}

export interface CheckRequest extends PageRequest {
  /** Empty: all. */
  readonly poolId: string;
}

/** How much one call has looked at. */
export interface CheckProgress {
  readonly resources: number;
  readonly entries: number;
  readonly images: number;
  readonly foreignImages: number;
  /** Things that differed while operations worked on them. */
  readonly busy: number;
}

export interface CheckAnswer {
  readonly findings: readonly Finding[];
  readonly nextPageToken: string;
  readonly progress: CheckProgress;
}

export interface RepairRequest extends CheckRequest {
  /** Empty: all that are mended without being asked for. */
  readonly classes: readonly FindingClass[];
  /** Empty: all. */
  readonly resourceIds: readonly string[];
  readonly validateOnly: boolean;
}

/** A difference and what came of it. */
export interface Repaired {
  readonly finding: Finding;
  readonly outcome: 'mended' | 'would-mend' | 'left' | 'failed';
  /** Why it could not be mended; empty otherwise. */
  readonly message: string;
}

export interface RepairAnswer {
  readonly repaired: readonly Repaired[];
  readonly nextPageToken: string;
  readonly progress: CheckProgress;
  /** On the last page: the store was restored from a backup and is held all the same. */
  readonly stillHeld: boolean;
}

export interface RebuildRequest {
  readonly validateOnly: boolean;
  readonly pageToken: string;
}

export interface RebuildAnswer {
  readonly repaired: readonly Repaired[];
  readonly nextPageToken: string;
  readonly progress: CheckProgress;
  /** On the last page: what no catalogue knows, each a sentence. */
  readonly unknown: readonly string[];
}

/** A copy of the store. */
export interface StoreBackup {
  readonly path: string;
  readonly sizeBytes: number;
  /** Milliseconds since the epoch. */
  readonly time: number;
}

export interface AdminService {
  check(request: CheckRequest, caller: Caller): Promise<CheckAnswer>;
  repair(request: RepairRequest, caller: Caller): Promise<RepairAnswer>;
  rebuild(request: RebuildRequest, caller: Caller): Promise<RebuildAnswer>;
  backupStore(caller: Caller): Promise<StoreBackup>;
}

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
