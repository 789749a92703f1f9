import { status } from '@grpc/grpc-js';
import { expect } from 'chai';
import { nodeArguments } from '../../src/backends/launcher.js';
import type { ImageRecord } from '../../src/core/model/image.js';
import { type Fixture, fakeBackends, pool, refusal, step, until } from './backends-fakes.js';

const image: ImageRecord = {
  name: 'vol-1',
  backendId: 'abc',
  sizeBytes: 1,
  largestSizeBytes: 1,
  points: [],
  formerNames: [],
};

describe('backends: supervision of agents', () => {
  let fixture: Fixture;
  afterEach(() => fixture.end());

  it('gives no step before the agent is admitted; the fence agent serves meanwhile', async () => {
    let open = () => {};
    const gate = new Promise<void>((resolve) => {
      open = resolve;
    });
    fixture = fakeBackends({ admit: (agent) => (agent.role === 'data' ? gate : Promise.resolve()) });
    await fixture.backends.start('inc-1');
    const { data, fence } = fixture.backends.port;
    const usage = data.getUsage(pool, image, step());
    await until('data is asked for', () => fixture.story.includes('admit data-1'));
    await fence.cutOff(pool, { addresses: ['10.0.0.1:0/1'], expirySeconds: 86_400 }, step());
    expect(
      fixture.agents.find((agent) => agent.role === 'data')?.calls.every((call) => call.method === 'Hello'),
    ).to.equal(true);
    open();
    await usage;
    expect(fixture.story.indexOf('admitted data-1')).to.be.greaterThan(-1);
  });

  it('admits again until it goes well, without a new agent', async () => {
    let tries = 0;
    fixture = fakeBackends({
      admit: async (agent) => {
        if (agent.role === 'data' && ++tries < 4) throw new Error('Ceph is away');
      },
    });
    await fixture.backends.start('inc-1');
    await fixture.backends.port.data.getUsage(pool, image, step());
    expect(tries).to.equal(4);
    expect(fixture.agents.filter((agent) => agent.role === 'data')).to.have.length(1);
    expect(fixture.events.filter((event) => event.kind === 'admit-failed')).to.have.length(3);
  });

  it('the death of an agent is noted before the next is admitted, and tried until it is', async () => {
    let refusals = 3;
    fixture = fakeBackends({
      died: async () => {
        if (refusals-- > 0) throw new Error('the store is away');
      },
    });
    await fixture.backends.start('inc-1');
    const { data } = fixture.backends.port;
    await data.getUsage(pool, image, step());
    fixture.agents.find((agent) => agent.agentId === 'data-1')?.crash();
    await until('it is known to be dead', () => fixture.events.some((event) => event.kind === 'died'));
    await data.getUsage(pool, image, step());
    const story = fixture.story.filter((line) => line.includes('data'));
    expect(story).to.deep.equal(['admit data-1', 'admitted data-1', 'died data-1', 'admit data-2', 'admitted data-2']);
    expect(fixture.events.filter((event) => event.kind === 'report-failed')).to.have.length(3);
  });

  it('a death while the admission is under way is noted after it', async () => {
    let open = () => {};
    const gate = new Promise<void>((resolve) => {
      open = resolve;
    });
    fixture = fakeBackends({ admit: (agent) => (agent.agentId === 'data-1' ? gate : Promise.resolve()) });
    await fixture.backends.start('inc-1');
    await until('data is asked for', () => fixture.story.includes('admit data-1'));
    fixture.agents.find((agent) => agent.agentId === 'data-1')?.crash();
    await until('it is known to be dead', () =>
      fixture.events.some((event) => event.kind === 'died' && event.role === 'data'),
    );
    expect(fixture.story).not.to.include('died data-1');
    open();
    await until('the next is admitted', () => fixture.story.includes('admitted data-2'));
    expect(fixture.story.indexOf('died data-1')).to.be.greaterThan(fixture.story.indexOf('admitted data-1'));
    expect(fixture.story.indexOf('died data-1')).to.be.lessThan(fixture.story.indexOf('admit data-2'));
  });

  it('kills an agent that does not answer Hello and starts another', async () => {
    fixture = fakeBackends({
      behave: (method, _request, agent) =>
        method === 'Hello' && agent.agentId === 'data-1' && agent.calls.length > 2 ? 'silent' : (undefined as never),
    });
    await fixture.backends.start('inc-1');
    await until('the next is admitted', () => fixture.story.includes('admitted data-2'));
    expect(fixture.events.find((event) => event.kind === 'died' && event.agentId === 'data-1')?.message).to.contain(
      'did not answer',
    );
  });

  it('an agent that answers Hello with an error lives, and is asked again', async () => {
    let answers = 0;
    fixture = fakeBackends({
      settings: { startMilliseconds: 400 },
      behave: (method, _request, agent) => {
        if (method === 'Hello' && agent.role === 'data' && ++answers <= 12)
          throw refusal(status.UNAVAILABLE, 'ETIMEDOUT');
        return undefined as never;
      },
    });
    await fixture.backends.start('inc-1');
    await fixture.backends.port.data.getUsage(pool, image, step());
    expect(fixture.agents.filter((agent) => agent.role === 'data')).to.have.length(1);
  });

  it('kills an agent that never listens, and waits longer before each try', async () => {
    fixture = fakeBackends({ mute: true, settings: { startMilliseconds: 20 } });
    await fixture.backends.start('inc-1');
    await until('it was tried', () => fixture.agents.filter((agent) => agent.role === 'data').length >= 4);
    const failed = fixture.events.filter((event) => event.kind === 'start-failed' && event.role === 'data');
    expect(failed[0]?.message).to.contain('did not answer within 20 ms');
  });

  it('refuses an agent of another version or role', async () => {
    fixture = fakeBackends({
      behave: (method, _request, agent) =>
        method === 'Hello' && agent.role === 'data'
          ? { protocolVersion: 2, agentId: 'x', roles: ['data'] }
          : (undefined as never),
    });
    await fixture.backends.start('inc-1');
    await until('it is refused', () => fixture.events.some((event) => event.kind === 'start-failed'));
    expect(fixture.events.find((event) => event.kind === 'start-failed')?.message).to.contain('version 2');
  });

  it('stops all, and starts again under another id', async () => {
    fixture = fakeBackends();
    await fixture.backends.start('inc-1');
    await fixture.backends.port.data.getUsage(pool, image, step());
    await fixture.backends.port.fence.listAccess(pool, step());
    await fixture.backends.stop();
    expect(fixture.story.filter((line) => line.startsWith('died'))).to.have.members(['died data-1', 'died fence-1']);
    await fixture.backends.start('inc-2');
    await fixture.backends.port.data.getUsage(pool, image, step());
    const last = fixture.agents.find((agent) => agent.agentId === 'data-2');
    expect(last?.calls.find((call) => call.method === 'GetUsage')?.request.step).to.include({ controller: 'inc-2' });
  });

  it('gives an agent what its Node needs of the options, and no debugger or test runner', () => {
    expect(
      nodeArguments('/a.js', ['--inspect-brk', '--import', 'tsx', '--test', '--conditions=x', '-e', '1']),
    ).to.deep.equal(['--import', 'tsx', '--conditions=x']);
    expect(nodeArguments('/a.js', [])).to.deep.equal([]);
    expect(nodeArguments('/a.ts', [])[0]).to.equal('--import');
    fixture = fakeBackends();
  });
});
