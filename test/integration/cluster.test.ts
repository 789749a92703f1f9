import { expect } from 'chai';
import { type Cluster, startCluster } from '../helpers/cluster.js';
import { CommandError, execute } from '../helpers/exec.js';
import { WaitTimeoutError, waitFor } from '../helpers/wait.js';

describe('the development cluster', () => {
  let cluster: Cluster;

  before(async function () {
    this.timeout(300_000);
    cluster = await startCluster();
  });

  it('serves a pool for RBD images', async () => {
    const pools = JSON.parse((await cluster.ceph('osd', 'pool', 'ls', 'detail', '-f', 'json')).stdout) as {
      pool_name: string;
      pg_num: number;
      application_metadata: object;
    }[];
    const pool = pools.find((each) => each.pool_name === 'moorage');
    expect(pool).to.include({ pg_num: 32 });
    expect(pool?.application_metadata).to.have.property('rbd');
  });

  it('is healthy, and a second start changes nothing', async () => {
    const before = (await execute('scripts/ceph-cluster.sh', ['status', cluster.name])).stdout;
    await startCluster({ name: cluster.name });
    expect((await execute('scripts/ceph-cluster.sh', ['status', cluster.name])).stdout).to.equal(before);
    expect((await cluster.ceph('health')).stdout).to.match(/^HEALTH_(OK|WARN)/);
  });

  it('answers nothing while its OSD is frozen, and goes on afterwards', async () => {
    await cluster.pauseOsd(0);
    let answered = false;
    const listing = cluster.rbd('ls', 'moorage').then(() => {
      answered = true;
    });
    try {
      const state = await waitFor('the OSD is stopped', async () => {
        const pid = (await execute('cat', [`${cluster.directory}/run/osd.0.pid`])).stdout.trim();
        return /^State:\s+T/m.test((await execute('cat', [`/proc/${pid}/status`])).stdout);
      });
      expect(state).to.equal(true);
      expect(answered).to.equal(false);
    } finally {
      await cluster.resumeOsd(0);
    }
    await listing;
  });
});

describe('helpers of the tests', () => {
  it('report a failed command with its exit code and what it said', async () => {
    try {
      await execute('sh', ['-c', 'echo why >&2; exit 7']);
      expect.fail('the command failed unnoticed');
    } catch (error) {
      expect(error).to.be.instanceOf(CommandError);
      expect(error).to.include({ exitCode: 7, stderr: 'why\n' });
    }
  });

  it('name what was awaited in vain', async () => {
    try {
      await waitFor('rain', () => false, { timeoutMilliseconds: 20, intervalMilliseconds: 5 });
      expect.fail('the wait ended');
    } catch (error) {
      expect(error).to.be.instanceOf(WaitTimeoutError);
      expect((error as Error).message).to.contain('rain');
    }
  });
});
