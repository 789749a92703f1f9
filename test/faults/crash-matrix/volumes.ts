import { randomUUID } from 'node:crypto';
import type { MoorageClient } from '../../../src/client/index.js';
import { waitFor } from '../../helpers/wait.js';
import { type Bench, SIZE_BYTES } from './bench.js';
import { type Case, differences, given, type Scenario } from './scenario.js';

/* The calls that change volumes. */

/** An empty volume of the bench's pool. */
export async function makeVolume(bench: Bench, source?: string): Promise<string> {
  const what = source === undefined ? { poolId: 'main', sizeBytes: SIZE_BYTES } : { source: { snapshotId: source } };
  return given('volume', (await bench.client.createVolume(what)).volume).id;
}

async function volumeIs(bench: Bench, id: string, wanted: object): Promise<readonly string[]> {
  return differences(id, given('volume', (await bench.client.getVolume({ volumeId: id })).volume), wanted);
}

type CreateVolumeRequest = Parameters<MoorageClient['createVolume']>[0];

/** Of all volumes there must be one of this name, whatever happened while it was made. */
function createCase(bench: Bench, request: CreateVolumeRequest, sizeBytes: number): Case {
  const displayName = `one of ${randomUUID()}`;
  return {
    call: async (client, clientToken) =>
      given('volume', (await client.createVolume({ ...request, displayName, clientToken })).volume).id,
    check: async (id) => {
      const problems = [
        ...(await volumeIs(bench, id, { state: 'VOLUME_STATE_AVAILABLE', sizeBytes: String(sizeBytes) })),
      ];
      const states = ['CREATING', 'AVAILABLE', 'ERROR'].map((state) => `VOLUME_STATE_${state}` as 'VOLUME_STATE_ERROR');
      let same = 0;
      for (let pageToken = ''; ; ) {
        const page = await bench.client.listVolumes({ pageSize: 1000, pageToken, states });
        same += page.volumes.filter((volume) => volume.displayName === displayName).length;
        pageToken = page.nextPageToken;
        if (pageToken === '') break;
      }
      if (same !== 1) problems.push(`one call made ${same} volumes`);
      return problems;
    },
  };
}

/** Waits until what was deleted is purged. */
export async function gone(bench: Bench, id: string): Promise<void> {
  await waitFor(
    `${id} is purged`,
    async () => {
      try {
        if (id.startsWith('vol-')) await bench.client.getVolume({ volumeId: id });
        else await bench.client.getSnapshot({ snapshotId: id });
        return false;
      } catch (error) {
        return (error as { code?: unknown }).code === 'NOT_FOUND';
      }
    },
    { intervalMilliseconds: 30 },
  );
}

function deleteCase(bench: Bench, id: string, purged: boolean): Case {
  return {
    call: async (client, clientToken) => {
      await client.deleteVolume({ volumeId: id, clientToken });
      return id;
    },
    ...(purged ? { rest: () => gone(bench, id) } : {}),
    check: async () => (purged ? [] : volumeIs(bench, id, { state: 'VOLUME_STATE_DELETED' })),
  };
}

export const volumeScenarios: readonly Scenario[] = [
  {
    name: 'CreateVolume',
    method: 'CreateVolume',
    kind: 'keeps',
    prepare: async (bench) => createCase(bench, { poolId: 'main', sizeBytes: SIZE_BYTES }, SIZE_BYTES),
  },
  {
    name: 'CreateVolume, from a snapshot',
    method: 'CreateVolume',
    kind: 'keeps',
    prepare: async (bench) => createCase(bench, { source: { snapshotId: bench.snapshotId } }, SIZE_BYTES),
  },
  {
    name: 'CreateVolume, larger than its snapshot',
    method: 'CreateVolume',
    kind: 'keeps',
    prepare: async (bench) =>
      createCase(bench, { source: { snapshotId: bench.snapshotId }, sizeBytes: 2 * SIZE_BYTES }, 2 * SIZE_BYTES),
  },
  {
    name: 'ExpandVolume',
    method: 'ExpandVolume',
    kind: 'keeps',
    prepare: async (bench) => {
      const id = await makeVolume(bench);
      return {
        call: async (client, clientToken) => {
          await client.expandVolume({ volumeId: id, sizeBytes: 3 * SIZE_BYTES, clientToken });
          return id;
        },
        check: async () => volumeIs(bench, id, { state: 'VOLUME_STATE_AVAILABLE', sizeBytes: String(3 * SIZE_BYTES) }),
      };
    },
  },
  {
    name: 'UpdateVolume',
    method: 'UpdateVolume',
    kind: 'keeps',
    prepare: async (bench) => {
      const id = await makeVolume(bench);
      return {
        call: async (client, clientToken) => {
          const updateMask = { paths: ['display_name'] };
          await client.updateVolume({ volumeId: id, displayName: 'renamed', updateMask, clientToken });
          return id;
        },
        check: async () => volumeIs(bench, id, { state: 'VOLUME_STATE_AVAILABLE', displayName: 'renamed' }),
      };
    },
  },
  {
    name: 'DeleteVolume',
    method: 'DeleteVolume',
    kind: 'keeps',
    prepare: async (bench) => deleteCase(bench, await makeVolume(bench), false),
  },
  {
    name: 'UndeleteVolume',
    method: 'UndeleteVolume',
    kind: 'keeps',
    prepare: async (bench) => {
      const id = await makeVolume(bench);
      await bench.client.deleteVolume({ volumeId: id });
      return {
        call: async (client, clientToken) => {
          await client.undeleteVolume({ volumeId: id, clientToken });
          return id;
        },
        check: async () => volumeIs(bench, id, { state: 'VOLUME_STATE_AVAILABLE' }),
      };
    },
  },
  {
    name: 'DeleteVolume, until it is purged',
    method: 'DeleteVolume',
    kind: 'purges',
    prepare: async (bench) => deleteCase(bench, await makeVolume(bench), true),
  },
  {
    name: 'DeleteVolume of a clone, until it is purged',
    method: 'DeleteVolume',
    kind: 'purges',
    prepare: async (bench) => deleteCase(bench, await makeVolume(bench, bench.snapshotId), true),
  },
];
