import type { Node } from '../../model/resources.js';
import type { Caller, Mutation, Versioned } from './call.js';

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

export interface EnrollmentService {
  createToken(request: CreateEnrollmentToken, caller: Caller): Promise<EnrollmentToken>;
  /** By whoever has the token. */
  enroll(request: Enroll, caller: Caller): Promise<Enrolled>;
  rotateKey(request: RotateNodeKey, caller: Caller): Promise<RotatedNodeKey>;
  /** Before every call of a node. @throws MoorageError PERMISSION_DENIED when it is none, or shows a certificate of before */
  admit(caller: Caller): Promise<void>;
}
