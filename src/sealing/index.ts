/** The controller's master key and its descriptor key, behind the core's ports. */
export { createDescriptorSealer } from './descriptor-sealer.js';
export {
  createMasterKeyFile,
  loadMasterKeyFile,
  loadMasterKeyFromDescriptor,
  MasterKeyError,
  type MasterKeys,
} from './master-key.js';
export { createVault, VaultError } from './vault.js';
