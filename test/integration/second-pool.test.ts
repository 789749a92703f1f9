import { readFile } from 'node:fs/promises';
import { expect } from 'chai';
import { parse } from 'yaml';
import { fenceCaps } from '../../src/agents/rbd/fence/caps.js';
import { initialisePool } from '../../src/agents/rbd/pool-init.js';
import { MoorageCallError } from '../../src/client/index.js';
import { agentIsSteady } from '../helpers/agent-traps.js';
import { type System, startSystem } from '../helpers/system.js';
import { waitFor } from '../helpers/wait.js';
import { unique } from './agent-fence-harness.js';

interface ClusterConfiguration {
  readonly data: { readonly user: string; readonly keyring: string };
  readonly fence: { readonly user: string; readonly keyring: string };
}

const SIZE_BYTES = 4 * 2 ** 20;
/** A data agent that died is replaced, and its successor admitted, within this; and refusals, which come later than with a usual deadline. */
const PATIENCE = { deadlineMilliseconds: 120_000 };

describe('a pool that is initialised while the agents run', function () {
  this.timeout(600_000);
  const cephPool = `second-${unique()}`;
  let system: System;
  let configuration: ClusterConfiguration;

  before(async () => {
    system = await startSystem({ name: `first-${unique()}` });
    const { clusters } = parse(await readFile(system.configurationFile, 'utf8')) as {
      clusters: { main: ClusterConfiguration };
    };
    configuration = clusters.main;
    await system.cluster.ceph('osd', 'pool', 'create', cephPool, '8', '8');
  });
  after(async () => {
    await system?.remove();
    await system?.cluster.ceph('osd', 'pool', 'delete', cephPool, cephPool, '--yes-i-really-really-mean-it');
  });

  const initialise = (): Promise<unknown> =>
    initialisePool({
      configurationFile: system.cluster.configurationFile,
      adminUser: 'admin',
      adminKeyring: system.cluster.adminKeyring,
      cephPool,
      dataUser: configuration.data.user,
      dataKeyringFile: configuration.data.keyring,
      fenceUser: configuration.fence.user,
      fenceKeyringFile: configuration.fence.keyring,
    });
  const createPool = (): Promise<unknown> =>
    system.client.createPool(
      { poolId: 'second', settings: 'rbd', rbd: { cluster: 'main', cephPool, access: 'RBD_ACCESS_MANAGED' } },
      PATIENCE,
    );
  const createVolume = async (
    poolId: string,
    deadlineMilliseconds = PATIENCE.deadlineMilliseconds,
  ): Promise<string> => {
    const { volume } = await system.client.createVolume({ poolId, sizeBytes: SIZE_BYTES }, { deadlineMilliseconds });
    return volume?.state ?? '';
  };
  const killData = async (): Promise<void> => {
    const pid = await system.agentPid('data');
    process.kill(pid, 'SIGKILL');
    await waitFor('the next data agent to run', async () => (await system.agentPid('data')) !== pid);
  };

  it('is refused as long as it is not initialised, with what to do; the other pool goes on undisturbed', async () => {
    await agentIsSteady(system);
    const data = await system.agentPid('data');
    const error: unknown = await createPool().catch((reason: unknown) => reason);
    expect(error).to.be.instanceOf(MoorageCallError);
    expect(error).to.include({ code: 'FAILED_PRECONDITION' });
    expect((error as Error).message)
      .to.contain(`moorage pool init ${cephPool}`)
      .and.to.contain(configuration.fence.user);
    expect(await system.agentPid('data'), 'the data agent is not ended in vain').to.equal(data);
    expect(await createVolume('main')).to.equal('VOLUME_STATE_AVAILABLE');
  });

  it('is used without a restart of the controller, also after the data agent has died', async () => {
    await initialise();
    const controller = system.pid;
    await createPool();
    expect(await createVolume('second')).to.equal('VOLUME_STATE_AVAILABLE');
    await killData();
    const states = await Promise.all(['main', 'second'].map((poolId) => createVolume(poolId)));
    expect(states).to.deep.equal(['VOLUME_STATE_AVAILABLE', 'VOLUME_STATE_AVAILABLE']);
    expect(system.pid).to.equal(controller);
  });

  it('waits alone when the fence agent loses its rights there, and goes on by itself when it has them again', async () => {
    const caps = fenceCaps([system.cephPool]);
    await system.cluster.ceph('auth', 'caps', `client.${configuration.fence.user}`, ...caps);
    const fence = await system.agentPid('fence');
    process.kill(fence, 'SIGKILL');
    await waitFor('the next fence agent to run', async () => (await system.agentPid('fence')) !== fence);
    await killData();
    expect(await createVolume('main')).to.equal('VOLUME_STATE_AVAILABLE');
    const waits = await waitFor('the pool to say that it waits', async () => {
      const { pool } = await system.client.getPool({ poolId: 'second' });
      return pool?.health === 'POOL_HEALTH_UNAVAILABLE' && pool.statusMessage;
    });
    expect(waits).to.contain(`moorage pool init ${cephPool}`);
    expect(await createVolume('second', 5_000)).to.equal('VOLUME_STATE_CREATING');
    expect(await createVolume('main')).to.equal('VOLUME_STATE_AVAILABLE');
    await initialise();
    const ended = await waitFor('the volume to be made after all', async () => {
      const { volumes } = await system.client.listVolumes({ poolId: 'second' });
      return volumes?.every(({ state }) => state === 'VOLUME_STATE_AVAILABLE') && volumes.length;
    });
    expect(ended).to.equal(3);
  });
});
