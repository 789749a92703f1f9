import { XMLParser } from 'fast-xml-parser';
import { z } from 'zod';
import type { Connection } from './connection.js';
import { libvirt } from './native.js';

const capabilitiesSchema = z.object({ domainCapabilities: z.object({ path: z.string().startsWith('/') }) });

/** libvirtd's version as people write it (`virConnectGetLibVersion`). */
export async function libvirtVersion(connection: Connection): Promise<string> {
  const out: [number | bigint | null] = [null];
  await connection.call('libvirt does not tell its version', libvirt().connectGetLibVersion, [connection.pointer, out]);
  const version = Number(out[0] ?? 0);
  return `${Math.floor(version / 1_000_000)}.${Math.floor(version / 1000) % 1000}.${version % 1000}`;
}

/** Path of the QEMU that libvirt would run for this host's own architecture (`virConnectGetDomainCapabilities`). */
export async function emulatorPath(connection: Connection): Promise<string> {
  const what = 'libvirt does not tell what it can run (is QEMU installed?)';
  const xml = await connection.call(what, libvirt().connectGetDomainCapabilities, [
    connection.pointer,
    null,
    null,
    null,
    null,
    0,
  ]);
  return capabilitiesSchema.parse(new XMLParser().parse(String(xml))).domainCapabilities.path;
}
