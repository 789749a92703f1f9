/** Ceph RBD, opened by QEMU itself: connecting is a libvirt secret and the XML that names it. */
import { createHash } from 'node:crypto';
import type { z } from 'zod';
import {
  type DescriptorPayload,
  describeIssues,
  type RbdAccess,
  type RbdPool,
  rbdAccessSchema,
  rbdPoolSchema,
} from '../../descriptor/index.js';
import { cleanUpAfter, StorageUtilsError } from '../errors.js';
import { readKeyring } from '../host/keyring.js';
import { probeImage } from '../host/qemu.js';
import { emulatorPath } from '../libvirt/host.js';
import { defineSecret, undefineSecret } from '../libvirt/secrets.js';
import { type DomainDisk, rbdDiskXml, type SourceHost } from '../libvirt/xml.js';
import {
  type Connected,
  type Connector,
  type ConnectorContext,
  type ConnectRequest,
  isShareable,
} from './connector.js';

/** See the file's head. */
export const rbdConnector: Connector = {
  name: 'rbd',

  async connect(context: ConnectorContext, { payload, target, bus, options }: ConnectRequest): Promise<Connected> {
    const pool = parse(rbdPoolSchema, payload.pool, 'pool');
    const access = parse(rbdAccessSchema, payload.access, 'access');
    const secretUuid = exportSecretUuid(pool, payload.export_id);
    const value = await keyOf(access, context.keyringDirectory);
    const secret = { uuid: secretUuid, exportId: payload.export_id, volumeId: payload.volume_id };
    const made = await defineSecret(context.libvirt, secret, value);
    try {
      const diskXml = rbdDiskXml(
        {
          source: {
            name: sourceName(pool, payload),
            hosts: pool.monitors.map(hostOf),
            user: access.user,
            secretUuid,
          },
          serial: payload.volume_id,
          target,
          readOnly: payload.read_only || options.readOnly === true,
          shareable: isShareable(payload, options),
        },
        { ...options, bus },
      );
      const warnings =
        access.mode === 'keyring'
          ? [
              `client.${access.user} of this node opens the volume: Unexport withdraws nothing from it on Ceph (keyring access)`,
            ]
          : [];
      return { diskXml, secretUuid, made, warnings };
    } catch (error) {
      return await cleanUpAfter(error, async () => {
        if (made) {
          await undefineSecret(context.libvirt, secretUuid);
        }
      });
    }
  },

  async probe(context: ConnectorContext, payload: DescriptorPayload, timeoutMs: number): Promise<string | undefined> {
    const pool = parse(rbdPoolSchema, payload.pool, 'pool');
    const access = parse(rbdAccessSchema, payload.access, 'access');
    const key = await keyOf(access, context.keyringDirectory);
    const image = {
      cephPool: pool.ceph_pool,
      image: payload.image.name,
      monitors: pool.monitors.map(hostOf),
      user: access.user,
      key: key.toString('base64'),
    };
    key.fill(0);
    return probeImage(await emulatorPath(context.libvirt), image, timeoutMs);
  },

  isSourceOf(disk: DomainDisk, payload: DescriptorPayload): boolean {
    const pool = parse(rbdPoolSchema, payload.pool, 'pool');
    return disk.protocol === 'rbd' && disk.sourceName === sourceName(pool, payload);
  },

  secretUuid(payload: DescriptorPayload): string {
    return exportSecretUuid(parse(rbdPoolSchema, payload.pool, 'pool'), payload.export_id);
  },

  async disconnect(context: ConnectorContext, payload: DescriptorPayload): Promise<boolean> {
    const pool = parse(rbdPoolSchema, payload.pool, 'pool');
    return undefineSecret(context.libvirt, exportSecretUuid(pool, payload.export_id));
  },

  async extend(): Promise<void> {
    // QEMU has the image open itself: telling it the size is all there is to do, and every connector ends with that.
  },
};

/** UUID v5 (RFC 9562) of an export in the namespace of its cluster: the same on every node and after every restart. */
export function exportSecretUuid(pool: RbdPool, exportId: string): string {
  const namespace = Buffer.from(pool.cluster_id.replaceAll('-', ''), 'hex');
  const bytes = createHash('sha1').update(namespace).update(exportId, 'utf8').digest().subarray(0, 16);
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x50;
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

function sourceName(pool: RbdPool, payload: DescriptorPayload): string {
  return `${pool.ceph_pool}/${payload.image.name}`;
}

async function keyOf(access: RbdAccess, keyringDirectory: string): Promise<Buffer> {
  return access.mode === 'managed'
    ? Buffer.from(access.key, 'base64')
    : await readKeyring(access.user, keyringDirectory);
}

function hostOf(monitor: string): SourceHost {
  const separator = monitor.lastIndexOf(':');
  return {
    name: monitor.slice(0, separator).replace(/^\[|\]$/g, ''),
    port: Number(monitor.slice(separator + 1)),
  };
}

function parse<Schema extends z.ZodType>(schema: Schema, value: unknown, field: string): z.infer<Schema> {
  const parsed = schema.safeParse(value);
  if (!parsed.success) {
    throw new StorageUtilsError('refused', `the descriptor's ${field} is wrong: ${describeIssues(parsed.error)}`);
  }
  return parsed.data;
}
