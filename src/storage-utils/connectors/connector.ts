import type { DescriptorPayload } from '../../descriptor/index.js';
import type { Connection } from '../libvirt/connection.js';
import type { Bus, DiskOptions, DomainDisk } from '../libvirt/xml.js';

/** Where a connector finds things on this node. */
export interface ConnectorContext {
  /** An open connection to libvirt. */
  readonly libvirt: Connection;
  /** Folder of the node's own keyrings. */
  readonly keyringDirectory: string;
}

/** A disk that is to be connected. */
export interface ConnectRequest {
  readonly payload: DescriptorPayload;
  /** Name of the device in the domain. */
  readonly target: string;
  readonly bus: Bus;
  readonly options: DiskOptions;
}

/** A connected disk. */
export interface Connected {
  /** libvirt's `<disk>` element. */
  readonly diskXml: string;
  /** UUID of the libvirt secret, where there is one. */
  readonly secretUuid?: string;
  /** Whether this call made something on the node that was not there. */
  readonly made: boolean;
  /** What works but should be known. */
  readonly warnings: readonly string[];
}

/**
 * The node's side of a backend. Each may be called again after any end; `connect` leaves nothing of its
 * own making when it fails. They run under the export's lock.
 */
export interface Connector {
  /** Name in a descriptor's `connector`. */
  readonly name: string;
  connect(context: ConnectorContext, request: ConnectRequest): Promise<Connected>;
  /**
   * Opens the volume once as the domain will, and closes it: a guest stands still while QEMU opens a disk, so what would
   * make it wait is found before it is asked to. Makes nothing on the node.
   * @param timeoutMs how long opening may take, in milliseconds.
   * @returns why it could not be tried, a sentence; undefined when it opened.
   * @throws {StorageUtilsError} when it does not open.
   */
  probe(context: ConnectorContext, payload: DescriptorPayload, timeoutMs: number): Promise<string | undefined>;
  /** Whether a disk of some domain is this volume by its source, whoever put it there and under whatever serial number. */
  isSourceOf(disk: DomainDisk, payload: DescriptorPayload): boolean;
  /** UUID of the libvirt secret that this export's disk names, where there is one. */
  secretUuid(payload: DescriptorPayload): string | undefined;
  /** @returns whether there was anything to disconnect. */
  disconnect(context: ConnectorContext, payload: DescriptorPayload): Promise<boolean>;
  /** Makes the node see the volume's new size, before QEMU is told. */
  extend(context: ConnectorContext, payload: DescriptorPayload, sizeBytes: number): Promise<void>;
}

/** Whether other domains may have the disk at the same time: as the caller says, else as the volume was made. */
export function isShareable(payload: DescriptorPayload, options: DiskOptions): boolean {
  return options.shareable ?? payload.multi_attach === true;
}
