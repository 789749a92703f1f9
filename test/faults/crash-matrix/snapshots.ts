import { type Bench, SIZE_BYTES } from './bench.js';
import { type Case, differences, given, type Scenario } from './scenario.js';
import { gone, makeVolume } from './volumes.js';

/* The calls that change snapshots. */

async function snapshotIs(bench: Bench, id: string, wanted: object): Promise<readonly string[]> {
  return differences(id, given('snapshot', (await bench.client.getSnapshot({ snapshotId: id })).snapshot), wanted);
}

async function makeSnapshot(bench: Bench): Promise<{ readonly volumeId: string; readonly snapshotId: string }> {
  const volumeId = await makeVolume(bench);
  const { snapshot } = await bench.client.createSnapshot({ volumeId });
  return { volumeId, snapshotId: given('snapshot', snapshot).id };
}

/** So many snapshots of one volume, asked for at once. */
function createCase(bench: Bench, volumeId: string, count: number): Case {
  return {
    call: async (client, clientToken) => {
      const tokens = Array.from({ length: count }, (_, index) => `${clientToken}-${index}`);
      const answers = await Promise.allSettled(
        tokens.map((token) => client.createSnapshot({ volumeId, clientToken: token })),
      );
      return answers
        .map((answer) => {
          if (answer.status === 'rejected') throw answer.reason;
          return given('snapshot', answer.value.snapshot).id;
        })
        .join(' ');
    },
    check: async (answer) => {
      const problems: string[] = [];
      for (const id of answer.split(' ')) {
        const wanted = { state: 'SNAPSHOT_STATE_COMPLETED', volumeId, sizeBytes: String(SIZE_BYTES) };
        problems.push(...(await snapshotIs(bench, id, wanted)));
      }
      const { snapshots } = await bench.client.listSnapshots({ volumeId, pageSize: 1000 });
      if (snapshots.length !== count) problems.push(`${count} calls made ${snapshots.length} snapshots`);
      return problems;
    },
  };
}

export const snapshotScenarios: readonly Scenario[] = [
  {
    name: 'CreateSnapshot',
    method: 'CreateSnapshot',
    kind: 'keeps',
    prepare: async (bench) => createCase(bench, await makeVolume(bench), 1),
  },
  {
    name: 'CreateSnapshot, two at once',
    method: 'CreateSnapshot',
    kind: 'keeps',
    prepare: async (bench) => createCase(bench, await makeVolume(bench), 2),
  },
  {
    name: 'CreateSnapshot, of a volume so deep that it is flattened',
    method: 'CreateSnapshot',
    kind: 'keeps',
    prepare: async (bench) => createCase(bench, await makeVolume(bench, bench.snapshotId), 1),
  },
  {
    name: 'UpdateSnapshot',
    method: 'UpdateSnapshot',
    kind: 'keeps',
    prepare: async (bench) => {
      const { snapshotId } = await makeSnapshot(bench);
      return {
        call: async (client, clientToken) => {
          const updateMask = { paths: ['display_name'] };
          await client.updateSnapshot({ snapshotId, displayName: 'renamed', updateMask, clientToken });
          return snapshotId;
        },
        check: () => snapshotIs(bench, snapshotId, { state: 'SNAPSHOT_STATE_COMPLETED', displayName: 'renamed' }),
      };
    },
  },
  {
    name: 'DeleteSnapshot',
    method: 'DeleteSnapshot',
    kind: 'keeps',
    prepare: async (bench) => {
      const { snapshotId } = await makeSnapshot(bench);
      return {
        call: async (client, clientToken) => {
          await client.deleteSnapshot({ snapshotId, clientToken });
          return snapshotId;
        },
        check: () => snapshotIs(bench, snapshotId, { state: 'SNAPSHOT_STATE_DELETED' }),
      };
    },
  },
  {
    name: 'UndeleteSnapshot',
    method: 'UndeleteSnapshot',
    kind: 'keeps',
    prepare: async (bench) => {
      const { snapshotId } = await makeSnapshot(bench);
      await bench.client.deleteSnapshot({ snapshotId });
      return {
        call: async (client, clientToken) => {
          await client.undeleteSnapshot({ snapshotId, clientToken });
          return snapshotId;
        },
        check: () => snapshotIs(bench, snapshotId, { state: 'SNAPSHOT_STATE_COMPLETED' }),
      };
    },
  },
  {
    name: 'DeleteSnapshot, until it is purged with its point in time',
    method: 'DeleteSnapshot',
    kind: 'purges',
    prepare: async (bench) => {
      const { snapshotId } = await makeSnapshot(bench);
      return {
        call: async (client, clientToken) => {
          await client.deleteSnapshot({ snapshotId, clientToken });
          return snapshotId;
        },
        rest: () => gone(bench, snapshotId),
        check: async () => [],
      };
    },
  },
  {
    name: 'DeleteVolume, before its snapshot, until both are purged',
    method: 'DeleteVolume',
    kind: 'purges',
    prepare: async (bench) => {
      const { volumeId, snapshotId } = await makeSnapshot(bench);
      return {
        call: async (client, clientToken) => {
          await client.deleteVolume({ volumeId, clientToken });
          await client.deleteSnapshot({ snapshotId, clientToken });
          return volumeId;
        },
        rest: async () => {
          await gone(bench, snapshotId);
          await gone(bench, volumeId);
        },
        check: async () => [],
      };
    },
  },
];
