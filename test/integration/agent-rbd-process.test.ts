import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { type Cluster, startCluster } from '../helpers/cluster.js';
import { waitFor } from '../helpers/wait.js';
import { failure, TestAgent } from './agent-rbd-harness.js';

describe('RBD agent as a process', function () {
  this.timeout(300_000);
  let cluster: Cluster;
  const agents: TestAgent[] = [];

  before(async () => {
    cluster = await startCluster();
  });

  afterEach(async () => {
    for (const agent of agents.splice(0)) await agent.kill();
  });

  const start = (options: ConstructorParameters<typeof TestAgent>[1] = {}): TestAgent => {
    const agent = new TestAgent(cluster, options);
    agents.push(agent);
    return agent;
  };

  it('introduces itself, on a socket for its owner only', async () => {
    const agent = await start().ready();
    expect(agent.hello).to.deep.include({ protocolVersion: 1, backend: 'rbd', roles: ['data'] });
    expect(agent.hello?.addresses[0]).to.match(/^127\.0\.0\.1:0\/[0-9]+$/);
    expect(statSync(agent.socket).mode & 0o777).to.equal(0o600);
    const other = { controller: crypto.randomUUID(), protocolVersion: 2 };
    expect(await failure(agent.call('AgentService', 'Hello', other))).to.include({
      code: 9,
      reason: 'PROTOCOL_VERSION',
    });
    // No core dump, no other process of the same user that reads its memory.
    expect(readFileSync(`/proc/${agent.process.pid}/limits`, 'utf8')).to.match(/Max core file size\s+0\s+0/);
  });

  it('takes no step of a controller that has not said Hello, or that is fenced', async () => {
    const agent = await start().ready();
    const step = { ...agent.stepOf('GetPool'), controller: crypto.randomUUID() };
    const stranger = await failure(agent.call('DataService', 'GetPool', { step }));
    expect(stranger).to.include({ code: 7, reason: 'NO_HELLO' });
    await agent.step('GetPool', {});
    await agent.call('AgentService', 'Fence', { controller: agent.controller });
    expect(await failure(agent.step('GetPool', {}))).to.include({ code: 7, reason: 'FENCED' });
    const again = { controller: agent.controller, protocolVersion: 1 };
    expect(await failure(agent.call('AgentService', 'Hello', again))).to.include({ code: 7, reason: 'FENCED' });
  });

  it('dies as soon as the other end of its standard input is closed', async () => {
    const agent = await start().ready();
    agent.process.stdin?.destroy();
    await waitFor('it is dead', () => agent.ended);
    expect(agent.process.signalCode).to.equal('SIGKILL');
  });

  it('holds its lock file for life; a second one does not start before it is dead', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'moorage-lock-'));
    const lockFile = join(folder, 'lock');
    try {
      const first = await start({ lockFile }).ready();
      const second = start({ lockFile });
      await waitFor('the second has ended', () => second.ended);
      expect(second.process.exitCode).to.equal(2);
      expect(second.log).to.include('held by another agent');
      await first.kill();
      await start({ lockFile }).ready();
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('stops in good order when it is asked to', async () => {
    const agent = await start().ready();
    agent.process.kill('SIGTERM');
    await waitFor('it has ended', () => agent.ended);
    expect(agent.process.exitCode).to.equal(0);
  });

  it('does not start with too few threads, a wrong user or no cluster, and says why', async () => {
    const threads = start({ threads: 4, arguments: ['--threads', '64'] });
    const keyring = start({ keyring: '/nonexistent' });
    const argument = start({ arguments: ['--lane', '0'] });
    for (const [agent, text] of [
      [threads, 'UV_THREADPOOL_SIZE=4'],
      [keyring, 'rados_connect'],
      [argument, '--lane'],
    ] as const) {
      await waitFor('it has ended', () => agent.ended);
      expect(agent.process.exitCode).to.equal(2);
      expect(agent.log).to.include(text);
    }
  });

  it('ends when the cluster cuts it off', async () => {
    const agent = await start().ready();
    const address = agent.hello?.addresses[0] ?? '';
    await cluster.ceph('osd', 'blocklist', 'add', address, '3600');
    const list = { limit: 1, cursor: '' };
    await waitFor('it has ended', async () => {
      await agent.step('ListCatalogueEntries', list, 5).catch(() => undefined);
      return agent.ended;
    });
    expect(agent.process.exitCode).to.equal(3);
  });
});
