import { loadNodeKeyFile, type OpenedDescriptor, openDescriptor } from '../descriptor/index.js';
import { DEFAULT_KEYRING_DIRECTORY } from './host/keyring.js';
import { DEFAULT_LOCK_DIRECTORY, withLock } from './host/locks.js';
import { type Connection, DEFAULT_CALL_TIMEOUT_MS, DEFAULT_LIBVIRT_URI, withConnection } from './libvirt/connection.js';

/** Where the node's key file lies unless something else is said. */
export const DEFAULT_KEY_FILE = '/etc/moorage/node-keys.json';

/** Where things are on this node; everything has a default. */
export interface NodeOptions {
  /** The node's key file; {@link DEFAULT_KEY_FILE}. */
  readonly keyFile?: string;
  /** Where libvirt is reached; {@link DEFAULT_LIBVIRT_URI}. */
  readonly libvirtUri?: string;
  /** Folder of `ceph.client.<user>.keyring`; {@link DEFAULT_KEYRING_DIRECTORY}. */
  readonly keyringDirectory?: string;
  /** Folder of the locks between processes; {@link DEFAULT_LOCK_DIRECTORY}. */
  readonly lockDirectory?: string;
  /** How long one call to libvirt, or the wait for a lock, may take in milliseconds; {@link DEFAULT_CALL_TIMEOUT_MS}. */
  readonly timeoutMs?: number;
}

/** {@link NodeOptions} with every default filled in. */
export type NodeSettings = Required<NodeOptions>;

/** Fills in the defaults. */
export function settingsOf(options: NodeOptions): NodeSettings {
  return {
    keyFile: options.keyFile ?? DEFAULT_KEY_FILE,
    libvirtUri: options.libvirtUri ?? DEFAULT_LIBVIRT_URI,
    keyringDirectory: options.keyringDirectory ?? DEFAULT_KEYRING_DIRECTORY,
    lockDirectory: options.lockDirectory ?? DEFAULT_LOCK_DIRECTORY,
    timeoutMs: options.timeoutMs ?? DEFAULT_CALL_TIMEOUT_MS,
  };
}

/** Opens a descriptor with the node's key file. Throws as `loadNodeKeyFile` and `openDescriptor`. */
export async function openOwn(
  descriptor: Uint8Array | string,
  settings: NodeSettings,
  allowExpired: boolean,
): Promise<OpenedDescriptor> {
  const keys = await loadNodeKeyFile(settings.keyFile);
  return openDescriptor(descriptor, {
    nodeKeys: keys.all,
    controllerPublicKeys: keys.controllerPublicKeys,
    allowExpired,
  });
}

/** Runs `work` with a connection to libvirt, under the export's lock. */
export function withExport<Value>(
  exportId: string,
  settings: NodeSettings,
  work: (connection: Connection) => Promise<Value>,
): Promise<Value> {
  return withLock(settings.lockDirectory, 'export', exportId, settings.timeoutMs, () =>
    withConnection(settings.libvirtUri, settings.timeoutMs, work),
  );
}
