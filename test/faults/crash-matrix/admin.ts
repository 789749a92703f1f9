import { existsSync, readdirSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { revokeAccess } from '../../../src/agents/rbd/fence/access.js';
import { detachChild, readDirectoryId, readHeader } from '../../../src/agents/rbd/librbd/header.js';
import { type MoorageClient, pages, type Repaired } from '../../../src/client/index.js';
import { removeCatalogueEntry } from '../../helpers/admin.js';
import { waitFor } from '../../helpers/wait.js';
import type { Bench } from './bench.js';
import { differences, given, type Scenario } from './scenario.js';
import { makeVolume } from './volumes.js';

/* The calls that put things right, and the one that calls an operation off. None of them needs a client token. */

/** A volume that was made from a snapshot and is exported. */
interface Exported {
  readonly volumeId: string;
  readonly exportId: string;
}

async function makeExported(bench: Bench): Promise<Exported> {
  const volumeId = await makeVolume(bench, bench.snapshotId);
  const direct = { nodeId: bench.node(0).id };
  const answer = await bench.client.export({ volumeId, authority: 'direct', direct });
  return { volumeId, exportId: given('export', answer.export).id };
}

async function isWhole(bench: Bench, { volumeId, exportId }: Exported): Promise<readonly string[]> {
  const { volume } = await bench.client.getVolume({ volumeId });
  const answer = await bench.client.getExport({ exportId });
  return [
    ...differences(volumeId, given('volume', volume), { state: 'VOLUME_STATE_AVAILABLE' }),
    ...differences(exportId, given('export', answer.export), { state: 'EXPORT_STATE_EXPORTED', volumeId }),
  ];
}

/** Its entry goes from the catalogue, it from its parent's list of clones, and the export's user from Ceph. */
async function damage(bench: Bench, { volumeId, exportId }: Exported): Promise<void> {
  const { cluster, pool } = bench.administrator;
  await removeCatalogueEntry(pool, volumeId);
  await revokeAccess(cluster, bench.system.cephPool, exportId);
  const imageId = (await readDirectoryId(pool, volumeId)) ?? '';
  const parent = (await readHeader(pool, imageId))?.parent;
  if (parent === undefined) throw new Error(`${volumeId} has no parent`);
  const child = { poolId: pool.poolId(), imageId, poolNamespace: '' };
  if (!(await detachChild(pool, parent.imageId, parent.snapshotId, child)))
    throw new Error(`${volumeId} is on no list of clones`);
}

/** All pages. @throws Error when something could not be mended */
async function mend(answers: AsyncIterable<{ readonly repaired: readonly Repaired[] }>): Promise<void> {
  const failed: string[] = [];
  for await (const { repaired } of answers) {
    for (const { finding, outcome, message } of repaired) {
      if (outcome !== 'REPAIR_OUTCOME_MENDED') failed.push(`${outcome} ${finding?.description}: ${message}`);
    }
  }
  if (failed.length > 0) throw new Error(failed.join('; '));
}

/** As an administrator goes on whose Rebuild was cut short: what is not in the store yet is taken in by Repair. */
async function rebuild(client: MoorageClient): Promise<void> {
  try {
    await mend(pages((pageToken) => client.rebuild({ pageToken })));
  } catch (error) {
    if ((error as { readonly reason?: string }).reason !== 'STORE_NOT_EMPTY') throw error;
    await mend(pages((pageToken) => client.repair({ pageToken })));
  }
}

export const adminScenarios: readonly Scenario[] = [
  {
    name: 'Repair',
    method: 'Repair',
    kind: 'keeps',
    prepare: async (bench) => {
      const made = await makeExported(bench);
      const resourceIds = [made.volumeId, made.exportId];
      return {
        ready: () => damage(bench, made),
        call: async (client) => {
          await mend(pages((pageToken) => client.repair({ resourceIds, pageToken })));
          return made.volumeId;
        },
        check: () => isWhole(bench, made),
      };
    },
  },
  {
    name: 'Rebuild',
    method: 'Rebuild',
    kind: 'rebuilds',
    // The controller starts for it, and has dead agents to forget: that is looked at elsewhere. What comes in together with
    // what was made from it needs no commit of its own.
    points: /^(?!.*controller|commit none: $)/,
    prepare: async (bench) => {
      const made = await makeExported(bench);
      // One that comes in alone.
      await makeVolume(bench);
      return {
        ready: () => bench.loseStore(),
        call: async (client) => {
          await rebuild(client);
          return made.volumeId;
        },
        check: () => isWhole(bench, made),
      };
    },
  },
  {
    name: 'BackupStore',
    method: 'BackupStore',
    kind: 'keeps',
    prepare: async () => ({
      // Each call makes a copy of its own.
      call: async (client) => {
        const { path } = await client.backupStore({});
        const others = readdirSync(dirname(path)).filter((name) => name.startsWith(basename(path)));
        if (!existsSync(path) || others.length > 1) throw new Error(`there are ${others.join(' and ')}`);
        return 'a copy';
      },
      check: async () => [],
    }),
  },
  {
    name: 'CancelOperation, of a snapshot that is to be flattened',
    method: 'CancelOperation',
    kind: 'keeps',
    // The rest is the snapshot's own, as far as it comes before.
    points: /called off|\(StopFlatten\)/,
    prepare: async (bench) => {
      const volumeId = await makeVolume(bench, bench.snapshotId);
      let snapshot: Promise<string> | undefined;
      let operationId = '';
      return {
        ready: async (clientToken) => {
          snapshot = bench.client
            .createSnapshot({ volumeId, clientToken })
            .then((answer) => given('snapshot', answer.snapshot).id);
          // Waited for in the end.
          snapshot.catch(() => undefined);
          operationId = await waitFor(
            'the snapshot is begun',
            async () => {
              const { operations } = await bench.client.listOperations({ pageSize: 1000 });
              return operations.find(({ kind }) => kind === 'snapshot.create')?.id;
            },
            { intervalMilliseconds: 1 },
          );
        },
        call: async (client) => {
          await client.cancelOperation({ operationId });
          return operationId;
        },
        check: async () => {
          const snapshotId = await snapshot;
          const found = (await bench.client.getSnapshot({ snapshotId: snapshotId ?? '' })).snapshot;
          return differences(snapshotId ?? '', given('snapshot', found), { state: 'SNAPSHOT_STATE_COMPLETED' });
        },
      };
    },
  },
];
