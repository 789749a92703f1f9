import type { ImageRecord, Point } from './image.js';

/*
 * The documents of the store. Times are milliseconds since the epoch, sizes are bytes.
 * `operationId` names the operation that is changing the resource now; what must survive the operation stands in the document.
 */

export type VolumeState = 'creating' | 'available' | 'deleting' | 'deleted' | 'purging' | 'gone' | 'error';
export type SnapshotState = 'pending' | 'completed' | 'deleting' | 'deleted' | 'purging' | 'gone' | 'error';
export type ExportState = 'exporting' | 'exported' | 'unexporting' | 'gone' | 'error';

export interface Volume {
  readonly id: string;
  readonly poolId: string;
  readonly state: VolumeState;
  readonly statusMessage: string;
  readonly sizeBytes: number;
  readonly sourceSnapshotId?: string;
  readonly displayName: string;
  readonly tags: Readonly<Record<string, string>>;
  readonly encrypted: boolean;
  readonly multiAttach: boolean;
  readonly createTime: number;
  readonly updateTime: number;
  readonly deleteTime?: number;
  /** From when the reaper may purge it. */
  readonly purgeTime?: number;
  readonly cloneDepth: number;
  /** Open exports, oldest first. */
  readonly exportIds: readonly string[];
  readonly operationId?: string;
  /** Unset until it is known to exist. */
  readonly image?: ImageRecord;
}

export interface Snapshot {
  readonly id: string;
  readonly poolId: string;
  readonly volumeId: string;
  readonly state: SnapshotState;
  readonly statusMessage: string;
  readonly sizeBytes: number;
  readonly displayName: string;
  readonly tags: Readonly<Record<string, string>>;
  readonly encrypted: boolean;
  readonly createTime: number;
  readonly updateTime: number;
  readonly pointTime?: number;
  readonly deleteTime?: number;
  readonly purgeTime?: number;
  readonly cloneDepth: number;
  readonly operationId?: string;
  readonly image?: ImageRecord;
}

/** What is left of a purged volume or snapshot, so that deleting it again is OK and its id says what became of it. */
export interface Tombstone {
  readonly id: string;
  readonly state: 'gone';
  readonly goneTime: number;
  /** Why there is nothing, when it could not be made in the first place. */
  readonly reason?: string;
  /** The pool that it was in. */
  readonly poolId?: string;
  /** Of an export: its node. */
  readonly nodeId?: string;
}

/** What is known of the change feed (services/events/feed.ts). */
export interface FeedRecord {
  /** Made anew with every new store: places in the feed of another one mean nothing here. */
  readonly epoch: string;
  /** Changes up to this revision may be missing: something that was told of then has been forgotten. */
  readonly horizon: number;
}

/** An image that a crash left half made or whose id could not be used: only the reaper touches it. */
export interface Debris {
  readonly name: string;
  readonly poolId: string;
  readonly image: ImageRecord;
  readonly reason: string;
  readonly createTime: number;
}

export interface Export {
  readonly id: string;
  readonly poolId: string;
  readonly volumeId: string;
  readonly nodeId: string;
  readonly instance: string;
  readonly state: ExportState;
  readonly statusMessage: string;
  readonly grantId: string;
  readonly migration: boolean;
  readonly readOnly: boolean;
  readonly createTime: number;
  readonly updateTime: number;
  readonly operationId?: string;
  /** Volumes and snapshots under the volume, nearest first: pinned until the export ends. */
  readonly ancestorIds: readonly string[];
  /** What GrantAccess answered, sealed with the master key (base64). */
  readonly sealedAccess?: string;
  /** How long a descriptor of this export can be connected with, in milliseconds from when it is given. */
  readonly descriptorLifetimeMilliseconds: number;
}

export interface Grant {
  readonly id: string;
  readonly volumeId: string;
  readonly nodeId: string;
  readonly instance: string;
  readonly migration: boolean;
  readonly readOnly: boolean;
  readonly expireTime: number;
  readonly createTime: number;
  /** The export that redeemed it; empty before. */
  readonly exportId: string;
  /** When it was taken back. */
  readonly revokeTime?: number;
  /** Node.registration of the node that it is for. */
  readonly nodeRegistration: string;
}

export interface Node {
  readonly id: string;
  /** Made anew each time that a node of this name is made known: who has the name later may be another machine. */
  readonly registration: string;
  /** X25519, 32 bytes, base64. */
  readonly publicKey: string;
  readonly publicKeyId: string;
  /** Short names of keys that it had, the last one first: none of them comes back. */
  readonly formerKeyIds?: readonly string[];
  /** The key of its certificate (NodeCertificateIssuer.keyIdOf): no other is taken for this node. Unset: any of its name. */
  readonly certificateKeyId?: string;
  /** That of the certificate before, and until when it is taken too. */
  readonly formerCertificate?: { readonly keyId: string; readonly expireTime: number };
  readonly storageAddresses: readonly string[];
  readonly initiatorName: string;
  readonly tags: Readonly<Record<string, string>>;
  readonly createTime: number;
  readonly updateTime: number;
  /** Set from the begin of FenceNode to the end of UnfenceNode: nothing is exported to it. */
  readonly fence?: NodeFence;
}

/** Leave for a machine to become a node, once. */
export interface Enrollment {
  readonly id: string;
  readonly nodeId: string;
  /** SHA-256 of the token, hexadecimal; the token itself is kept nowhere. */
  readonly tokenHash: string;
  readonly storageAddresses: readonly string[];
  readonly initiatorName: string;
  readonly tags: Readonly<Record<string, string>>;
  readonly createTime: number;
  readonly expireTime: number;
  /** Node.registration that it was used for. */
  readonly registration?: string;
}

/** That a node is cut off as a whole. */
export interface NodeFence {
  /** `fenced`: every client and address of it is known to be refused by every server. */
  readonly state: 'fencing' | 'fenced' | 'unfencing';
  /** What the administrator said. */
  readonly reason: string;
  /** When FenceNode began. */
  readonly time: number;
  readonly operationId: string;
}

/** A client, or a whole host (nonce 0), that Moorage cut off: desired state (journal/cut-offs.ts). */
export interface CutOff {
  /** A name in the controller's configuration. */
  readonly cluster: string;
  /** As the backend lists it: "10.0.0.5:0/1234567". */
  readonly address: string;
  /** What it was cut off for: an export withdrawn by force, an agent that died, a node that was fenced, a user of nothing. */
  readonly reason: 'export' | 'agent' | 'node' | 'orphan';
  /** The export, agent or node. */
  readonly subjectId: string;
  /** The node that it is a client of; empty for agents and where it is not known. */
  readonly nodeId: string;
  /** Whether the client is known to have ended: then its entry may run out. */
  readonly provenDead: boolean;
  /** Taken back: it is to be refused no longer. Kept for a while, so that a late cut-off of it is found. */
  readonly lifted: boolean;
  readonly createTime: number;
  readonly updateTime: number;
}

export type RbdAccess = 'managed' | 'keyring';

/** Settings of a pool, by backend. */
export interface RbdPoolSettings {
  readonly backend: 'rbd';
  /** A name in the controller's configuration. */
  readonly cluster: string;
  readonly cephPool: string;
  readonly access: RbdAccess;
  /** Only with access "keyring". */
  readonly keyringUser: string;
  /** Whether no node ever reads an image that another node may write: each snapshot's image is flattened. */
  readonly isolate?: boolean;
}

export interface Pool {
  readonly id: string;
  readonly settings: RbdPoolSettings;
  readonly undeleteWindowSeconds: number;
  readonly tags: Readonly<Record<string, string>>;
  readonly createTime: number;
  readonly updateTime: number;
  /** The operation that is deleting it: nothing new may be put into it. */
  readonly operationId?: string;
}

export type PoolHealth = 'unknown' | 'ready' | 'unavailable';

/** What is known of a pool now; never stored. */
export interface PoolStatus {
  readonly health: PoolHealth;
  readonly statusMessage: string;
  readonly capacityBytes: number;
  readonly freeBytes: number;
  readonly capacityTime: number;
}

/** A point in time that one or more snapshot operations of a volume share. */
export interface PointInTime {
  /** Also the point's name on the backend. */
  readonly id: string;
  readonly poolId: string;
  readonly volumeId: string;
  /** The connection that works on the image, with the addresses to cut off should its agent die. */
  readonly connection?: {
    readonly connectionId: string;
    readonly agentId: string;
    readonly addresses: readonly string[];
  };
  readonly point?: Point;
  readonly sizeBytes?: number;
  readonly time?: number;
  /** Operations that still need it; the last one removes it. */
  readonly operationIds: readonly string[];
}
