import { constants } from 'node:os';

/**
 * A call into librados or librbd that failed.
 * The only place where Ceph's error numbers get names; what they mean to a caller is decided by whoever catches it.
 */
export class CephError extends Error {
  override readonly name = 'CephError';
  /** Error number, positive, as 2 for ENOENT. Linux' own numbers: Ceph translates those of its servers. */
  readonly errno: number;
  /** Symbolic name, as "ENOENT". */
  readonly errnoName: string;
  /** The C function that failed, as "rbd_open". */
  readonly call: string;
  /** What it was done to: an image, an object, a pool. Never a secret. */
  readonly subject: string | undefined;

  /**
   * @param call the C function that failed
   * @param code what it returned; the sign does not matter
   * @param subject what it was done to
   */
  constructor(call: string, code: number, subject?: string, options?: ErrorOptions) {
    const errno = Math.abs(code);
    const errnoName = nameOfErrno(errno);
    super(`${call}${subject === undefined ? '' : ` of ${subject}`}: ${errnoName} (${errno})`, options);
    this.errno = errno;
    this.errnoName = errnoName;
    this.call = call;
    this.subject = subject;
  }
}

// Where two names share a number, the one that Ceph's sources use. (util.getSystemErrorName knows only libuv's errors: not
// EDQUOT, not ESTALE.)
const names = new Map<number, string>([
  ...Object.entries(constants.errno).map(([name, errno]): [number, string] => [errno, name]),
  [11, 'EAGAIN'],
  [85, 'ERESTART'],
  [95, 'EOPNOTSUPP'],
  [108, 'ESHUTDOWN'],
]);

/** Symbolic name of a Linux error number, as "ENOENT" for 2; "E<number>" for one that has no name here. */
export function nameOfErrno(errno: number): string {
  return names.get(errno) ?? `E${errno}`;
}

/** Whether this is a CephError with one of these names. */
export function isCephError(error: unknown, ...errnoNames: readonly string[]): error is CephError {
  return error instanceof CephError && (errnoNames.length === 0 || errnoNames.includes(error.errnoName));
}
