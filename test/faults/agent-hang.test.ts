import { expect } from 'chai';
import { MoorageCallError, waitForOperation } from '../../src/client/index.js';
import { cleanUp } from '../helpers/clean-up.js';
import { type Cluster, startCluster } from '../helpers/cluster.js';
import { auditPool } from '../helpers/pool-audit.js';
import { type System, startSystem } from '../helpers/system.js';
import { type Exported, TestNode } from '../helpers/test-node.js';
import { waitFor } from '../helpers/wait.js';

const SIZE_BYTES = 16 * 2 ** 20;

describe('while the agent hangs, because its OSD is stopped', function () {
  this.timeout(600_000);
  let cluster: Cluster;
  let system: System;
  let node: TestNode;
  let volumeId: string;
  let exported: Exported;

  before(async () => {
    cluster = await startCluster({ name: 'agent-hang' });
    system = await startSystem({ name: 'agent-hang', cluster });
    node = await TestNode.register(system, 'nc-a');
    volumeId = (await system.client.createVolume({ poolId: 'main', sizeBytes: SIZE_BYTES })).volume?.id ?? '';
    exported = await node.export(volumeId);
    for (const [name, call] of Object.entries(calls)) usual.set(name, await median(call));
    await cluster.pauseOsd(0);
  });
  after(async () => {
    await cleanUp(
      () => cluster?.resumeOsd(0),
      () => system?.remove(),
      () => cluster?.remove(),
    );
  });

  /** How long a call took, in the middle of several, in milliseconds. */
  const median = async (call: () => Promise<unknown>): Promise<number> => {
    const times: number[] = [];
    for (let count = 0; count < 9; count += 1) {
      const began = performance.now();
      await call();
      times.push(performance.now() - began);
    }
    return times.sort((a, b) => a - b)[4] ?? Number.POSITIVE_INFINITY;
  };

  const calls: Readonly<Record<string, () => Promise<unknown>>> = {
    GetVolume: () => system.client.getVolume({ volumeId }),
    ListVolumes: () => system.client.listVolumes({}),
    GetExport: () => system.client.getExport({ exportId: exported.exportId }),
    ListExports: () => system.client.listExports({ volumeId }),
    GetPool: () => system.client.getPool({ poolId: 'main' }),
    Export: async () => expect(await node.export(volumeId)).to.deep.equal(exported),
  };
  /** How long each took before anything hung: what a machine that is busy with other things makes of 100 ms. */
  const usual = new Map<string, number>();

  let hanging: { readonly volumeId: string; readonly operationId: string }[] = [];

  it('CreateVolume answers in time: the volume is creating, and its operation runs', async () => {
    const answers = await Promise.all(
      [1, 2, 3].map(() =>
        system.client.createVolume({ poolId: 'main', sizeBytes: SIZE_BYTES }, { deadlineMilliseconds: 5000 }),
      ),
    );
    hanging = answers.map((answer) => ({ volumeId: answer.volume?.id ?? '', operationId: answer.operationId }));
    for (const { volume, operationId } of answers) {
      expect(volume?.state).to.equal('VOLUME_STATE_CREATING');
      expect(volume?.operationId).to.equal(operationId);
      const { operation } = await system.client.getOperation({ operationId });
      expect(operation).to.include({ state: 'OPERATION_STATE_RUNNING', resourceId: volume?.id, kind: 'volume.create' });
    }
  });

  it('Get, List and Export of an exported volume answer within 100 ms, as if nothing hung', async () => {
    for (const [name, call] of Object.entries(calls)) {
      const milliseconds = await median(call);
      process.stdout.write(`      ${name}: ${milliseconds.toFixed(1)} ms\n`);
      expect(milliseconds, name).to.be.below(Math.max(100, 5 * (usual.get(name) ?? 0)));
    }
  });

  // A minute in the full test; here as long as the tests beside it take.
  if (process.env.MOORAGE_TEST_FULL) {
    it('and so does each of them for a whole minute', async () => {
      const until = performance.now() + 60_000;
      const longest = new Map<string, number>();
      while (performance.now() < until) {
        for (const [name, call] of Object.entries(calls)) {
          longest.set(name, Math.max(longest.get(name) ?? 0, await median(call)));
        }
      }
      for (const [name, milliseconds] of longest) {
        process.stdout.write(`      ${name}: at most ${milliseconds.toFixed(1)} ms\n`);
        expect(milliseconds, name).to.be.below(Math.max(100, 5 * (usual.get(name) ?? 0)));
      }
    });
  }

  it('other changes answer in time too, and a change of what is under way says which operation is in the way', async () => {
    const [first] = hanging;
    const short = { deadlineMilliseconds: 5000 };
    const { snapshot, operationId } = await system.client.createSnapshot({ volumeId }, short);
    expect(snapshot?.state).to.equal('SNAPSHOT_STATE_PENDING');
    hanging.push({ volumeId: '', operationId });
    const deleting = await system.client
      .deleteVolume({ volumeId: first?.volumeId ?? '' }, short)
      .catch((error) => error);
    expect(deleting).to.be.instanceOf(MoorageCallError).and.include({ code: 'ABORTED' });
    expect(deleting.message).to.include(first?.operationId);
  });

  it('everything goes on when the OSD does, and nothing is orphaned', async () => {
    await cluster.resumeOsd(0);
    for (const { operationId } of hanging) {
      const ended = await waitForOperation(system.client, operationId, { timeoutMilliseconds: 240_000 });
      expect(ended.state, ended.statusMessage).to.equal('OPERATION_STATE_SUCCEEDED');
    }
    await waitFor(
      'store and pool agree',
      async () => {
        const { problems, inventory } = await auditPool(system);
        if (problems.length > 0) throw new Error(problems.join('\n'));
        expect(inventory.volumes.map((volume) => volume.state)).to.deep.equal(Array(4).fill('VOLUME_STATE_AVAILABLE'));
        return true;
      },
      { timeoutMilliseconds: 120_000, intervalMilliseconds: 500 },
    );
    await system.client.unexport({ exportId: exported.exportId });
  });
});
