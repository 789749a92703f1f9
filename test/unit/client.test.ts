import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { type AddressInfo, connect as connectSocket, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import {
  connect,
  MoorageCallError,
  type MoorageClient,
  pages,
  toDate,
  waitForOperation,
} from '../../src/client/index.js';
import { MoorageError } from '../../src/core/errors.js';
import { services as definitions } from '../../src/rpc/definitions.js';
import { TestAuthority } from '../helpers/certificates.js';
import { fakeServices, type SeenCall, sampleVolume } from '../helpers/fake-services.js';
import { plainListener, serve, type TestServer } from '../helpers/server.js';

async function failure(promise: Promise<unknown>): Promise<MoorageCallError> {
  try {
    await promise;
  } catch (error) {
    expect(error).to.be.instanceOf(MoorageCallError);
    return error as MoorageCallError;
  }
  throw new Error('it did not fail');
}

const tokenOf = (call: SeenCall | undefined) => (call?.request as { clientToken: string } | undefined)?.clientToken;

describe('the client library', () => {
  let running: TestServer | undefined;
  let client: MoorageClient | undefined;
  afterEach(async () => {
    client?.close();
    await running?.server.stop(0);
    running = undefined;
  });

  async function started(methods: Parameters<typeof fakeServices>[0]) {
    const fake = fakeServices(methods);
    running = await serve(fake.services, [plainListener]);
    client = connect({ endpoints: [running.server.addresses[0] ?? ''] });
    return { ...fake, client };
  }

  const created = async () => ({ resource: { value: sampleVolume, etag: 'e' }, operationId: 'op-1' });

  it('has every method of the API', async () => {
    const { client } = await started({});
    const names = Object.values(definitions).flatMap((definition) => Object.keys(definition));
    expect(names.length).to.be.above(25);
    for (const name of names) {
      expect(client, name)
        .to.have.property(name.charAt(0).toLowerCase() + name.slice(1))
        .that.is.a('function');
    }
  });

  it('answers with typed messages, and makes a client token for a change that has none', async () => {
    const { client, seen } = await started({ 'volumes.create': created });
    const answer = await client.createVolume({ poolId: 'ssd', sizeBytes: 10_737_418_240 });
    expect(answer.volume?.sizeBytes).to.equal('10737418240');
    expect(toDate(answer.volume?.createTime ?? null)?.getTime()).to.equal(sampleVolume.createTime);
    expect(tokenOf(seen[0])).to.match(/^[0-9a-f-]{36}$/);
    await client.createVolume({ clientToken: 'mine' });
    expect(tokenOf(seen[1])).to.equal('mine');
  });

  it('sends no number that the message would cut: a fraction is refused, and its field named', async () => {
    const { client, seen } = await started({ 'volumes.create': created, 'exports.grant': created });
    for (const sizeBytes of [1_048_576.5, Number.NaN, Number.POSITIVE_INFINITY]) {
      const error = await failure(client.createVolume({ poolId: 'ssd', sizeBytes }));
      expect(error).to.include({ method: 'CreateVolume', code: 'INVALID_ARGUMENT' });
      expect(error.message).to.contain('size_bytes').and.to.contain(String(sizeBytes));
      expect(error.fieldViolations[0]?.field).to.equal('size_bytes');
    }
    const nested = await failure(client.grantExport({ volumeId: 'x', lifetime: { seconds: 1.5, nanos: 0 } }));
    expect(nested.fieldViolations[0]?.field).to.equal('lifetime.seconds');
    expect(seen).to.deep.equal([]);
  });

  it('throws what went wrong, typed', async () => {
    const { client } = await started({
      'volumes.delete': async () => {
        throw new MoorageError('FAILED_PRECONDITION', 'In use.', {
          reason: 'VOLUME_IN_USE',
          metadata: { node_id: 'nc-a' },
          fieldViolations: [{ field: 'volume_id', description: 'in use' }],
        });
      },
    });
    const error = await failure(client.deleteVolume({ volumeId: 'x' }, { requestId: 'r-1' }));
    expect(error).to.include({
      method: 'DeleteVolume',
      code: 'FAILED_PRECONDITION',
      reason: 'VOLUME_IN_USE',
      message: 'In use.',
      requestId: 'r-1',
    });
    expect(error.metadata).to.deep.equal({ node_id: 'nc-a' });
    expect(error.fieldViolations).to.deep.equal([{ field: 'volume_id', description: 'in use' }]);
  });

  it('tries again with the same token while the controller is unavailable or busy, and not after other errors', async () => {
    let left = 3;
    const { client, seen } = await started({
      'volumes.create': async () => {
        left -= 1;
        if (left === 2) throw new MoorageError('UNAVAILABLE', 'not now', { retryAfterMilliseconds: 1 });
        if (left === 1) throw new MoorageError('RESOURCE_EXHAUSTED', 'busy', { reason: 'TOO_MANY_CALLS' });
        return created();
      },
      'volumes.get': async () => {
        throw new MoorageError('RESOURCE_EXHAUSTED', 'full', { reason: 'POOL_FULL' });
      },
    });
    await client.createVolume({});
    expect(seen).to.have.length(3);
    expect(new Set(seen.map(tokenOf)).size).to.equal(1);
    expect((await failure(client.getVolume({ volumeId: 'x' }))).reason).to.equal('POOL_FULL');
    expect(seen).to.have.length(4);
  });

  it('gives up when its time is over, and says why it failed', async () => {
    const { client } = await started({
      'volumes.get': async () => {
        throw new MoorageError('UNAVAILABLE', 'not now');
      },
      'volumes.list': () => new Promise(() => undefined),
    });
    const unavailable = await failure(client.getVolume({}, { deadlineMilliseconds: 2000 }));
    expect(unavailable.code).to.equal('UNAVAILABLE');
    const late = await failure(client.listVolumes({}, { deadlineMilliseconds: 200 }));
    expect(late.code).to.equal('DEADLINE_EXCEEDED');
  });

  it('turns to the next endpoint when one does not answer', async () => {
    await started({ 'volumes.get': async () => ({ value: sampleVolume, etag: '' }) });
    client?.close();
    const nowhere = join(tmpdir(), 'moorage-nobody-here.sock');
    client = connect({ endpoints: [`unix:${nowhere}`, running?.server.addresses[0] ?? ''] });
    const { volume } = await client.getVolume({ volumeId: sampleVolume.id });
    expect(volume?.id).to.equal(sampleVolume.id);
  });

  it('turns to the next endpoint when one has fallen silent', async () => {
    await started({ 'volumes.get': async () => ({ value: sampleVolume, etag: '' }) });
    client?.close();
    const address = running?.server.addresses[0] ?? '';
    const frozen = await startFreezable(address);
    try {
      client = connect({ endpoints: [frozen.endpoint, address], silenceMilliseconds: 300 });
      expect((await client.getVolume({ volumeId: sampleVolume.id })).volume?.id).to.equal(sampleVolume.id);
      const passed = frozen.connections();
      expect(passed).to.be.above(0);
      frozen.freeze();
      expect((await client.getVolume({ volumeId: sampleVolume.id })).volume?.id).to.equal(sampleVolume.id);
      client.close();
      // Nor does one that is silent from the beginning hold a call up for good.
      client = connect({ endpoints: [frozen.endpoint, address], silenceMilliseconds: 300 });
      expect((await client.getVolume({ volumeId: sampleVolume.id })).volume?.id).to.equal(sampleVolume.id);
    } finally {
      await frozen.close();
    }
  });

  it('ends its waiting when it is told to', async () => {
    const abort = new AbortController();
    const { client } = await started({
      'volumes.get': () => {
        abort.abort();
        return new Promise(() => undefined);
      },
    });
    expect((await failure(client.getVolume({}, { signal: abort.signal }))).code).to.equal('CANCELLED');
    expect((await failure(client.getVolume({}, { signal: abort.signal }))).code).to.equal('CANCELLED');
  });

  it('waits for an operation and goes through pages', async () => {
    const operation = {
      id: 'op-1',
      kind: 'volume.create',
      resourceId: 'vol-1',
      phase: 'create-image',
      progressPercent: 0,
      statusMessage: '',
      principal: 'local',
      createTime: 0,
      updateTime: 0,
    };
    let waits = 0;
    const { client } = await started({
      'operations.wait': async () => {
        waits += 1;
        return { ...operation, state: waits < 3 ? 'running' : 'succeeded' };
      },
      'nodes.list': async ({ pageToken }: { pageToken: string }) => ({
        items: [],
        nextPageToken: pageToken === '' ? 'second' : '',
      }),
    });
    const heard: string[] = [];
    const ended = await waitForOperation(client, 'op-1', {
      timeoutMilliseconds: 60_000,
      onProgress: ({ phase }) => heard.push(phase),
    });
    expect(ended.state).to.equal('OPERATION_STATE_SUCCEEDED');
    expect(heard).to.deep.equal(['create-image', 'create-image']);
    const tokens: string[] = [];
    for await (const page of pages((pageToken) => client.listNodes({ pageToken }))) tokens.push(page.nextPageToken);
    expect(tokens).to.deep.equal(['second', '']);
  });

  it('reaches nothing beyond this host without TLS, and a TLS server with it', async () => {
    expect(() => connect({ endpoints: ['storage.example.org:7420'] })).to.throw(TypeError, 'tls');
    const folder = mkdtempSync(join(tmpdir(), 'moorage-client-'));
    try {
      const authority = new TestAuthority(folder);
      const { certificate, key } = authority.server();
      const fake = fakeServices({ 'volumes.get': async () => ({ value: sampleVolume, etag: '' }) });
      running = await serve(fake.services, [
        { address: 'localhost:0', security: { kind: 'tls', certificate, key, clientCa: authority.certificate } },
      ]);
      const own = authority.client('alice', '/OU=reader/CN=alice');
      client = connect({
        endpoints: [running.server.addresses[0] ?? ''],
        tls: {
          ca: readFileSync(authority.certificate),
          certificate: readFileSync(own.certificate),
          key: readFileSync(own.key),
        },
      });
      await client.getVolume({ volumeId: sampleVolume.id });
      expect(fake.seen[0]?.caller).to.include({ name: 'alice', role: 'reader' });
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});

/** A way to a server that can be made to fall silent, as a host that freezes: connections stand, and are even taken. */
async function startFreezable(target: string): Promise<{
  readonly endpoint: string;
  readonly connections: () => number;
  readonly freeze: () => void;
  readonly close: () => Promise<void>;
}> {
  const sockets: Socket[] = [];
  let frozen = false;
  let connections = 0;
  const server = createServer((near) => {
    connections += 1;
    sockets.push(near);
    near.on('error', () => undefined);
    if (frozen) return;
    const far = target.startsWith('unix:')
      ? connectSocket(target.slice('unix:'.length))
      : connectSocket(Number(target.slice(target.lastIndexOf(':') + 1)), '127.0.0.1');
    far.on('error', () => undefined);
    sockets.push(far);
    near.on('data', (bytes) => frozen || far.write(bytes));
    far.on('data', (bytes) => frozen || near.write(bytes));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    endpoint: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    connections: () => connections,
    freeze: () => {
      frozen = true;
    },
    close: async () => {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
