import { StorageUtilsError } from '../errors.js';
import type { Connection } from './connection.js';
import { isLibvirtError, VIR_ERR } from './errors.js';
import { libvirt, type Pointer, takePointers } from './native.js';
import { type DomainDisk, parseDomainDisks } from './xml.js';

const VIR_DOMAIN_AFFECT_LIVE = 1;
const VIR_DOMAIN_AFFECT_CONFIG = 2;
const VIR_DOMAIN_XML_INACTIVE = 2;
const VIR_DOMAIN_BLOCK_RESIZE_BYTES = 1;

/** Which of a domain's two definitions: what runs, or what it starts with the next time. */
export type Part = 'live' | 'config';

/** A domain of libvirt's, for as long as its connection lives. */
export class Domain {
  /** As the caller named it; in {@link forEach} its name. */
  readonly name: string;
  readonly #connection: Connection;
  readonly #pointer: Pointer;

  private constructor(name: string, connection: Connection, pointer: Pointer) {
    this.name = name;
    this.#connection = connection;
    this.#pointer = pointer;
  }

  /**
   * Looks up a domain (`virDomainLookupByName`, `virDomainLookupByUUIDString`), runs `work` and frees it.
   * @throws {LibvirtError} of kind `not-found`.
   */
  static async with<Value>(
    connection: Connection,
    nameOrUuid: string,
    work: (domain: Domain) => Promise<Value>,
  ): Promise<Value> {
    const functions = libvirt();
    const what = `there is no domain "${nameOrUuid}"`;
    const isUuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(nameOrUuid);
    let pointer: Pointer | undefined;
    if (isUuid) {
      try {
        pointer = (await connection.call(what, functions.domainLookupByUUIDString, [
          connection.pointer,
          nameOrUuid,
        ])) as Pointer;
      } catch (error) {
        if (!isLibvirtError(error, VIR_ERR.noDomain)) {
          throw error;
        }
      }
    }
    // A domain may be named like a UUID.
    pointer ??= (await connection.call(what, functions.domainLookupByName, [
      connection.pointer,
      nameOrUuid,
    ])) as Pointer;
    try {
      return await work(new Domain(nameOrUuid, connection, pointer));
    } finally {
      connection.free(functions.domainFree, pointer);
    }
  }

  /**
   * Visits every domain of this connection, running or not (`virConnectListAllDomains`), one after the other. One that is
   * gone by the time it is looked at is passed over.
   */
  static async forEach(connection: Connection, visit: (domain: Domain) => Promise<void>): Promise<void> {
    const functions = libvirt();
    const out: [Pointer | null] = [null];
    const count = await connection.call('libvirt does not list its domains', functions.connectListAllDomains, [
      connection.pointer,
      out,
      0,
    ]);
    const pointers = takePointers(out[0], Number(count));
    try {
      for (const pointer of pointers) {
        try {
          await visit(new Domain(String(functions.domainGetName(pointer)), connection, pointer));
        } catch (error) {
          if (!isLibvirtError(error, VIR_ERR.noDomain)) {
            throw error;
          }
        }
      }
    } finally {
      for (const pointer of pointers) {
        connection.free(functions.domainFree, pointer);
      }
    }
  }

  /** Its UUID, whatever the caller named it by (`virDomainGetUUIDString`). */
  uuid(): string {
    const text = Buffer.alloc(37);
    libvirt().domainGetUUIDString(this.#pointer, text);
    return text.toString('latin1', 0, 36);
  }

  /** Whether it runs (`virDomainIsActive`). */
  async isActive(): Promise<boolean> {
    return (await this.#call('does not say whether it runs', libvirt().domainIsActive, [])) === 1;
  }

  /** Whether it has a definition that outlives its run (`virDomainIsPersistent`). */
  async isPersistent(): Promise<boolean> {
    return (await this.#call('does not say whether it is persistent', libvirt().domainIsPersistent, [])) === 1;
  }

  /** The disks of one part (`virDomainGetXMLDesc`); the secure parts of the XML are not asked for. */
  async disks(part: Part): Promise<DomainDisk[]> {
    const flags = part === 'config' ? VIR_DOMAIN_XML_INACTIVE : 0;
    const xml = String(await this.#call('does not show its XML', libvirt().domainGetXMLDesc, [flags]));
    try {
      return parseDomainDisks(xml);
    } catch (error) {
      throw new StorageUtilsError('failed', `the XML of the domain "${this.name}" is not understood`, { cause: error });
    }
  }

  /** Attaches a disk (`virDomainAttachDeviceFlags`). */
  async attach(diskXml: string, parts: readonly Part[]): Promise<void> {
    await this.#call('does not take the disk', libvirt().domainAttachDeviceFlags, [diskXml, flagsOf(parts)]);
  }

  /**
   * Asks for a disk's removal (`virDomainDetachDeviceFlags`). From a running domain it is gone only when the guest has
   * let go of it, which may be after this returns: look at `disks('live')`.
   */
  async detach(diskXml: string, parts: readonly Part[]): Promise<void> {
    await this.#call('does not give up the disk', libvirt().domainDetachDeviceFlags, [diskXml, flagsOf(parts)]);
  }

  /** Size of a disk as QEMU has it open, in bytes (`virDomainGetBlockInfo`). */
  async blockCapacity(target: string): Promise<number> {
    const info: { capacity?: number | bigint } = {};
    await this.#call(`does not tell the size of ${target}`, libvirt().domainGetBlockInfo, [target, info, 0]);
    if (info.capacity === undefined) {
      throw new StorageUtilsError('failed', `libvirt left the size of ${target} of ${this.name} out`);
    }
    return Number(info.capacity);
  }

  /** Tells QEMU, and QEMU the guest, the disk's size in bytes (`virDomainBlockResize`). */
  async blockResize(target: string, sizeBytes: number): Promise<void> {
    await this.#call(`does not take the new size of ${target}`, libvirt().domainBlockResize, [
      target,
      sizeBytes,
      VIR_DOMAIN_BLOCK_RESIZE_BYTES,
    ]);
  }

  #call(what: string, callee: Parameters<Connection['call']>[1], args: readonly unknown[]): Promise<unknown> {
    return this.#connection.call(`the domain "${this.name}" ${what}`, callee, [this.#pointer, ...args]);
  }
}

function flagsOf(parts: readonly Part[]): number {
  return (
    (parts.includes('live') ? VIR_DOMAIN_AFFECT_LIVE : 0) | (parts.includes('config') ? VIR_DOMAIN_AFFECT_CONFIG : 0)
  );
}
