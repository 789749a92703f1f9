import type { DescriptorPayload } from '../descriptor/index.js';
import type { Connected } from './connectors/connector.js';
import { connectorFor } from './connectors/registry.js';
import { StorageUtilsError } from './errors.js';
import { type Connection, withConnection } from './libvirt/connection.js';
import { listSecrets, undefineSecret } from './libvirt/secrets.js';
import { type Bus, checkDiskOptions, type DiskOptions, TARGET_PREFIX } from './libvirt/xml.js';
import { type NodeOptions, type NodeSettings, openOwn, settingsOf, withExport } from './settings.js';

/** Options of {@link connect}; `target` is needed, since no domain is named to choose one in. */
export interface ConnectOptions extends NodeOptions, DiskOptions {
  readonly target: string;
}

/** A volume that a domain can be given. */
export interface ConnectResult {
  /** libvirt's `<disk>` element, for a domain's XML or `virDomainAttachDevice`. */
  readonly diskXml: string;
  /** Name of the device in the domain. */
  readonly target: string;
  readonly volumeId: string;
  readonly exportId: string;
  /** UUID of the libvirt secret that the XML names. */
  readonly secretUuid?: string;
  /** What works but should be known; sentences. */
  readonly warnings: readonly string[];
}

/**
 * Makes an exported volume usable on this node: for Ceph, defines the libvirt secret and builds the XML that names it.
 * May be called again at any time, by several processes at once too; leaves nothing of its own making when it fails.
 * @throws {DescriptorError} when the descriptor is not for this node, altered or expired; {KeyError}; {StorageUtilsError}.
 */
export async function connect(descriptor: Uint8Array | string, options: ConnectOptions): Promise<ConnectResult> {
  const settings = settingsOf(options);
  const disk = diskOptionsOf(options);
  const bus = disk.bus ?? 'virtio';
  const target = checkTarget(disk.target, bus);
  const { payload } = await openOwn(descriptor, settings, false);
  connectorFor(payload.connector);
  return withExport(payload.export_id, settings, async (connection) => {
    const connected = await connectLocked(connection, payload, settings, target, bus, disk);
    return resultOf(payload, target, connected);
  });
}

/** What names an export that is to be disconnected: its descriptor, expired or not, or an id. */
export type Disconnectable =
  | { readonly descriptor: Uint8Array | string }
  | { readonly exportId: string }
  | { readonly volumeId: string };

/** What {@link disconnect} did. */
export interface DisconnectResult {
  /** The exports that were disconnected; empty when nothing was connected, which is no error. */
  readonly disconnected: readonly string[];
}

/**
 * Undoes {@link connect}: for Ceph, undefines the secret. Detach the disk first. May be called again at any time. By an
 * id it disconnects what this node still has of it: every export of the volume.
 */
export async function disconnect(what: Disconnectable, options: NodeOptions = {}): Promise<DisconnectResult> {
  const settings = settingsOf(options);
  if ('descriptor' in what) {
    const { payload } = await openOwn(what.descriptor, settings, true);
    const connector = connectorFor(payload.connector);
    const had = await withExport(payload.export_id, settings, (libvirt) =>
      connector.disconnect({ libvirt, keyringDirectory: settings.keyringDirectory }, payload),
    );
    return { disconnected: had ? [payload.export_id] : [] };
  }
  const wanted = 'exportId' in what ? checkId('exportId', what.exportId) : checkId('volumeId', what.volumeId);
  const found = await withConnection(settings.libvirtUri, settings.timeoutMs, listSecrets);
  const ours = found.filter((secret) => secret.exportId === wanted || secret.volumeId === wanted);
  const disconnected: string[] = [];
  const failures: unknown[] = [];
  for (const secret of ours) {
    try {
      await withExport(secret.exportId, settings, (libvirt) => undefineSecret(libvirt, secret.uuid));
      disconnected.push(secret.exportId);
    } catch (error) {
      failures.push(error);
    }
  }
  if (failures.length > 1) {
    throw new StorageUtilsError(
      'libvirt',
      `${failures.length} exports were not disconnected: ${failures.map(String).join('; ')}`,
      {
        cause: new AggregateError(failures),
      },
    );
  }
  if (failures.length === 1) {
    throw failures[0];
  }
  return { disconnected };
}

/** {@link connect} for a caller that holds the export's lock and a connection. @internal */
export function connectLocked(
  libvirt: Connection,
  payload: DescriptorPayload,
  settings: NodeSettings,
  target: string,
  bus: Bus,
  disk: DiskOptions,
): Promise<Connected> {
  const context = { libvirt, keyringDirectory: settings.keyringDirectory };
  return connectorFor(payload.connector).connect(context, { payload, target, bus, options: disk });
}

/** @internal */
export function resultOf(payload: DescriptorPayload, target: string, connected: Connected): ConnectResult {
  return {
    diskXml: connected.diskXml,
    target,
    volumeId: payload.volume_id,
    exportId: payload.export_id,
    ...(connected.secretUuid === undefined ? {} : { secretUuid: connected.secretUuid }),
    warnings: connected.warnings,
  };
}

/** The disk options among a caller's options, checked. @throws {StorageUtilsError} `usage` that names the field. @internal */
export function diskOptionsOf(options: NodeOptions & DiskOptions): DiskOptions {
  const nodeFields = [
    'keyFile',
    'libvirtUri',
    'keyringDirectory',
    'lockDirectory',
    'timeoutMs',
    'domain',
    'persistent',
  ];
  return checkDiskOptions(Object.fromEntries(Object.entries(options).filter(([name]) => !nodeFields.includes(name))));
}

/** @internal */
export function checkTarget(target: string | undefined, bus: Bus): string {
  if (target === undefined) {
    throw new StorageUtilsError(
      'usage',
      `target is missing: the device's name in the domain, as "${TARGET_PREFIX[bus]}b"`,
    );
  }
  if (!target.startsWith(TARGET_PREFIX[bus])) {
    throw new StorageUtilsError(
      'usage',
      `target "${target}" does not fit the bus ${bus}, whose devices begin with "${TARGET_PREFIX[bus]}"`,
    );
  }
  return target;
}

/** @throws {StorageUtilsError} `usage` when it is not an id of that kind. @internal */
export function checkId(field: 'exportId' | 'volumeId', id: string): string {
  const prefix = field === 'exportId' ? 'exp' : 'vol';
  if (!new RegExp(`^${prefix}-[0-9a-f]{17}$`).test(id)) {
    throw new StorageUtilsError('usage', `${field} must be "${prefix}-" and 17 hex digits`);
  }
  return id;
}
