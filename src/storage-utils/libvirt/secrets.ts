import { XMLBuilder } from 'fast-xml-parser';
import { cleanUpAfter } from '../errors.js';
import type { Connection } from './connection.js';
import { isLibvirtError, VIR_ERR } from './errors.js';
import { libvirt, type Pointer, takePointers } from './native.js';

/** Begins the usage name of every secret of ours; the export's and the volume's ids follow. */
const USAGE_PREFIX = 'moorage';

/** A libvirt secret that belongs to an export. */
export interface ExportSecret {
  readonly uuid: string;
  readonly exportId: string;
  readonly volumeId: string;
}

/**
 * Defines the ephemeral, private secret of an export and sets its value (`virSecretDefineXML`, `virSecretSetValue`): it
 * is kept in libvirtd's memory alone and no client can read it back. Defining it again replaces its value.
 * @param value the raw bytes; zeroed before this returns, whatever happens.
 * @returns whether this call made it.
 */
export async function defineSecret(connection: Connection, secret: ExportSecret, value: Uint8Array): Promise<boolean> {
  const functions = libvirt();
  try {
    const existed = await secretExists(connection, secret.uuid);
    const what = `libvirt does not take the secret of export ${secret.exportId}`;
    const pointer = await connection.call(what, functions.secretDefineXML, [connection.pointer, secretXml(secret), 0]);
    try {
      await connection.call(what, functions.secretSetValue, [pointer, value, value.length, 0]);
    } catch (error) {
      await cleanUpAfter(error, async () => {
        if (!existed) {
          await connection.call(what, functions.secretUndefine, [pointer]);
        }
      });
    } finally {
      connection.free(functions.secretFree, pointer as Pointer);
    }
    return !existed;
  } finally {
    value.fill(0);
  }
}

/** Whether libvirt knows a secret with this UUID (`virSecretLookupByUUIDString`). */
export async function secretExists(connection: Connection, uuid: string): Promise<boolean> {
  const pointer = await lookUp(connection, uuid);
  if (pointer === undefined) {
    return false;
  }
  libvirt().secretFree(pointer);
  return true;
}

/** Undefines a secret (`virSecretUndefine`). @returns false when there was none. */
export async function undefineSecret(connection: Connection, uuid: string): Promise<boolean> {
  const pointer = await lookUp(connection, uuid);
  if (pointer === undefined) {
    return false;
  }
  try {
    await connection.call(`libvirt does not give up the secret ${uuid}`, libvirt().secretUndefine, [pointer]);
    return true;
  } catch (error) {
    if (isLibvirtError(error, VIR_ERR.noSecret)) {
      return false;
    }
    throw error;
  } finally {
    connection.free(libvirt().secretFree, pointer);
  }
}

/** The secrets of exports that libvirt has (`virConnectListAllSecrets`); those of others are left out. */
export async function listSecrets(connection: Connection): Promise<ExportSecret[]> {
  const functions = libvirt();
  const out: [Pointer | null] = [null];
  const count = await connection.call('libvirt does not list its secrets', functions.connectListAllSecrets, [
    connection.pointer,
    out,
    0,
  ]);
  const secrets: ExportSecret[] = [];
  for (const pointer of takePointers(out[0], Number(count))) {
    const uuid = Buffer.alloc(37);
    const known = functions.secretGetUUIDString(pointer, uuid) === 0;
    const match = /^moorage (exp-[0-9a-f]{17}) (vol-[0-9a-f]{17})$/.exec(String(functions.secretGetUsageID(pointer)));
    functions.secretFree(pointer);
    if (known && match?.[1] !== undefined && match[2] !== undefined) {
      secrets.push({ uuid: uuid.toString('latin1', 0, 36), exportId: match[1], volumeId: match[2] });
    }
  }
  return secrets;
}

/** The `<secret>` element; https://libvirt.org/formatsecret.html. */
export function secretXml(secret: ExportSecret): string {
  return new XMLBuilder({ ignoreAttributes: false, attributeNamePrefix: '@' }).build({
    secret: {
      '@ephemeral': 'yes',
      '@private': 'yes',
      uuid: secret.uuid,
      description: `Access to volume ${secret.volumeId} of export ${secret.exportId}; made by storage-utils`,
      usage: { '@type': 'ceph', name: `${USAGE_PREFIX} ${secret.exportId} ${secret.volumeId}` },
    },
  }) as string;
}

async function lookUp(connection: Connection, uuid: string): Promise<Pointer | undefined> {
  try {
    const what = `libvirt does not look up the secret ${uuid}`;
    return (await connection.call(what, libvirt().secretLookupByUUIDString, [connection.pointer, uuid])) as Pointer;
  } catch (error) {
    if (isLibvirtError(error, VIR_ERR.noSecret)) {
      return undefined;
    }
    throw error;
  }
}
