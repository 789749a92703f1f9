import { randomUUID } from 'node:crypto';
import { generateKeyPair } from '../../../src/descriptor/index.js';
import { TestNode } from '../../helpers/test-node.js';
import type { Bench } from './bench.js';
import { openOnNode } from './exports.js';
import { type Case, differences, given, type Scenario } from './scenario.js';
import { makeVolume } from './volumes.js';

/* The calls that cut a whole node off and let it in again. */

async function fenceIs(bench: Bench, nodeId: string, fenceState: string): Promise<readonly string[]> {
  return differences(nodeId, given('node', (await bench.client.getNode({ nodeId })).node), { fenceState });
}

/** A node of its own, whose export a client has open: the others of the bench are needed by other cases. */
async function nodeWithOpenVolume(bench: Bench) {
  const node = await TestNode.register(bench.system, `node-${randomUUID().slice(0, 8)}`);
  const { exportId, image, access } = await node.export(await makeVolume(bench));
  const opened = await openOnNode(bench, JSON.stringify([exportId, image, access]));
  await opened.image.write(0n, Buffer.alloc(512, 1));
  return { nodeId: node.id, opened };
}

async function fenceCase(bench: Bench): Promise<Case> {
  const { nodeId, opened } = await nodeWithOpenVolume(bench);
  return {
    call: async (client, clientToken) => {
      await client.fenceNode({ nodeId, reason: 'lost', clientToken });
      return nodeId;
    },
    check: async () => {
      const wrote = await opened.image.write(0n, Buffer.alloc(512, 2)).then(
        () => ['the node still writes'],
        () => [],
      );
      return [...(await fenceIs(bench, nodeId, 'NODE_FENCE_STATE_FENCED')), ...wrote];
    },
    end: () => opened.close().catch(() => undefined),
  };
}

async function unfenceCase(bench: Bench): Promise<Case> {
  const nodeId = `node-${randomUUID().slice(0, 8)}`;
  const address = `10.${[1, 2, 3].map(() => Math.floor(Math.random() * 250)).join('.')}`;
  const publicKey = Buffer.from(generateKeyPair().publicKey);
  await bench.client.registerNode({ nodeId, publicKey, storageAddresses: [address] });
  await bench.client.fenceNode({ nodeId });
  return {
    call: async (client, clientToken) => {
      await client.unfenceNode({ nodeId, clientsAreDead: true, clientToken });
      return nodeId;
    },
    check: async () => {
      const { stdout } = await bench.system.cluster.ceph('osd', 'blocklist', 'ls');
      return [
        ...(await fenceIs(bench, nodeId, 'NODE_FENCE_STATE_UNSPECIFIED')),
        ...(stdout.includes(`${address}:0/0`) ? [`${address} is still cut off`] : []),
      ];
    },
  };
}

export const fencingScenarios: readonly Scenario[] = [
  { name: 'FenceNode, while it has a volume open', method: 'FenceNode', kind: 'keeps', prepare: fenceCase },
  { name: 'UnfenceNode', method: 'UnfenceNode', kind: 'keeps', prepare: unfenceCase },
];
