import { Cluster, timeoutOverrides } from '../../../src/agents/rbd/librbd/cluster.js';
import { RbdImage } from '../../../src/agents/rbd/librbd/image.js';
import type { MoorageClient } from '../../../src/client/index.js';
import { rbdAccessSchema } from '../../../src/descriptor/index.js';
import { openAsAdministrator } from '../../helpers/test-node.js';
import type { Bench } from './bench.js';
import { type Case, differences, given, type Scenario } from './scenario.js';
import { makeVolume } from './volumes.js';

/* The calls that give out volumes and take them back. */

const INSTANCE = 'machine-1';

/** What a node can do with a descriptor, as one line; its key must be that of every other answer. */
async function readDescriptor(bench: Bench, node: number, descriptor: Uint8Array): Promise<string> {
  const payload = await bench.node(node).open(descriptor);
  return JSON.stringify([payload.export_id, payload.image.name, payload.access]);
}

interface Wanted {
  readonly node: number;
  readonly grantId?: string;
  readonly migration?: boolean;
}

async function exportOnce(
  bench: Bench,
  client: MoorageClient,
  volumeId: string,
  { node, grantId, migration = false }: Wanted,
  clientToken?: string,
): Promise<string> {
  const direct = { nodeId: bench.node(node).id, instance: INSTANCE, migration };
  const authority =
    grantId === undefined ? { authority: 'direct' as const, direct } : { authority: 'grantId' as const, grantId };
  const answer = await client.export({ volumeId, ...authority, ...(clientToken === undefined ? {} : { clientToken }) });
  return readDescriptor(bench, node, answer.descriptor);
}

const exportIdOf = (answer: string): string => (JSON.parse(answer) as readonly string[])[0] ?? '';

async function exportIs(bench: Bench, id: string, wanted: object): Promise<readonly string[]> {
  return differences(id, given('export', (await bench.client.getExport({ exportId: id })).export), wanted);
}

function exportCase(bench: Bench, volumeId: string, wanted: Wanted, exportsOfVolume = 1): Case {
  return {
    call: (client, clientToken) => exportOnce(bench, client, volumeId, wanted, clientToken),
    check: async (answer) => {
      const nodeId = bench.node(wanted.node).id;
      const state = { state: 'EXPORT_STATE_EXPORTED', nodeId, volumeId };
      const { exports } = await bench.client.listExports({ volumeId, pageSize: 1000 });
      return [
        ...(await exportIs(bench, exportIdOf(answer), state)),
        ...(exports.length === exportsOfVolume
          ? []
          : [`${volumeId} has ${exports.length} exports, not ${exportsOfVolume}`]),
      ];
    },
  };
}

function unexportCase(bench: Bench, exportId: string, force: boolean, volumeId: string, left: number): Case {
  return {
    call: async (client, clientToken) => {
      await client.unexport({ exportId, force, clientToken });
      return exportId;
    },
    check: async () => {
      const { exports } = await bench.client.listExports({ volumeId, pageSize: 1000 });
      return [
        ...(exports.length === left ? [] : [`${volumeId} has ${exports.length} exports, not ${left}`]),
        ...exports.flatMap((item) => (item.migration ? [`${item.id} is still one side of a migration`] : [])),
      ];
    },
  };
}

/** A node's client that has the volume open with its export's own user. */
export async function openOnNode(bench: Bench, answer: string): Promise<Opened> {
  const [, name, access] = JSON.parse(answer) as [string, string, unknown];
  const parsed = rbdAccessSchema.parse(access);
  if (parsed.mode !== 'managed') throw new Error('the export brings no key');
  const cluster = await Cluster.connect({
    configurationFile: bench.system.cluster.configurationFile,
    user: parsed.user,
    key: parsed.key,
    overrides: { ...timeoutOverrides(10), rbd_cache: 'false' },
  });
  const pool = await cluster.openPool(bench.system.cephPool);
  const image = await RbdImage.open(pool, { name });
  return {
    image,
    close: async () => {
      await image.close();
      pool.close();
      await cluster.close();
    },
  };
}

export interface Opened {
  readonly image: RbdImage;
  close(): Promise<void>;
}

const refusalOf = async (call: Promise<unknown>): Promise<string> => {
  try {
    await call;
    return 'it was not refused';
  } catch (error) {
    const { code, reason } = error as { readonly code?: string; readonly reason?: string };
    if (code === 'UNAVAILABLE' || code === 'DEADLINE_EXCEEDED') throw error;
    return `${code} ${reason}`;
  }
};

export const exportScenarios: readonly Scenario[] = [
  {
    name: 'GrantExport',
    method: 'GrantExport',
    kind: 'keeps',
    prepare: async (bench) => {
      const request = { volumeId: await makeVolume(bench), nodeId: bench.node(0).id };
      return {
        call: async (client, clientToken) =>
          given('grant', (await client.grantExport({ ...request, clientToken })).grant).id,
        check: async (grantId) => {
          await exportOnce(bench, bench.client, request.volumeId, { node: 0, grantId });
          return [];
        },
      };
    },
  },
  {
    name: 'RevokeGrant',
    method: 'RevokeGrant',
    kind: 'keeps',
    prepare: async (bench) => {
      const volumeId = await makeVolume(bench);
      const { grant } = await bench.client.grantExport({ volumeId, nodeId: bench.node(0).id });
      const { id: grantId } = given('grant', grant);
      return {
        call: async (client, clientToken) => {
          const revoked = given('grant', (await client.revokeGrant({ grantId, clientToken })).grant);
          return `${revoked.id} ${JSON.stringify(revoked.revokeTime)}`;
        },
        check: async () => {
          const refusal = await refusalOf(exportOnce(bench, bench.client, volumeId, { node: 0, grantId }));
          return refusal === 'FAILED_PRECONDITION GRANT_REVOKED' ? [] : [`${grantId}: ${refusal}`];
        },
      };
    },
  },
  {
    name: 'Export, by an administrator',
    method: 'Export',
    kind: 'keeps',
    prepare: async (bench) => exportCase(bench, await makeVolume(bench), { node: 0 }),
  },
  {
    name: 'Export of a clone, by a grant',
    method: 'Export',
    kind: 'keeps',
    prepare: async (bench) => {
      const volumeId = await makeVolume(bench, bench.snapshotId);
      const { grant } = await bench.client.grantExport({ volumeId, nodeId: bench.node(1).id });
      return exportCase(bench, volumeId, { node: 1, grantId: given('grant', grant).id });
    },
  },
  {
    name: 'Export, the second of a migration',
    method: 'Export',
    kind: 'keeps',
    prepare: async (bench) => {
      const volumeId = await makeVolume(bench);
      await exportOnce(bench, bench.client, volumeId, { node: 0 });
      return exportCase(bench, volumeId, { node: 1, migration: true }, 2);
    },
  },
  {
    name: 'Export, from a pool with keyrings',
    method: 'Export',
    kind: 'keyring',
    prepare: async (bench) => exportCase(bench, await makeVolume(bench), { node: 0 }),
  },
  {
    name: 'Unexport, from a pool with keyrings',
    method: 'Unexport',
    kind: 'keyring',
    prepare: async (bench) => {
      const volumeId = await makeVolume(bench);
      const answer = await exportOnce(bench, bench.client, volumeId, { node: 0 });
      return unexportCase(bench, exportIdOf(answer), false, volumeId, 0);
    },
  },
  {
    name: 'Unexport',
    method: 'Unexport',
    kind: 'keeps',
    prepare: async (bench) => {
      const volumeId = await makeVolume(bench);
      const answer = await exportOnce(bench, bench.client, volumeId, { node: 0 });
      return unexportCase(bench, exportIdOf(answer), false, volumeId, 0);
    },
  },
  {
    name: 'Unexport, the source of a migration',
    method: 'Unexport',
    kind: 'keeps',
    prepare: async (bench) => {
      const volumeId = await makeVolume(bench);
      const source = await exportOnce(bench, bench.client, volumeId, { node: 0 });
      await exportOnce(bench, bench.client, volumeId, { node: 1, migration: true });
      return unexportCase(bench, exportIdOf(source), false, volumeId, 1);
    },
  },
  {
    name: 'Unexport, refused because it is open',
    method: 'Unexport',
    kind: 'keeps',
    prepare: async (bench) => {
      const volumeId = await makeVolume(bench);
      const answer = await exportOnce(bench, bench.client, volumeId, { node: 0 });
      const exportId = exportIdOf(answer);
      const opened = await openOnNode(bench, answer);
      return {
        call: (client, clientToken) => refusalOf(client.unexport({ exportId, clientToken })),
        check: async (refusal) => {
          await opened.image.write(0n, Buffer.alloc(512, 1));
          return [
            ...(refusal === 'FAILED_PRECONDITION EXPORT_OPEN' ? [] : [`the answer is ${refusal}`]),
            ...(await exportIs(bench, exportId, { state: 'EXPORT_STATE_EXPORTED' })),
          ];
        },
        end: () => opened.close(),
      };
    },
  },
  {
    name: 'Unexport with force, while it is open',
    method: 'Unexport',
    kind: 'keeps',
    prepare: async (bench) => {
      const volumeId = await makeVolume(bench);
      const answer = await exportOnce(bench, bench.client, volumeId, { node: 0 });
      const opened = await openOnNode(bench, answer);
      await opened.image.write(0n, Buffer.alloc(512, 1));
      const withdrawn = unexportCase(bench, exportIdOf(answer), true, volumeId, 0);
      return {
        ...withdrawn,
        check: async (given_) => {
          const wrote = await opened.image.write(0n, Buffer.alloc(512, 2)).then(
            () => ['the node still writes'],
            () => [],
          );
          return [...(await withdrawn.check(given_)), ...wrote];
        },
        end: () => opened.close().catch(() => undefined),
      };
    },
  },
  {
    name: 'DeleteVolume, refused because somebody has it open',
    method: 'DeleteVolume',
    kind: 'keeps',
    prepare: async (bench) => {
      const volumeId = await makeVolume(bench);
      const { cluster, pool } = await openAsAdministrator(bench.system);
      const image = await RbdImage.open(pool, { name: volumeId });
      return {
        call: (client, clientToken) => refusalOf(client.deleteVolume({ volumeId, clientToken })),
        check: async (refusal) => {
          const { volume } = await bench.client.getVolume({ volumeId });
          return [
            ...(refusal === 'FAILED_PRECONDITION IN_USE' ? [] : [`the answer is ${refusal}`]),
            ...differences(volumeId, given('volume', volume), { state: 'VOLUME_STATE_AVAILABLE' }),
          ];
        },
        end: async () => {
          await image.close();
          pool.close();
          await cluster.close();
        },
      };
    },
  },
];
