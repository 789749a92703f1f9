import { status } from '@grpc/grpc-js';
import { expect } from 'chai';
import { BackendError } from '../../src/core/ports/backend.js';
import { type Behaviour, type Fixture, fakeBackends, pool, refusal, step, until } from './backends-fakes.js';

const other = { ...pool, id: 'pool-b', settings: { ...pool.settings, cephPool: 'other' } };

const FACTS = { capacityBytes: '1000', freeBytes: '400', connector: 'rbd', connectorJson: Buffer.from('{}') };

async function failureOf(promise: Promise<unknown>): Promise<BackendError> {
  const error: unknown = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).to.be.instanceOf(BackendError);
  return error as BackendError;
}

/** Agents whose user has rights in a pool or not, each start of them as a test says. */
function agentsThat(mayNot: (agentId: string, cephPool: string) => boolean): Behaviour {
  return (method, request, agent) => {
    if (method === 'GetPool') return FACTS;
    if (method === 'Hello') return undefined as never;
    const { pool: asked } = request.step as { pool: { settings: { ceph_pool: string } } };
    if (mayNot(agent.agentId, asked.settings.ceph_pool)) throw refusal(status.UNAVAILABLE, 'EPERM');
    return undefined as never;
  };
}

describe('backends: rights in a pool', () => {
  let fixture: Fixture;
  afterEach(() => fixture.end());

  const startsOf = (role: 'data' | 'fence'): number => fixture.agents.filter((agent) => agent.role === role).length;

  it('agents that connected before the pool was initialised are renewed, the fence agent first', async () => {
    fixture = fakeBackends({ behave: agentsThat((agentId, name) => name === 'other' && agentId.endsWith('-1')) });
    await fixture.backends.start('inc-1');
    const { data } = fixture.backends.port;
    expect(await data.probePool(pool, step())).to.include({ health: 'ready' });
    expect([startsOf('fence'), startsOf('data')], 'nobody is renewed without need').to.deep.equal([1, 1]);
    expect(await data.probePool(other, step())).to.include({ health: 'ready' });
    expect([startsOf('fence'), startsOf('data')]).to.deep.equal([2, 2]);
    const { story } = fixture;
    expect(story.indexOf('admitted fence-2')).to.be.above(0).and.below(story.indexOf('died data-1'));
    expect(story.indexOf('died data-1')).to.be.below(story.indexOf('admit data-2'));
  });

  it('who has no rights after it either is told so; the data agent is left alone, and the pause is kept', async () => {
    fixture = fakeBackends({ behave: agentsThat((_agentId, name) => name === 'other') });
    await fixture.backends.start('inc-1');
    const { data } = fixture.backends.port;
    await data.probePool(pool, step());
    const first = await failureOf(data.probePool(other, step()));
    expect(first).to.include({ failure: 'permanent', code: 'FAILED_PRECONDITION', reason: 'NO_RIGHTS_IN_POOL' });
    expect(first.message).to.contain('client.fence').and.to.contain('moorage pool init other');
    expect([startsOf('fence'), startsOf('data')]).to.deep.equal([2, 1]);
    const soon = await failureOf(data.probePool(other, step(100)));
    expect(soon).to.include({ failure: 'not-begun', code: 'UNAVAILABLE' });
    expect(startsOf('fence'), 'within the pause').to.equal(2);
    expect((await failureOf(data.probePool(other, step()))).failure, 'who has time waits').to.equal('permanent');
    expect([startsOf('fence'), startsOf('data')]).to.deep.equal([3, 1]);
  });

  it('who had no time to wait for the next start learns from a later question what came of it', async () => {
    let open = (): void => {};
    const gate = new Promise<void>((resolve) => {
      open = resolve;
    });
    fixture = fakeBackends({
      behave: agentsThat((_agentId, name) => name === 'other'),
      admit: (agent) => (agent.agentId === 'fence-2' ? gate : Promise.resolve()),
    });
    await fixture.backends.start('inc-1');
    const { data } = fixture.backends.port;
    await data.probePool(pool, step());
    const asked = failureOf(data.probePool(other, step(1_000)));
    await until('it is renewed', () => fixture.story.includes('admit fence-2'));
    expect((await asked).failure).to.equal('not-begun');
    open();
    expect((await failureOf(data.probePool(other, step()))).reason).to.equal('NO_RIGHTS_IN_POOL');
    expect(startsOf('fence')).to.equal(2);
  });

  it('a step that is refused has its agents renewed, once, and again only after the pause', async () => {
    let initialised = false;
    const starts = new Set<string>();
    fixture = fakeBackends({
      behave: agentsThat((agentId, name) => {
        if (name !== 'other') return false;
        if (!initialised) starts.add(agentId);
        return starts.has(agentId);
      }),
    });
    await fixture.backends.start('inc-1');
    const { fence } = fixture.backends.port;
    const cutOff = () => fence.cutOff(other, { addresses: ['10.0.0.1:0/1'], expirySeconds: 86_400 }, step());
    expect((await failureOf(cutOff())).reason).to.equal('EPERM');
    await until('it is renewed', () => starts.has('fence-2'));
    for (let tries = 0; tries < 20; tries += 1) await failureOf(cutOff());
    expect(startsOf('fence')).to.equal(2);
    initialised = true;
    await until('it is renewed again', () => {
      void cutOff().catch(() => undefined);
      return startsOf('fence') === 3;
    });
    await cutOff();
    expect(startsOf('fence')).to.equal(3);
  });

  it('no step of the role data is sent in a pool that is held back', async () => {
    fixture = fakeBackends({
      behave: agentsThat(() => false),
      heldBack: (poolId) => (poolId === 'pool-b' ? 'It waits.' : undefined),
    });
    await fixture.backends.start('inc-1');
    const { data, fence } = fixture.backends.port;
    const held = await failureOf(data.removeCatalogueEntry(other, 'vol-1', step()));
    expect(held).to.include({ failure: 'not-begun', reason: 'POOL_HELD_BACK', message: 'It waits.' });
    await data.removeCatalogueEntry(pool, 'vol-1', step());
    await fence.cutOff(other, { addresses: [], expirySeconds: 86_400 }, step());
  });
});
