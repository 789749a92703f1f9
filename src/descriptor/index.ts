/** Descriptors and the keys that seal and open them: shared by the controller and by storage-utils; a leaf. */
export { DescriptorError, type DescriptorErrorCode, KeyError, type KeyErrorCode } from './errors.js';
export {
  adoptNodeKey,
  type ControllerKeys,
  createControllerKeyFile,
  createNodeKeyFile,
  loadControllerKeyFile,
  loadNodeKeyFile,
  loadOrCreateControllerKeyFile,
  type NodeKeys,
  prepareNodeKey,
  trustController,
} from './key-file.js';
export {
  formatControllerPublicKey,
  formatNodePublicKey,
  generateKeyPair,
  KEY_BYTES,
  type KeyPair,
  keyIdOf,
  keyPairFromSecret,
  parseControllerPublicKey,
  parseNodePublicKey,
} from './keys.js';
export { isProofOf, proveKey } from './proof.js';
export {
  type DescriptorPayload,
  describeIssues,
  descriptorPayloadSchema,
  PAYLOAD_VERSION,
  type RbdAccess,
  type RbdPool,
  rbdAccessSchema,
  rbdPoolSchema,
} from './schema.js';
export {
  decodeDescriptor,
  ENVELOPE_VERSION,
  type EnvelopeHeader,
  formatDescriptor,
  MAX_DESCRIPTOR_BYTES,
  type OpenedDescriptor,
  type OpenOptions,
  openDescriptor,
  readDescriptorHeader,
  type SealOptions,
  sealDescriptor,
  TEXT_PREFIX,
} from './seal.js';
