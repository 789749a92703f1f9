/*
 * What enrollment and rotation need of the controller and of the certificate library, done by whoever composes the command:
 * this part of Moorage stands alone and speaks to no controller.
 */

/** Where the controller is. Paths are of PEM files. */
export interface ControllerAccess {
  /** "host:port", "[address]:port" or "unix:/path"; several with commas. */
  readonly endpoint: string;
  /** Who signed the controller's certificate; not needed for a unix socket or loopback without TLS. */
  readonly authorityFile: string | undefined;
}

/** What a node shows to be itself. */
export interface NodeCertificate {
  readonly certificateFile: string;
  readonly keyFile: string;
}

/** What the controller said. */
export interface Registered {
  readonly nodeId: string;
  readonly publicKeyId: string;
  /** PEM; empty when the controller signs none. */
  readonly certificate: string;
  readonly controllerPublicKeys: readonly Uint8Array[];
}

/** The controller refused for good: the same again would be refused again. */
export class RegistrationRefused extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'RegistrationRefused';
  }
}

/** The controller, and keys for TLS. */
export interface Registrar {
  /** @throws {RegistrationRefused} or another Error, when it is not known whether it was done */
  enroll(
    access: ControllerAccess,
    wish: { readonly token: string; readonly publicKey: Uint8Array; readonly certificateRequest: Uint8Array },
  ): Promise<Registered>;
  /** Throws as enroll. */
  rotate(
    access: ControllerAccess,
    certificate: NodeCertificate | undefined,
    wish: {
      readonly nodeId: string;
      readonly publicKey: Uint8Array;
      readonly certificateRequest: Uint8Array;
      readonly proofs: readonly Uint8Array[];
    },
  ): Promise<Registered>;
  /** A key for TLS: PEM, a secret. */
  createKey(): Promise<string>;
  /** A certificate request for it (PKCS #10, DER). */
  createRequest(key: string): Promise<Uint8Array>;
  /** A secret key's file; undefined when there is none. Refuses one that others may read. */
  readKey(path: string): Promise<string | undefined>;
  /** Writes a file whole or not at all. */
  writeWhole(path: string, text: string, mode: number, how: 'new' | 'replace'): Promise<void>;
}
