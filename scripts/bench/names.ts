import { randomBytes } from 'node:crypto';

/** Size of the volumes that are made, in bytes. */
export const SIZE_BYTES = 10 * 1024 ** 3;

/** A name that no RBD image had before. */
export const fresh = (): string => `ref-${randomBytes(8).toString('hex')}`;
