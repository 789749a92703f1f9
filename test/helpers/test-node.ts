import { join } from 'node:path';
import { Cluster, timeoutOverrides } from '../../src/agents/rbd/librbd/cluster.js';
import type { PoolContext } from '../../src/agents/rbd/librbd/pool-context.js';
import {
  type DescriptorPayload,
  generateKeyPair,
  type KeyPair,
  loadControllerKeyFile,
  openDescriptor,
  type RbdAccess,
  rbdAccessSchema,
} from '../../src/descriptor/index.js';
import type { System } from './system.js';

/** A node without libvirt: its key, and what its descriptors say. */
export class TestNode {
  readonly id: string;
  readonly keys: KeyPair;
  readonly #system: System;

  private constructor(system: System, id: string, keys: KeyPair) {
    this.#system = system;
    this.id = id;
    this.keys = keys;
  }

  /** Makes a key and registers a node with it. */
  static async register(system: System, id: string): Promise<TestNode> {
    const keys = generateKeyPair();
    await system.client.registerNode({ nodeId: id, publicKey: Buffer.from(keys.publicKey) });
    return new TestNode(system, id, keys);
  }

  /** What a descriptor for this node says. @throws DescriptorError */
  async open(descriptor: Uint8Array): Promise<DescriptorPayload> {
    const controller = await loadControllerKeyFile(join(this.#system.directory, 'descriptor.key'));
    return openDescriptor(descriptor, {
      nodeKeys: [this.keys],
      controllerPublicKeys: controller.all.map((key) => key.publicKey),
    }).payload;
  }

  /** Exports a volume to this node by an administrator's word, and opens the descriptor. */
  async export(volumeId: string): Promise<Exported> {
    const answer = await this.#system.client.export({ volumeId, authority: 'direct', direct: { nodeId: this.id } });
    const payload = await this.open(answer.descriptor);
    return { exportId: payload.export_id, image: payload.image.name, access: rbdAccessSchema.parse(payload.access) };
  }
}

/** An export as its node knows it. */
export interface Exported {
  readonly exportId: string;
  /** Name of the RBD image. */
  readonly image: string;
  readonly access: RbdAccess;
}

/** A connection as client.admin, and a system's Ceph pool. */
export interface Administrator {
  readonly cluster: Cluster;
  readonly pool: PoolContext;
}

/** A connection to a system's Ceph pool as client.admin, for looking at it from outside. Close its cluster. */
export async function openAsAdministrator(system: System): Promise<Administrator> {
  const cluster = await Cluster.connect({
    configurationFile: system.cluster.configurationFile,
    user: 'admin',
    keyringFile: system.cluster.adminKeyring,
    overrides: { ...timeoutOverrides(60), rbd_cache: 'false' },
  });
  return { cluster, pool: await cluster.openPool(system.cephPool) };
}
