import { StorageUtilsError, type StorageUtilsErrorKind } from '../errors.js';

/** `virErrorNumber` of libvirt/virterror.h, those that something here depends on. */
export const VIR_ERR = {
  internalError: 1,
  noSupport: 3,
  noConnect: 5,
  operationFailed: 9,
  xmlError: 27,
  systemError: 38,
  rpc: 39,
  noDomain: 42,
  authFailed: 45,
  operationInvalid: 55,
  noSecret: 66,
  configUnsupported: 67,
  operationTimeout: 68,
  authCancelled: 79,
  authUnavailable: 94,
  deviceMissing: 99,
} as const;

/** An error that libvirt reported, from `virError`. */
export class LibvirtError extends StorageUtilsError {
  /** `virErrorNumber`; 0 when libvirt gave none. */
  readonly code: number;
  /** `virErrorDomain`: which part of libvirt said it. */
  readonly domain: number;

  constructor(what: string, code: number, domain: number, message: string) {
    super(kindOf(code), `${what}: ${message}`);
    this.name = 'LibvirtError';
    this.code = code;
    this.domain = domain;
  }
}

/** The one place where libvirt's numbers become kinds. */
function kindOf(code: number): StorageUtilsErrorKind {
  switch (code) {
    case VIR_ERR.noDomain:
    case VIR_ERR.noSecret:
    case VIR_ERR.deviceMissing:
      return 'not-found';
    default:
      return 'libvirt';
  }
}

/** Whether an error is libvirt's with one of these codes. */
export function isLibvirtError(error: unknown, ...codes: number[]): error is LibvirtError {
  return error instanceof LibvirtError && codes.includes(error.code);
}
