import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { initialisePool } from '../../src/agents/rbd/pool-init.js';
import { type AgentEvent, type Backends, createBackends, defaultAgentSettings } from '../../src/backends/index.js';
import { BackendError } from '../../src/core/ports/backend.js';
import { cleanUp } from '../helpers/clean-up.js';
import { type Cluster, startCluster } from '../helpers/cluster.js';
import { waitFor } from '../helpers/wait.js';
import { clock, pool, step } from '../unit/backends-fakes.js';

const image = {
  name: 'vol-absent',
  backendId: 'abc123',
  sizeBytes: 1,
  largestSizeBytes: 1,
  points: [],
  formerNames: [],
};

const alive = (processId: number): boolean => existsSync(`/proc/${processId}`);

describe('backends: agents as processes', function () {
  this.timeout(300_000);
  let cluster: Cluster;
  let directory: string;
  let backends: Backends;
  const events: AgentEvent[] = [];
  // A cluster of its own: its OSD is frozen.
  before(async () => {
    cluster = await startCluster({ name: 'backends' });
    directory = await mkdtemp(join(tmpdir(), 'moorage-b-'));
    const keyrings = { dataKeyringFile: join(directory, 'data'), fenceKeyringFile: join(directory, 'fence') };
    const users = { dataUser: 'moorage-data', fenceUser: 'moorage-fence' };
    const { configurationFile, adminKeyring } = cluster;
    await initialisePool({
      configurationFile,
      adminUser: 'admin',
      adminKeyring,
      cephPool: 'moorage',
      ...users,
      ...keyrings,
    });
    backends = createBackends({
      clusters: [{ name: 'main', configurationFile, ...users, ...keyrings }],
      agents: {
        ...defaultAgentSettings,
        runDirectory: join(directory, 'run'),
        stateDirectory: join(directory, 'state'),
        helloIntervalMilliseconds: 200,
        helloTimeoutMilliseconds: 3_000,
        osdTimeoutSeconds: 10,
      },
      observer: { agentEvent: (event) => events.push(event), agentLine: () => {}, callEnded: () => {} },
      clock,
      lifecycle: () => ({ admit: async () => {}, died: async () => {}, heldBack: () => undefined }),
    });
    await backends.start('00000000-0000-4000-8000-000000000001');
  });
  after(async () => {
    await cleanUp(
      () => backends?.stop(),
      () => cluster?.remove(),
      () => rm(directory, { recursive: true, force: true }),
    );
  });

  const processId = (role: string): number => backends.processIds().get(`main/${role}`) ?? 0;

  it('starts both, and tells what it knows of the pool', async () => {
    const { data, fence } = backends.port;
    expect(await data.probePool(pool, step())).to.include({ health: 'ready' });
    expect((await data.connectorFacts(pool)).connector).to.equal('rbd');
    const exportId = 'exp-0123456789abcdef0';
    const access = await fence.grantAccess(pool, { exportId, image, ancestors: [], readOnly: false }, step());
    expect(JSON.parse(Buffer.from(access).toString())).to.include({ mode: 'managed', user: `moorage-${exportId}` });
    expect(await fence.listAccess(pool, step())).to.deep.equal([exportId]);
    await fence.revokeAccess(pool, exportId, step());
  });

  it('no secret is in the arguments or the environment of an agent', async () => {
    const { readFile } = await import('node:fs/promises');
    const key = /key = (\S+)/.exec(await readFile(join(directory, 'data'), 'utf8'))?.[1] ?? 'none';
    for (const file of ['cmdline', 'environ']) {
      expect(await readFile(`/proc/${processId('data')}/${file}`, 'utf8')).not.to.contain(key);
    }
  });

  it('an agent that is killed is followed by another, which serves', async () => {
    const before = processId('data');
    process.kill(before, 'SIGKILL');
    await waitFor('its successor', () => processId('data') !== before && processId('data') !== 0);
    expect(await backends.port.data.getUsage(pool, image, step())).to.deep.equal([]);
    expect(alive(before)).to.equal(false);
  });

  it('an agent that is frozen is killed and followed by another; the other role serves meanwhile', async () => {
    const before = processId('fence');
    process.kill(before, 'SIGSTOP');
    expect(await backends.port.data.getUsage(pool, image, step())).to.deep.equal([]);
    await waitFor('its successor', () => processId('fence') !== before && processId('fence') !== 0);
    expect(await backends.port.fence.listAccess(pool, step())).to.deep.equal([]);
    expect(alive(before)).to.equal(false);
  });

  it('a Ceph that hangs kills no agent: steps come to an unknown end, facts stay', async () => {
    await backends.port.data.probePool(pool, step());
    const before = [processId('data'), processId('fence')];
    const died = events.filter((event) => event.kind === 'died').length;
    await cluster.pauseOsd(0);
    try {
      const error = await backends.port.data.getUsage(pool, image, step(5_000)).then(
        () => undefined,
        (failed: unknown) => failed,
      );
      expect(error).to.be.instanceOf(BackendError);
      expect((error as BackendError).failure).to.equal('unknown');
      expect((await backends.port.data.connectorFacts(pool)).connector).to.equal('rbd');
    } finally {
      await cluster.resumeOsd(0);
    }
    expect(await backends.port.data.getUsage(pool, image, step())).to.deep.equal([]);
    expect([processId('data'), processId('fence')]).to.deep.equal(before);
    expect(events.filter((event) => event.kind === 'died')).to.have.length(died);
  });

  it('stops both and leaves no socket; starts again', async () => {
    const before = [processId('data'), processId('fence')];
    await backends.stop();
    expect(before.map(alive)).to.deep.equal([false, false]);
    expect(await readdir(join(directory, 'run'))).to.deep.equal([]);
    await backends.start('00000000-0000-4000-8000-000000000002');
    expect(await backends.port.data.getUsage(pool, image, step())).to.deep.equal([]);
  });

  it('agents die with the controller that started them', async () => {
    await backends.stop();
    const controller: ChildProcess = spawn(
      process.execPath,
      ['--import', 'tsx', fileURLToPath(new URL('agent-fence-controller.ts', import.meta.url)), directory],
      { stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, CONFIGURATION: cluster.configurationFile } },
    );
    try {
      if (controller.stdout === null) throw new Error('no standard output');
      const [line] = (await new Promise<string[]>((resolve) =>
        createInterface({ input: controller.stdout as NodeJS.ReadableStream }).once('line', (text) => resolve([text])),
      )) as [string];
      const agents = JSON.parse(line) as number[];
      expect(agents.map(alive)).to.deep.equal([true, true]);
      controller.kill('SIGKILL');
      await waitFor('the agents are gone', () => !agents.some(alive));
    } finally {
      controller.kill('SIGKILL');
    }
    // Its locks are free, and what its agents left in the run directory is swept.
    await backends.start('00000000-0000-4000-8000-000000000003');
    expect(await backends.port.data.getUsage(pool, image, step())).to.deep.equal([]);
    expect(await readdir(join(directory, 'run'))).to.have.length(2);
  });
});
