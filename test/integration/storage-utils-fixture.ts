import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  createNodeKeyFile,
  type DescriptorPayload,
  formatDescriptor,
  generateKeyPair,
  type NodeKeys,
  sealDescriptor,
} from '../../src/descriptor/index.js';
import type { NodeOptions } from '../../src/storage-utils/index.js';
import { cleanUp } from '../helpers/clean-up.js';
import { type Cluster, startCluster } from '../helpers/cluster.js';
import { execute } from '../helpers/exec.js';
import { type LibvirtHost, startLibvirtHost } from '../helpers/libvirt-host.js';

const POOL = 'storage-utils';

// A flush takes the exclusive lock from the guest in good order; else the resize is handed to the guest's user, who may not.
const FLUSH_AND_RESIZE = `
import rados, rbd, sys
configuration, pool, name, size = sys.argv[1:]
with rados.Rados(conffile=configuration) as cluster, cluster.open_ioctx(pool) as context:
    for left in range(20, -1, -1):
        try:
            with rbd.Image(context, name) as image:
                image.flush()
                image.resize(int(size))
            break
        except rbd.PermissionError:
            if left == 0: raise
`;

/** A volume as the controller would have made and exported it: an RBD image and a user for it alone. */
export interface ExportedVolume {
  readonly volumeId: string;
  readonly exportId: string;
  readonly user: string;
  /** In base64, as Ceph writes it. */
  readonly key: string;
  /** A sealed descriptor in its text form. */
  descriptor(changes?: Partial<DescriptorPayload>): string;
  /** The image's size, changed as the controller changes it. */
  expand(sizeBytes: number): Promise<void>;
}

/** A cluster's pool, a libvirt host, and a node with its keys. */
export interface Fixture {
  readonly cluster: Cluster;
  readonly host: LibvirtHost;
  readonly directory: string;
  /** What every call of the library is given. */
  readonly node: NodeOptions;
  exportVolume(sizeBytes: number): Promise<ExportedVolume>;
  /** UUIDs of the libvirt secrets on the host. */
  secrets(): Promise<readonly string[]>;
  remove(): Promise<void>;
}

export async function startFixture(name: string): Promise<Fixture> {
  const cluster = await startCluster();
  await cluster.ceph('osd', 'pool', 'create', POOL, '8');
  await cluster.ceph('osd', 'pool', 'application', 'enable', POOL, 'rbd');
  const host = await startLibvirtHost(name);
  const directory = await mkdtemp(join(tmpdir(), 'moorage-storage-utils-'));
  const keyringDirectory = join(directory, 'ceph');
  await mkdir(keyringDirectory);
  const controllerKey = generateKeyPair();
  const keyFile = join(directory, 'node-keys.json');
  const keys = await createNodeKeyFile(keyFile, [controllerKey.publicKey]);
  const users: string[] = [];

  async function exportVolume(sizeBytes: number): Promise<ExportedVolume> {
    const id = randomBytes(9).toString('hex').slice(0, 17);
    const [volumeId, exportId] = [`vol-${id}`, `exp-${id}`];
    const image = `${POOL}/${volumeId}`;
    const features = ['layering', 'exclusive-lock', 'deep-flatten'].flatMap((feature) => ['--image-feature', feature]);
    await cluster.rbd('create', image, '--size', `${sizeBytes}B`, ...features);
    const { id: imageId } = JSON.parse((await cluster.rbd('info', '--format', 'json', image)).stdout) as { id: string };
    const user = `moorage-${exportId}`;
    users.push(user);
    const made = await cluster.ceph('auth', 'get-or-create-key', `client.${user}`, ...caps(volumeId, imageId));
    const key = made.stdout.trim();
    return {
      volumeId,
      exportId,
      user,
      key,
      descriptor: (changes = {}) => seal(keys, { ...payloadOf(volumeId, exportId, sizeBytes, user, key), ...changes }),
      expand: async (size) => {
        await execute('/usr/bin/python3', [
          '-c',
          FLUSH_AND_RESIZE,
          cluster.configurationFile,
          POOL,
          volumeId,
          String(size),
        ]);
      },
    };
  }

  function payloadOf(
    volumeId: string,
    exportId: string,
    sizeBytes: number,
    user: string,
    key: string,
  ): DescriptorPayload {
    return {
      version: 1,
      export_id: exportId,
      volume_id: volumeId,
      node_id: name,
      size_bytes: sizeBytes,
      read_only: false,
      issued_at: new Date().toISOString(),
      expires_at: new Date(Date.now() + 3_600_000).toISOString(),
      connector: 'rbd',
      pool: {
        cluster_id: cluster.fsid,
        ceph_pool: POOL,
        monitors: cluster.monitors.map((monitor) => `${monitor.host}:${monitor.v2Port}`),
      },
      image: { name: volumeId },
      access: { mode: 'managed', user, key },
    };
  }

  function seal(node: NodeKeys, payload: DescriptorPayload): string {
    return formatDescriptor(sealDescriptor(payload, { nodePublicKey: node.current.publicKey, controllerKey }));
  }

  return {
    cluster,
    host,
    directory,
    node: { keyFile, libvirtUri: host.uri, keyringDirectory, lockDirectory: join(directory, 'locks') },
    exportVolume,
    secrets: async () =>
      (await host.virsh('secret-list')).stdout.split('\n').flatMap((line) => line.trim().split(/\s+/)[0] || []),
    remove: async () => {
      await cleanUp(
        () => host.remove(),
        ...users.map((user) => () => cluster.ceph('auth', 'del', `client.${user}`)),
        () => cluster.ceph('osd', 'pool', 'delete', POOL, POOL, '--yes-i-really-really-mean-it'),
        () => rm(directory, { recursive: true, force: true }),
      );
    },
  };
}

/** Leave for one image and nothing else. */
function caps(imageName: string, imageId: string): string[] {
  const osd = [
    `allow object_prefix rbd_data.${imageId}. rwx`,
    `allow object_prefix rbd_id.${imageName} r class-read`,
    `allow object_prefix rbd_header.${imageId} rw class-read`,
    `allow object_prefix rbd_header.${imageId} class lock`,
    'allow object_prefix rbd_info class rbd metadata_list',
    'allow object_prefix rbd_directory class rbd dir_get_name',
    'allow object_prefix rbd_trash class rbd trash_get',
  ].join(', ');
  const blocklist = 'allow command "osd blocklist" with blocklistop=add addr regex "^[^/]+:0/[1-9][0-9]*$"';
  return ['mon', `profile simple-rados-client, ${blocklist}`, 'osd', osd];
}
