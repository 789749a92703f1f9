import { status } from '@grpc/grpc-js';
import { expect } from 'chai';
import type { ImageRecord } from '../../src/core/model/image.js';
import { BackendError } from '../../src/core/ports/backend.js';
import { type Behaviour, type Fixture, fakeBackends, pool, refusal, step, until } from './backends-fakes.js';

const image: ImageRecord = {
  name: 'vol-1',
  backendId: 'abc',
  sizeBytes: 2 ** 40,
  largestSizeBytes: 2 ** 41,
  points: [{ name: 'base', backendId: '4' }],
  formerNames: ['vol-0'],
};

async function failureOf(promise: Promise<unknown>): Promise<BackendError> {
  try {
    await promise;
  } catch (error) {
    expect(error).to.be.instanceOf(BackendError);
    return error as BackendError;
  }
  throw new Error('it did not fail');
}

describe('backends: steps through the backend protocol', () => {
  let fixture: Fixture;
  const begin = async (behave?: Behaviour): Promise<Fixture> => {
    fixture = fakeBackends(behave === undefined ? {} : { behave });
    await fixture.backends.start('inc-1');
    return fixture;
  };
  afterEach(() => fixture.end());

  it('carries who asks, the pool and sizes as they are, and gives numbers back', async () => {
    await begin((method) =>
      method === 'CreateImage'
        ? {
            image: {
              name: 'vol-1',
              backendId: 'abc',
              sizeBytes: String(2 ** 50),
              points: [{ name: 'base', backendId: '7' }],
            },
          }
        : (undefined as never),
    );
    const made = await fixture.backends.port.data.createImage(
      pool,
      {
        catalogueEntry: { key: 'vol-1', value: Buffer.from('x') },
        name: 'vol-1',
        sizeBytes: 2 ** 50,
        pointName: 'base',
      },
      step(),
    );
    expect(made).to.deep.equal({
      kind: 'made',
      backendId: 'abc',
      sizeBytes: 2 ** 50,
      points: [{ name: 'base', backendId: '7' }],
    });
    const sent = fixture.agents.flatMap((agent) => agent.calls).find((call) => call.method === 'CreateImage')
      ?.request as Record<string, unknown>;
    expect(sent.step).to.deep.equal({
      controller: 'inc-1',
      operationId: 'op-1',
      name: 'test',
      pool: { poolId: 'pool-a', settings: { ceph_pool: 'moorage' } },
    });
    expect(sent.sizeBytes).to.equal(String(2 ** 50));
    expect(sent.parent).to.equal(null);
    expect(fixture.calls.find((call) => call.method === 'CreateImage')?.outcome).to.equal('ok');
  });

  it('tells permanent failures, with the reason and facts that the agent gives', async () => {
    for (const code of [
      status.FAILED_PRECONDITION,
      status.NOT_FOUND,
      status.RESOURCE_EXHAUSTED,
      status.OUT_OF_RANGE,
      status.INVALID_ARGUMENT,
    ]) {
      await begin((method) => {
        if (method === 'TrashImage') throw refusal(code, 'IN_USE', { holder: 'client.7' });
        return undefined as never;
      });
      const error = await failureOf(
        fixture.backends.port.data.trashImage(pool, { image, defermentSeconds: 60 }, step()),
      );
      expect(error).to.include({ failure: 'permanent', code: status[code], reason: 'IN_USE' });
      expect(error.metadata).to.deep.equal({ holder: 'client.7' });
      await fixture.end();
    }
  });

  it('tells what was not begun', async () => {
    for (const reason of ['LANE_FULL', 'NOT_BEGUN', 'NO_HELLO']) {
      await begin((method) => {
        if (method === 'GetUsage') throw refusal(status.RESOURCE_EXHAUSTED, reason);
        return undefined as never;
      });
      const error = await failureOf(fixture.backends.port.data.getUsage(pool, image, step()));
      expect(error).to.include({ failure: 'not-begun', reason });
      await fixture.end();
    }
  });

  it('tells what is unknown: other codes, and what gRPC itself calls exhausted', async () => {
    for (const code of [
      status.UNAVAILABLE,
      status.ABORTED,
      status.INTERNAL,
      status.UNKNOWN,
      status.DEADLINE_EXCEEDED,
    ]) {
      await begin((method) => {
        if (method === 'GetUsage') throw refusal(code, 'X');
        return undefined as never;
      });
      expect((await failureOf(fixture.backends.port.data.getUsage(pool, image, step()))).failure).to.equal('unknown');
      await fixture.end();
    }
    await begin((method) => {
      if (method === 'GetUsage') throw { code: status.RESOURCE_EXHAUSTED, details: 'message too long' };
      return undefined as never;
    });
    expect((await failureOf(fixture.backends.port.data.getUsage(pool, image, step()))).failure).to.equal('unknown');
  });

  it('an agent that dies midway leaves the outcome unknown; its successor takes the next step', async () => {
    await begin((method, _request, agent) =>
      method === 'GetUsage' && agent.agentId === 'data-1' ? 'silent' : (undefined as never),
    );
    const { data } = fixture.backends.port;
    const asked = failureOf(data.getUsage(pool, image, step(60_000)));
    const agentOf = (id: string) => fixture.agents.find((agent) => agent.agentId === id);
    await until('the step arrived', () => agentOf('data-1')?.calls.some((call) => call.method === 'GetUsage') ?? false);
    agentOf('data-1')?.crash();
    expect((await asked).failure).to.equal('unknown');
    expect(await data.getUsage(pool, image, step())).to.deep.equal([]);
    expect(agentOf('data-2')?.calls.some((call) => call.method === 'GetUsage')).to.equal(true);
  });

  it('a step that finds the socket of its agent dead is taken by the successor, as soon as that is there', async function () {
    this.timeout(60_000);
    await begin(() => undefined as never);
    const { data } = fixture.backends.port;
    await data.getUsage(pool, image, step());
    const agentOf = (id: string) => fixture.agents.find((agent) => agent.agentId === id);
    agentOf('data-1')?.hangUp();
    // A step on the old connection is of unknown outcome; the next finds no connection. It may take longer than this test.
    for (let taken = false; !taken; ) {
      taken = await data.getUsage(pool, image, step(90_000)).then(
        () => true,
        (error: BackendError) => {
          expect(error.failure).to.equal('unknown');
          return false;
        },
      );
    }
    expect(agentOf('data-2')?.calls.some((call) => call.method === 'GetUsage')).to.equal(true);
  });

  it('a step that is not answered in time is unknown; one that is called off too', async () => {
    await begin((method) => (method === 'GetUsage' ? 'silent' : (undefined as never)));
    const { data } = fixture.backends.port;
    await until('the agent is there', () => fixture.story.includes('admitted data-1'));
    expect(await failureOf(data.getUsage(pool, image, step(300)))).to.include({
      failure: 'unknown',
      code: 'DEADLINE_EXCEEDED',
    });
    const stop = new AbortController();
    const asked = failureOf(data.getUsage(pool, image, step(60_000, stop.signal)));
    await until(
      'it arrived',
      () => fixture.agents.flatMap((agent) => agent.calls).filter((call) => call.method === 'GetUsage').length === 2,
    );
    stop.abort();
    expect(await asked).to.include({ failure: 'unknown', code: 'CANCELLED' });
  });

  it('without an agent nothing is begun, however long it is waited for', async () => {
    fixture = fakeBackends({ launchFails: () => true });
    const { data } = fixture.backends.port;
    expect(await failureOf(data.getUsage(pool, image, step(60_000)))).to.include({ failure: 'not-begun' });
    await fixture.backends.start('inc-1');
    expect(await failureOf(data.getUsage(pool, image, step(100)))).to.include({
      failure: 'not-begun',
      code: 'UNAVAILABLE',
      reason: 'AGENT_NOT_READY',
    });
    const stop = new AbortController();
    const asked = failureOf(data.getUsage(pool, image, step(60_000, stop.signal)));
    stop.abort();
    expect(await asked).to.include({ failure: 'not-begun', reason: 'CANCELLED' });
    const waiting = failureOf(data.getUsage(pool, image, step(60_000)));
    await fixture.backends.stop();
    expect(await waiting).to.include({ failure: 'not-begun', reason: 'AGENT_STOPPED' });
  });

  it('a connection of its own goes with its agent: its steps are not begun, closing it is OK', async () => {
    await begin((method) =>
      method === 'OpenConnection' ? { connectionId: 'c-1', addresses: ['10.0.0.5:0/1'] } : (undefined as never),
    );
    const { data } = fixture.backends.port;
    const connection = await data.openConnection(pool, step());
    expect(connection).to.deep.equal({ connectionId: 'c-1', agentId: 'data-1', addresses: ['10.0.0.5:0/1'] });
    fixture.agents.find((agent) => agent.agentId === 'data-1')?.crash();
    await until('the next is there', () => fixture.story.includes('admitted data-2'));
    expect(await failureOf(data.takePoint(pool, { connection, image, pointName: 'p' }, step()))).to.include({
      failure: 'not-begun',
      reason: 'UNKNOWN_CONNECTION',
    });
    await data.closeConnection(pool, connection, step());
    expect(
      fixture.agents.flatMap((agent) => agent.calls).filter((call) => call.method === 'CloseConnection'),
    ).to.deep.equal([]);
  });

  it('refuses an answer that the protocol does not allow', async () => {
    await begin((method) => (method === 'OpenConnection' ? { connectionId: 'c' } : (undefined as never)));
    const { data } = fixture.backends.port;
    const connection = await data.openConnection(pool, step());
    expect(await failureOf(data.takePoint(pool, { connection, image, pointName: 'p' }, step()))).to.include({
      failure: 'unknown',
      reason: 'MALFORMED_ANSWER',
    });
  });

  it('a pool on a cluster that is not configured is refused and the known ones are named', async () => {
    await begin();
    const elsewhere = { ...pool, settings: { ...pool.settings, cluster: 'other' } };
    const error = await failureOf(fixture.backends.port.data.getUsage(elsewhere, image, step()));
    expect(error).to.include({ failure: 'permanent', reason: 'UNKNOWN_CLUSTER' });
    expect(error.message).to.contain('"other"').and.contain('main');
  });

  it('keyring access asks no agent for grants', async () => {
    await begin();
    const keyring = { ...pool, settings: { ...pool.settings, access: 'keyring' as const, keyringUser: 'nova' } };
    const { fence } = fixture.backends.port;
    const access = await fence.grantAccess(
      keyring,
      { exportId: 'exp-1', image, ancestors: [], readOnly: false },
      step(),
    );
    expect(JSON.parse(Buffer.from(access).toString())).to.deep.equal({ mode: 'keyring', user: 'nova' });
    await fence.revokeAccess(keyring, 'exp-1', step());
    expect(await fence.listAccess(keyring, step())).to.deep.equal([]);
    await fence.listClients(keyring, { exportId: 'exp-1', image }, step());
    const asked = fixture.agents
      .flatMap((agent) => agent.calls)
      .filter(({ method }) => method !== 'Hello' && method !== 'GetPool');
    expect(asked.map((call) => call.method)).to.deep.equal(['ListClients']);
    expect(asked[0]?.request.exportId).to.equal('');
  });

  it('a watch that a client left which is cut off keeps nothing from being deleted or purged', async () => {
    const dead = '10.0.0.5:0/7';
    const asked: unknown[] = [];
    await begin((method, request) => {
      if (method === 'ListCutOff') return { entries: [{ address: dead }] };
      if (method === 'GetUsage') {
        return {
          holders: [
            { address: dead, watches: true },
            { address: '10.0.0.6:0/8', watches: true },
          ],
        };
      }
      if (method !== 'TrashImage' && method !== 'PurgeImage') return undefined as never;
      asked.push(request.cutOffAddresses);
      if ((request.cutOffAddresses as string[]).includes(dead)) return {};
      throw refusal(status.FAILED_PRECONDITION, 'IN_USE', {});
    });
    const { data } = fixture.backends.port;
    await data.trashImage(pool, { image, defermentSeconds: 0 }, step());
    await data.purgeImage(pool, { image, catalogueKey: '' }, step());
    expect(asked).to.deep.equal([[], [dead], [], [dead]]);
    const holders = await data.getUsage(pool, image, step());
    expect(holders.map(({ address }) => address)).to.deep.equal(['10.0.0.6:0/8']);
  });

  it('keeps what it knows of a pool: no agent is asked for it again, also when it hangs', async () => {
    let hangs = false;
    await begin((method) => {
      if (method !== 'GetPool') return undefined as never;
      return hangs
        ? 'silent'
        : { capacityBytes: '1000', freeBytes: '400', connector: 'rbd', connectorJson: Buffer.from('{}') };
    });
    const { data } = fixture.backends.port;
    expect(data.poolStatus(pool).health).to.equal('unknown');
    expect((await data.connectorFacts(pool)).connector).to.equal('rbd');
    expect(data.poolStatus(pool)).to.include({ health: 'ready', capacityBytes: 1000, freeBytes: 400 });
    hangs = true;
    expect((await failureOf(data.probePool(pool, step(50)))).failure).to.equal('unknown');
    expect(data.poolStatus(pool).health).to.equal('ready');
    expect((await failureOf(data.probePool(pool, step(50)))).failure).to.equal('unknown');
    expect(data.poolStatus(pool)).to.include({ health: 'unavailable', freeBytes: 400 });
    expect((await data.connectorFacts(pool)).connector).to.equal('rbd');
  });

  it('a pool that can never be read says so to whoever needs it', async () => {
    await begin((method) => {
      if (method === 'GetPool') throw refusal(status.NOT_FOUND, 'ENOENT');
      return undefined as never;
    });
    expect(await failureOf(fixture.backends.port.data.connectorFacts(pool))).to.include({ failure: 'permanent' });
    expect(fixture.backends.port.data.poolStatus(pool).health).to.equal('unavailable');
  });
});
