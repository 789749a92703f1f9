import { randomUUID } from 'node:crypto';
import { generateKeyPair } from '../../../src/descriptor/index.js';
import type { Bench } from './bench.js';
import { differences, given, type Scenario } from './scenario.js';

/* The calls that change nodes and pools. */

/** A pool that is made on one of the bench's spare Ceph pools, or is yet to be. */
function sparePool(bench: Bench) {
  const cephPool = bench.sparePools.pop();
  if (cephPool === undefined) throw new Error(`${bench.system.cephPool} has no spare Ceph pool left`);
  const rbd = { cluster: 'main', cephPool, access: 'RBD_ACCESS_MANAGED', keyringUser: '' } as const;
  const poolId = `pool-${randomUUID().slice(0, 8)}`;
  const end = async (): Promise<void> => {
    // It may be gone, or never have been.
    await bench.client.deletePool({ poolId });
    bench.sparePools.push(cephPool);
  };
  return { poolId, request: { poolId, settings: 'rbd' as const, rbd }, end };
}

export const otherScenarios: readonly Scenario[] = [
  {
    name: 'RegisterNode',
    method: 'RegisterNode',
    kind: 'keeps',
    prepare: async (bench) => {
      const nodeId = `node-${randomUUID().slice(0, 8)}`;
      const publicKey = Buffer.from(generateKeyPair().publicKey);
      return {
        call: async (client, clientToken) =>
          given('node', (await client.registerNode({ nodeId, publicKey, clientToken })).node).id,
        check: async () =>
          differences(nodeId, given('node', (await bench.client.getNode({ nodeId })).node), { id: nodeId }),
      };
    },
  },
  {
    name: 'RemoveNode',
    method: 'RemoveNode',
    kind: 'keeps',
    prepare: async (bench) => {
      const nodeId = `node-${randomUUID().slice(0, 8)}`;
      await bench.client.registerNode({ nodeId, publicKey: Buffer.from(generateKeyPair().publicKey) });
      return {
        call: async (client, clientToken) => {
          await client.removeNode({ nodeId, clientToken });
          return nodeId;
        },
        check: async () => {
          const { nodes } = await bench.client.listNodes({ pageSize: 1000 });
          return nodes.some((node) => node.id === nodeId) ? [`${nodeId} is still there`] : [];
        },
      };
    },
  },
  {
    name: 'CreateEnrollmentToken',
    method: 'CreateEnrollmentToken',
    kind: 'keeps',
    prepare: async (bench) => {
      const nodeId = `node-${randomUUID().slice(0, 8)}`;
      return {
        call: async (client, clientToken) => (await client.createEnrollmentToken({ nodeId, clientToken })).token,
        check: async (token) => {
          const publicKey = Buffer.from(generateKeyPair().publicKey);
          const { node } = await bench.client.enroll({ token, publicKey });
          return differences(nodeId, given('node', node), { id: nodeId });
        },
      };
    },
  },
  {
    name: 'Enroll',
    method: 'Enroll',
    kind: 'keeps',
    prepare: async (bench) => {
      const nodeId = `node-${randomUUID().slice(0, 8)}`;
      const { token } = await bench.client.createEnrollmentToken({ nodeId });
      const { publicKey, keyId } = generateKeyPair();
      return {
        call: async (client) =>
          given('node', (await client.enroll({ token, publicKey: Buffer.from(publicKey) })).node).id,
        check: async () => {
          const { node } = await bench.client.getNode({ nodeId });
          return differences(nodeId, given('node', node), { publicKeyId: keyId });
        },
      };
    },
  },
  {
    name: 'RotateNodeKey',
    method: 'RotateNodeKey',
    kind: 'keeps',
    prepare: async (bench) => {
      const nodeId = `node-${randomUUID().slice(0, 8)}`;
      await bench.client.registerNode({ nodeId, publicKey: Buffer.from(generateKeyPair().publicKey) });
      const { publicKey, keyId } = generateKeyPair();
      return {
        call: async (client, clientToken) => {
          const request = { nodeId, publicKey: Buffer.from(publicKey), clientToken };
          return given('node', (await client.rotateNodeKey(request)).node).publicKeyId;
        },
        check: async () => {
          const { node } = await bench.client.getNode({ nodeId });
          return differences(nodeId, given('node', node), { publicKeyId: keyId });
        },
      };
    },
  },
  {
    name: 'UpdateNode',
    method: 'UpdateNode',
    kind: 'keeps',
    prepare: async (bench) => {
      const nodeId = `node-${randomUUID().slice(0, 8)}`;
      await bench.client.registerNode({ nodeId, publicKey: Buffer.from(generateKeyPair().publicKey) });
      return {
        call: async (client, clientToken) => {
          const updateMask = { paths: ['initiator_name'] };
          await client.updateNode({ nodeId, initiatorName: 'iqn.2026-11.test:a', updateMask, clientToken });
          return nodeId;
        },
        check: async () => {
          const { node } = await bench.client.getNode({ nodeId });
          return differences(nodeId, given('node', node), { initiatorName: 'iqn.2026-11.test:a' });
        },
      };
    },
  },
  {
    name: 'UpdatePool',
    method: 'UpdatePool',
    kind: 'keeps',
    prepare: async (bench) => {
      const name = `tag-${randomUUID().slice(0, 8)}`;
      return {
        call: async (client, clientToken) => {
          await client.updatePool({
            poolId: 'main',
            tags: { [name]: 'set' },
            updateMask: { paths: [`tags.${name}`] },
            clientToken,
          });
          return name;
        },
        check: async () => {
          const { pool } = await bench.client.getPool({ poolId: 'main' });
          return differences('main', given('pool', pool).tags, { [name]: 'set' });
        },
      };
    },
  },
  {
    name: 'DeletePool',
    method: 'DeletePool',
    kind: 'purges',
    prepare: async (bench) => {
      const { poolId, request, end } = sparePool(bench);
      await bench.client.createPool(request);
      return {
        end,
        call: async (client, clientToken) => {
          await client.deletePool({ poolId, clientToken });
          return poolId;
        },
        check: async () => {
          const { pools } = await bench.client.listPools({ pageSize: 1000 });
          return pools.some((pool) => pool.id === poolId) ? [`${poolId} is still there`] : [];
        },
      };
    },
  },
  {
    name: 'CreatePool',
    method: 'CreatePool',
    kind: 'purges',
    prepare: async (bench) => {
      const { poolId, request, end } = sparePool(bench);
      return {
        end,
        call: async (client, clientToken) =>
          given('pool', (await client.createPool({ ...request, clientToken })).pool).id,
        check: async () =>
          differences(poolId, given('pool', (await bench.client.getPool({ poolId })).pool), { id: poolId }),
      };
    },
  },
];
