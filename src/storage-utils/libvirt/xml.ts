/** libvirt's disk element: https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms. */
import { XMLBuilder, XMLParser } from 'fast-xml-parser';
import { z } from 'zod';
import { describeIssues } from '../../descriptor/index.js';
import { StorageUtilsError } from '../errors.js';

/** The buses a disk can sit on here. */
export const BUSES = ['virtio', 'scsi', 'sata', 'usb', 'ide'] as const;

/** See {@link BUSES}. */
export type Bus = (typeof BUSES)[number];

/** Names of devices on a bus begin with this, in the domain's XML; the guest may call them something else. */
export const TARGET_PREFIX: Readonly<Record<Bus, string>> = {
  virtio: 'vd',
  scsi: 'sd',
  sata: 'sd',
  usb: 'sd',
  ide: 'hd',
};

/** Bytes of a serial number that QEMU shows the guest; longer ones are cut. */
const SERIAL_BYTES: Readonly<Record<Bus, number>> = { virtio: 20, scsi: 36, sata: 20, usb: 36, ide: 20 };

const rate = z.int().nonnegative().max(Number.MAX_SAFE_INTEGER);

/** How the disk stands in the domain; every field is optional, and what is not said is left to libvirt. */
export const diskOptionsSchema = z.strictObject({
  /** Name of the device in the domain, as "vdb". */
  target: z
    .string()
    .regex(/^(vd|sd|hd|xvd|ubd)[a-z]{1,3}$/, 'a device name such as "vdb" or "sda"')
    .optional(),
  /** "virtio" unless said. */
  bus: z.enum(BUSES).optional(),
  /** "none" unless said: what the guest was told is written is on the backend. */
  cache: z.enum(['default', 'none', 'writethrough', 'writeback', 'directsync', 'unsafe']).optional(),
  io: z.enum(['threads', 'native', 'io_uring']).optional(),
  /** "unmap" unless said: what the guest discards is freed on the backend. */
  discard: z.enum(['unmap', 'ignore']).optional(),
  detectZeroes: z.enum(['off', 'on', 'unmap']).optional(),
  /** Limits: bytes or operations a second, as libvirt names them. A total excludes its read and write. */
  iotune: z
    .strictObject({
      total_bytes_sec: rate.optional(),
      read_bytes_sec: rate.optional(),
      write_bytes_sec: rate.optional(),
      total_iops_sec: rate.optional(),
      read_iops_sec: rate.optional(),
      write_iops_sec: rate.optional(),
      total_bytes_sec_max: rate.optional(),
      read_bytes_sec_max: rate.optional(),
      write_bytes_sec_max: rate.optional(),
      total_iops_sec_max: rate.optional(),
      read_iops_sec_max: rate.optional(),
      write_iops_sec_max: rate.optional(),
      size_iops_sec: rate.optional(),
    })
    .refine(
      (tune) =>
        !(['bytes_sec', 'iops_sec', 'bytes_sec_max', 'iops_sec_max'] as const).some(
          (unit) =>
            tune[`total_${unit}`] !== undefined &&
            (tune[`read_${unit}`] !== undefined || tune[`write_${unit}`] !== undefined),
        ),
      'a total and a read or write limit of the same kind exclude each other',
    )
    .optional(),
  /** The attributes of `<address>`, as {type: "pci", domain: "0x0000", bus: "0x04", slot: "0x00", function: "0x0"}. */
  address: z
    .record(
      z.string().regex(/^[a-z]{1,16}$/, 'the name of an attribute'),
      z.string().regex(/^[0-9A-Za-z.-]{1,64}$/, 'a plain value'),
    )
    .refine((address) => address.type !== undefined, 'needs "type", as "pci" or "drive"')
    .optional(),
  /** Place in the boot order, from 1. */
  bootOrder: z.int().positive().max(999).optional(),
  /** Other domains may have it open at the same time; set by itself for a multi-attach volume. */
  shareable: z.boolean().optional(),
  /** The guest may only read; set by itself for a read-only export. */
  readOnly: z.boolean().optional(),
});

/** See {@link diskOptionsSchema}. */
export type DiskOptions = z.infer<typeof diskOptionsSchema>;

/** Checks disk options that a caller gave. @throws {StorageUtilsError} `usage` that names the field. */
export function checkDiskOptions(options: unknown): DiskOptions {
  const parsed = diskOptionsSchema.safeParse(options);
  if (!parsed.success) {
    throw new StorageUtilsError('usage', `wrong disk option: ${describeIssues(parsed.error)}`);
  }
  return parsed.data;
}

/** One monitor of the cluster. */
export interface SourceHost {
  /** Name or address; IPv6 without brackets. */
  readonly name: string;
  readonly port: number;
}

/** A network disk of Ceph's. */
export interface RbdSource {
  /** `pool/image`. */
  readonly name: string;
  readonly hosts: readonly SourceHost[];
  /** cephx user without "client.". */
  readonly user: string;
  /** UUID of the libvirt secret that holds its key. */
  readonly secretUuid: string;
}

/** What goes into the XML beside the caller's options. */
export interface RbdDisk {
  readonly source: RbdSource;
  /** The volume's id. */
  readonly serial: string;
  readonly target: string;
  readonly readOnly: boolean;
  readonly shareable: boolean;
}

/** What the guest sees of a serial number on this bus: virtio-blk, SATA and IDE cut it after 20 bytes. */
export function guestSerial(serial: string, bus: Bus): string {
  return serial.slice(0, SERIAL_BYTES[bus]);
}

/** Builds the `<disk>` element. Everything in it is escaped; what XML cannot hold was refused where it came in. */
export function rbdDiskXml(disk: RbdDisk, options: DiskOptions): string {
  const element = {
    disk: {
      '@type': 'network',
      '@device': 'disk',
      driver: {
        '@name': 'qemu',
        '@type': 'raw',
        '@cache': options.cache ?? 'none',
        ...(options.io === undefined ? {} : { '@io': options.io }),
        '@discard': options.discard ?? 'unmap',
        ...(options.detectZeroes === undefined ? {} : { '@detect_zeroes': options.detectZeroes }),
      },
      source: {
        '@protocol': 'rbd',
        '@name': disk.source.name,
        host: disk.source.hosts.map((host) => ({ '@name': host.name, '@port': String(host.port) })),
        auth: {
          '@username': disk.source.user,
          secret: { '@type': 'ceph', '@uuid': disk.source.secretUuid },
        },
      },
      target: { '@dev': disk.target, '@bus': options.bus ?? 'virtio' },
      ...(options.iotune === undefined ? {} : { iotune: numbers(options.iotune) }),
      ...(disk.readOnly ? { readonly: '' } : {}),
      ...(disk.shareable ? { shareable: '' } : {}),
      serial: disk.serial,
      ...(options.bootOrder === undefined ? {} : { boot: { '@order': String(options.bootOrder) } }),
      ...(options.address === undefined ? {} : { address: attributes(options.address) }),
    },
  };
  return builder.build(element) as string;
}

/** A disk of a domain, as its XML says. */
export interface DomainDisk {
  readonly target: string;
  readonly bus: string;
  readonly serial?: string;
  /** `protocol` of a network source. */
  readonly protocol?: string;
  /** `name` of a network source. */
  readonly sourceName?: string;
  readonly secretUuid?: string;
  /** Whether its XML lets other domains have it at the same time. */
  readonly shareable: boolean;
}

/** Reads the disks out of a domain's XML. */
export function parseDomainDisks(domainXml: string): DomainDisk[] {
  const parsed = domainSchema.parse(parser.parse(domainXml));
  return parsed.domain.devices.disk.map((disk) => ({
    target: disk.target['@dev'],
    bus: disk.target['@bus'] ?? '',
    ...(disk.serial === undefined ? {} : { serial: disk.serial }),
    ...(disk.source?.['@protocol'] === undefined ? {} : { protocol: disk.source['@protocol'] }),
    ...(disk.source?.['@name'] === undefined ? {} : { sourceName: disk.source['@name'] }),
    ...(disk.source?.auth?.secret['@uuid'] === undefined ? {} : { secretUuid: disk.source.auth.secret['@uuid'] }),
    shareable: disk.shareable !== undefined,
  }));
}

/** The first free device name of a bus: vda … vdz, vdaa … */
export function nextTarget(bus: Bus, taken: Iterable<string>): string {
  const used = new Set(taken);
  const letters = 'abcdefghijklmnopqrstuvwxyz';
  for (let index = 0; index < 26 * 27; index++) {
    const suffix = (index < 26 ? '' : letters.charAt(Math.floor(index / 26) - 1)) + letters.charAt(index % 26);
    const target = TARGET_PREFIX[bus] + suffix;
    if (!used.has(target)) {
      return target;
    }
  }
  throw new StorageUtilsError('refused', `the domain has no free device name for another ${bus} disk`);
}

const builder = new XMLBuilder({
  ignoreAttributes: false,
  attributeNamePrefix: '@',
  suppressEmptyNode: true,
  format: true,
});

const parser = new XMLParser({
  ignoreAttributes: false,
  attributeNamePrefix: '@',
  parseTagValue: false,
  parseAttributeValue: false,
  isArray: (_name, path) => path === 'domain.devices.disk',
});

const optionalElement = <Schema extends z.ZodType>(schema: Schema) => z.union([z.literal(''), schema]);

const domainSchema = z.object({
  domain: z.object({
    devices: optionalElement(
      z.object({
        disk: z
          .array(
            z.object({
              target: z.object({ '@dev': z.string(), '@bus': z.string().optional() }),
              serial: z.string().optional(),
              shareable: z.unknown().optional(),
              source: optionalElement(
                z.object({
                  '@protocol': z.string().optional(),
                  '@name': z.string().optional(),
                  auth: z.object({ secret: z.object({ '@uuid': z.string().optional() }) }).optional(),
                }),
              )
                .transform((source) => (source === '' ? undefined : source))
                .optional(),
            }),
          )
          .optional(),
      }),
    ).transform((devices) => ({ disk: (devices === '' ? undefined : devices.disk) ?? [] })),
  }),
});

function numbers(values: Readonly<Record<string, number | undefined>>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(values).flatMap(([name, value]) => (value === undefined ? [] : [[name, String(value)]])),
  );
}

function attributes(values: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [`@${name}`, value]));
}

/** A `<disk>` element that names an attached disk well enough to detach it: libvirt finds it by bus and target. */
export function detachXml(disk: Omit<DomainDisk, 'shareable'>): string {
  // The source is there for the parser alone, which refuses a disk without one.
  const source =
    disk.protocol === undefined
      ? { '@type': 'block', source: { '@dev': '/dev/null' } }
      : { '@type': 'network', source: { '@protocol': disk.protocol, '@name': disk.sourceName ?? '' } };
  return builder.build({
    disk: { ...source, '@device': 'disk', target: { '@dev': disk.target, '@bus': disk.bus } },
  }) as string;
}
