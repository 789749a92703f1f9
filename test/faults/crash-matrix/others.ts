import { randomUUID } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { initialisePool } from '../../../src/agents/rbd/pool-init.js';
import { generateKeyPair } from '../../../src/descriptor/index.js';
import type { Bench } from './bench.js';
import { differences, given, type Scenario } from './scenario.js';

/* The calls that change nodes and pools. */

/** A Ceph pool that the bench's users may reach and that no pool of Moorage is on. */
async function makeCephPool(bench: Bench): Promise<string> {
  const { cluster, directory, cephPool } = bench.system;
  const name = `${cephPool}-${randomUUID().slice(0, 8)}`;
  await cluster.ceph('osd', 'pool', 'create', name, '1', '1');
  bench.sparePools.push(name);
  // The keyrings stay where they are: the users have them already, and get the right to one more pool.
  const keyring = (role: string): string => join(directory, `spare-${name}-${role}.keyring`);
  await initialisePool({
    configurationFile: cluster.configurationFile,
    adminUser: 'admin',
    adminKeyring: cluster.adminKeyring,
    cephPool: name,
    dataUser: `moorage-data-${cephPool}`,
    dataKeyringFile: keyring('data'),
    fenceUser: `moorage-fence-${cephPool}`,
    fenceKeyringFile: keyring('fence'),
  });
  for (const role of ['data', 'fence']) await rm(keyring(role));
  return name;
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
      const cephPool = await makeCephPool(bench);
      const poolId = cephPool;
      const rbd = { cluster: 'main', cephPool, access: 'RBD_ACCESS_MANAGED', keyringUser: '' } as const;
      await bench.client.createPool({ poolId, settings: 'rbd', rbd });
      return {
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
      const cephPool = await makeCephPool(bench);
      const poolId = cephPool;
      return {
        call: async (client, clientToken) =>
          given(
            'pool',
            (
              await client.createPool({
                poolId,
                settings: 'rbd',
                rbd: { cluster: 'main', cephPool, access: 'RBD_ACCESS_MANAGED', keyringUser: '' },
                clientToken,
              })
            ).pool,
          ).id,
        check: async () =>
          differences(poolId, given('pool', (await bench.client.getPool({ poolId })).pool), { id: poolId }),
      };
    },
  },
];
