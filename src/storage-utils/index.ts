/**
 * The node's side of Moorage as a library: turns a descriptor into a disk of a libvirt domain. Needs nothing else of
 * Moorage; `docs/storage-utils.md` tells how a node controller uses it.
 */
export {
  adoptNodeKey,
  createNodeKeyFile,
  DescriptorError,
  type DescriptorErrorCode,
  formatNodePublicKey,
  KeyError,
  type KeyErrorCode,
  loadNodeKeyFile,
  type NodeKeys,
  parseControllerPublicKey,
  prepareNodeKey,
  trustController,
} from '../descriptor/index.js';
export {
  type AttachOptions,
  type AttachResult,
  attach,
  type DetachOptions,
  type DetachResult,
  detach,
  type ExtendOptions,
  type ExtendResult,
  extend,
} from './attach.js';
export {
  type ConnectOptions,
  type ConnectResult,
  connect,
  type Disconnectable,
  type DisconnectResult,
  disconnect,
} from './connect.js';
export { type Check, type Diagnosis, type DoctorOptions, doctor } from './doctor.js';
export { StorageUtilsError, type StorageUtilsErrorKind } from './errors.js';
export { DEFAULT_KEYRING_DIRECTORY } from './host/keyring.js';
export { DEFAULT_LOCK_DIRECTORY } from './host/locks.js';
export { type Inspection, inspect } from './inspect.js';
export { DEFAULT_CALL_TIMEOUT_MS, DEFAULT_LIBVIRT_URI } from './libvirt/connection.js';
export { LibvirtError } from './libvirt/errors.js';
export type { Bus, DiskOptions } from './libvirt/xml.js';
export { DEFAULT_KEY_FILE, type NodeOptions } from './settings.js';
