/** The master key at work. */
export interface Vault {
  /** Seals what must rest in the store; the context (as "export/exp-…") must be the same when it is opened. Answers base64. */
  seal(plain: Uint8Array, context: string): string;
  /** Opens it. @throws Error when it was altered, or sealed for another context or under a lost key */
  open(sealed: string, context: string): Uint8Array;
  /** Authenticates bytes for a purpose ("catalogue", "page-token"): bytes with a tag before them. */
  authenticate(plain: Uint8Array, purpose: string): Uint8Array;
  /** Gives the bytes back, or undefined when they are not ours for that purpose. */
  verify(authenticated: Uint8Array, purpose: string): Uint8Array | undefined;
}

/** What a descriptor says; the connector of storage-utils understands `pool`, `image` and `access`, the core does not. */
export interface DescriptorPayload {
  readonly exportId: string;
  readonly volumeId: string;
  readonly nodeId: string;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly issueTime: number;
  readonly expireTime: number;
  readonly connector: string;
  readonly imageName: string;
  /** JSON object from GetPool. */
  readonly poolJson: Uint8Array;
  /** JSON object from GrantAccess; a secret. */
  readonly accessJson: Uint8Array;
}

/** Seals descriptors to nodes. */
export interface DescriptorSealer {
  /** @param nodePublicKey X25519, 32 bytes, base64 */
  seal(payload: DescriptorPayload, nodePublicKey: string): Uint8Array;
  /** Short name of a node's public key; refuses what is no key. @throws MoorageError INVALID_ARGUMENT */
  publicKeyId(nodePublicKey: Uint8Array): string;
  /** What nodes know this controller by: X25519, 32 bytes. */
  readonly publicKey: Uint8Array;
  /**
   * Whether a box holds this content, and was made for this controller with the secret half of a node's key.
   * @param nodePublicKey X25519, 32 bytes, base64
   */
  isFromNode(box: Uint8Array, content: Uint8Array, nodePublicKey: string): boolean;
}
