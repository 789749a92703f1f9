import { chmod, mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { Cluster as Connection, timeoutOverrides } from '../../src/agents/rbd/librbd/cluster.js';
import { createImage } from '../../src/agents/rbd/librbd/create.js';
import { initialisePool, type PoolInitialisation } from '../../src/agents/rbd/pool-init.js';
import { type Cluster, startCluster } from '../helpers/cluster.js';
import { unique } from './agent-fence-harness.js';

describe('initialisation of a pool', function () {
  this.timeout(300_000);
  let cluster: Cluster;
  let directory: string;
  let settings: PoolInitialisation;
  const pools = [`init-a-${unique()}`, `init-b-${unique()}`] as const;
  before(async () => {
    cluster = await startCluster();
    directory = await mkdtemp(join(tmpdir(), 'moorage-init-'));
    const suffix = unique();
    settings = {
      configurationFile: cluster.configurationFile,
      adminUser: 'admin',
      adminKeyring: cluster.adminKeyring,
      cephPool: pools[0],
      dataUser: `init-data-${suffix}`,
      dataKeyringFile: join(directory, 'data.keyring'),
      fenceUser: `init-fence-${suffix}`,
      fenceKeyringFile: join(directory, 'fence.keyring'),
    };
    for (const pool of pools) await cluster.ceph('osd', 'pool', 'create', pool, '8', '8');
  });
  after(async () => {
    for (const user of [settings.dataUser, settings.fenceUser]) await cluster.ceph('auth', 'del', `client.${user}`);
    for (const pool of pools) {
      await cluster.ceph('osd', 'pool', 'delete', pool, pool, '--yes-i-really-really-mean-it');
    }
    await rm(directory, { recursive: true, force: true });
  });

  async function failureOf(change: Partial<PoolInitialisation>): Promise<string> {
    try {
      await initialisePool({ ...settings, ...change });
    } catch (error) {
      return (error as Error).message;
    }
    throw new Error('it should have failed');
  }

  it('tags the pool, makes both users and writes their keyrings for the owner only', async () => {
    const result = await initialisePool(settings);
    expect(result).to.deep.equal({
      fsid: cluster.fsid,
      pools: [pools[0]],
      usersMade: [settings.dataUser, settings.fenceUser],
    });
    const { stdout } = await cluster.ceph('osd', 'pool', 'application', 'get', pools[0], '-f', 'json');
    expect(JSON.parse(stdout)).to.have.property('rbd');
    for (const file of [settings.dataKeyringFile, settings.fenceKeyringFile]) {
      expect((await stat(file)).mode & 0o777).to.equal(0o600);
    }
    expect(await readFile(settings.dataKeyringFile, 'utf8')).to.match(
      new RegExp(`^\\[client\\.${settings.dataUser}\\]\\n\\tkey = [A-Za-z0-9+/=]{40}\\n$`),
    );
    const data = await Connection.connect({
      configurationFile: settings.configurationFile,
      user: settings.dataUser,
      keyringFile: settings.dataKeyringFile,
      overrides: timeoutOverrides(60),
    });
    try {
      await data.withPool(pools[0], (pool) => createImage(pool, `vol-${unique()}`, 2n ** 20n));
    } finally {
      await data.close();
    }
  });

  it('again it keeps the keys; with another pool both users may reach both', async () => {
    const before = await readFile(settings.dataKeyringFile, 'utf8');
    // As whoever lets the controller's own user read it.
    await chmod(settings.dataKeyringFile, 0o640);
    await chmod(settings.fenceKeyringFile, 0o644);
    expect((await initialisePool(settings)).usersMade).to.deep.equal([]);
    expect(await readFile(settings.dataKeyringFile, 'utf8')).to.equal(before);
    expect((await stat(settings.dataKeyringFile)).mode & 0o777, 'stays as it is').to.equal(0o640);
    expect((await stat(settings.fenceKeyringFile)).mode & 0o777, 'everybody could read it').to.equal(0o600);
    expect((await initialisePool({ ...settings, cephPool: pools[1] })).pools).to.deep.equal([...pools]);
    expect(await readFile(settings.dataKeyringFile, 'utf8')).to.equal(before);
    for (const user of [settings.dataUser, settings.fenceUser]) {
      const { stdout } = await cluster.ceph('auth', 'get', `client.${user}`, '-f', 'json');
      const [{ caps }] = JSON.parse(stdout) as [{ caps: { mon: string; osd: string } }];
      for (const pool of pools) expect(caps.osd).to.contain(`pool=${pool}`);
      if (user === settings.dataUser) expect(caps.mon).to.equal('profile simple-rados-client');
    }
    expect((await initialisePool(settings)).pools, 'the first again takes nothing away').to.deep.equal([...pools]);
  });

  it('says what is wrong with what it is told, and changes nothing then', async () => {
    expect(await failureOf({ cephPool: 'no-such-pool' })).to.contain('no pool "no-such-pool"');
    expect(await failureOf({ cephPool: 'a b' })).to.contain('cephPool');
    expect(await failureOf({ dataUser: 'moorage-exp-data' })).to.contain('must not begin with "moorage-exp-"');
    expect(await failureOf({ fenceUser: settings.dataUser })).to.contain('must be two users');
    expect(await failureOf({ fenceUser: 'client x' })).to.contain('fenceUser');
    expect(await failureOf({ adminKeyring: join(directory, 'absent') })).to.match(/client\.admin/);
    const foreign = `init-c-${unique()}`;
    await cluster.ceph('osd', 'pool', 'create', foreign, '8', '8');
    try {
      await cluster.ceph('osd', 'pool', 'application', 'enable', foreign, 'rgw');
      expect(await failureOf({ cephPool: foreign })).to.contain('is used for rgw');
    } finally {
      await cluster.ceph('osd', 'pool', 'delete', foreign, foreign, '--yes-i-really-really-mean-it');
    }
  });
});
