/** Signs certificates of nodes, where the controller is its own authority. */
export interface NodeCertificateIssuer {
  /** The authority's certificate (PEM), which the node's own is shown to callers with. */
  readonly authority: string;
  /**
   * Short name of the key that a request is for: SHA-256 of its SubjectPublicKeyInfo in hexadecimal digits, as
   * Caller.certificateKeyId. @throws MoorageError INVALID_ARGUMENT when it is no request, or whoever asks has not the key
   */
  keyIdOf(request: Uint8Array): Promise<string>;
  /** Signs what was asked for, for the node of that name. @returns PEM */
  issue(request: Uint8Array, nodeId: string): Promise<string>;
}
