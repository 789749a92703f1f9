import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type CallOptions, credentials, Metadata, type ServiceError, status } from '@grpc/grpc-js';
import { expect } from 'chai';
import { BadRequest, ErrorInfo, RetryInfo } from 'nice-grpc-error-details';
import { Status } from 'nice-grpc-error-details/lib/proto/google/rpc/status.js';
import { MoorageError } from '../../src/core/errors.js';
import { StoreError } from '../../src/core/ports/store.js';
import { clients, services as definitions } from '../../src/rpc/definitions.js';
import { ListenError, type Listener } from '../../src/rpc/index.js';
import { methodRules } from '../../src/rpc/roles.js';
import { TestAuthority } from '../helpers/certificates.js';
import { fakeServices, sampleExport, sampleVolume } from '../helpers/fake-services.js';
import { plainListener, serve, type TestServer } from '../helpers/server.js';

type Answer = { error: ServiceError | undefined; response: Record<string, unknown> | undefined; requestId: string };

/** Calls any method by its path, so that tests can go through all of them. */
function call(
  client: InstanceType<typeof clients.storageController>,
  path: string,
  request: object | Buffer,
  options: CallOptions = { deadline: Date.now() + 60_000 },
  metadata = new Metadata(),
): Promise<Answer> {
  const method = Object.values(definitions)
    .flatMap((definition) => Object.values(definition))
    .find((each) => each.path === path);
  if (method === undefined) throw new Error(path);
  const serialize = (value: object | Buffer) =>
    Buffer.isBuffer(value) ? value : method.requestSerialize(value as never);
  return new Promise((resolve) => {
    let answer: Answer | undefined;
    const unaryCall = client.makeUnaryRequest(
      path,
      serialize,
      method.responseDeserialize as (bytes: Buffer) => unknown,
      request,
      metadata,
      options,
      (error, response) => {
        answer = { error: error ?? undefined, response: response as Answer['response'], requestId: '' };
      },
    );
    unaryCall.on('status', (result) => {
      const requestId = String(result.metadata.get('x-request-id')[0] ?? '');
      setImmediate(() => resolve({ ...(answer ?? { error: undefined, response: undefined }), requestId }));
    });
  });
}

function detailsOf(error: ServiceError | undefined): { info: ErrorInfo; bad?: BadRequest; retry?: RetryInfo } {
  const bytes = error?.metadata.get('grpc-status-details-bin')[0] as Buffer;
  const found = Status.decode(bytes).details;
  const of = (name: string) => found.find((each) => each.typeUrl.endsWith(name))?.value;
  const info = of('ErrorInfo');
  const bad = of('BadRequest');
  const retry = of('RetryInfo');
  return {
    info: ErrorInfo.decode(info ?? new Uint8Array()),
    ...(bad && { bad: BadRequest.decode(bad) }),
    ...(retry && { retry: RetryInfo.decode(retry) }),
  };
}

const storage = '/moorage.v1.StorageControllerService';

describe('the API server', () => {
  let folder: string;
  let running: TestServer | undefined;
  const opened: { close(): void }[] = [];
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'moorage-rpc-'));
  });
  after(() => rmSync(folder, { recursive: true, force: true }));
  afterEach(async () => {
    for (const client of opened.splice(0)) client.close();
    await running?.server.stop(0);
    running = undefined;
  });

  function connectTo(address: string, security = credentials.createInsecure()) {
    const client = new clients.storageController(address, security);
    opened.push(client);
    return client;
  }

  async function plain(methods: Parameters<typeof fakeServices>[0], limits?: Parameters<typeof serve>[2]) {
    const fake = fakeServices(methods);
    running = await serve(fake.services, [plainListener], limits);
    return { ...fake, client: connectTo(running.server.addresses[0] ?? ''), running };
  }

  describe('a call', () => {
    it('reaches the core with its principal, a deadline and a request id that comes back', async () => {
      const { client, seen, running } = await plain({
        'volumes.get': async () => ({ value: sampleVolume, etag: 'e1' }),
      });
      const metadata = new Metadata();
      metadata.set('x-request-id', 'my-request.1');
      const deadline = Date.now() + 20_000;
      const { response, requestId } = await call(
        client,
        `${storage}/GetVolume`,
        { volumeId: sampleVolume.id },
        { deadline },
        metadata,
      );
      expect(requestId).to.equal('my-request.1');
      expect(response?.volume).to.deep.include({
        id: sampleVolume.id,
        sizeBytes: '10737418240',
        state: 'VOLUME_STATE_AVAILABLE',
        etag: 'e1',
        createTime: { seconds: '1700000000', nanos: 123_000_000 },
        deleteTime: null,
        source: { source: 'snapshotId', snapshotId: sampleVolume.sourceSnapshotId },
      });
      const caller = seen[0]?.caller;
      expect(caller).to.include({ name: 'local', role: 'admin', requestId: 'my-request.1' });
      expect((caller?.deadline ?? 0) - performance.now()).to.be.within(1, 20_000);
      expect(running.ended).to.have.length(1);
      expect(running.ended[0]).to.include({ code: 'OK', principal: 'local', method: `${storage}/GetVolume` });
    });

    it('gets an id of its own when what it sends is no id', async () => {
      const { client } = await plain({ 'volumes.get': async () => ({ value: sampleVolume, etag: '' }) });
      const metadata = new Metadata();
      metadata.set('x-request-id', 'with spaces and "quotes"');
      const { requestId } = await call(client, `${storage}/GetVolume`, {}, {}, metadata);
      expect(requestId).to.match(/^[0-9a-f-]{36}$/);
    });

    it('has the default deadline when its caller gave none', async () => {
      const { client, seen } = await plain({ 'volumes.get': async () => ({ value: sampleVolume, etag: '' }) });
      await call(client, `${storage}/GetVolume`, {}, {});
      expect((seen[0]?.caller.deadline ?? 0) - performance.now()).to.be.within(30_000, 60_000);
    });

    it('ends the waiting when its caller goes away', async () => {
      let waiting: AbortSignal | undefined;
      const began = new Promise<void>((resolve) => {
        void plain({
          'volumes.get': (_id: string, caller: { signal: AbortSignal }) => {
            waiting = caller.signal;
            resolve();
            return new Promise(() => undefined);
          },
        }).then(({ client }) => call(client, `${storage}/GetVolume`, {}, { deadline: Date.now() + 2000 }));
      });
      await began;
      await new Promise<void>((resolve) => waiting?.addEventListener('abort', () => resolve()));
      // The caller's own clock and the server's race for who ends the call; that it has ended is what matters.
      expect(running?.ended.map((each) => each.code)).to.have.lengthOf(1);
      expect(running?.ended[0]?.code).to.be.oneOf(['DEADLINE_EXCEEDED', 'CANCELLED']);
    });

    it('never shows what belongs to the core alone', async () => {
      const { client } = await plain({
        'exports.get': async () => ({ value: sampleExport, etag: '' }),
        'volumes.get': async () => ({ value: sampleVolume, etag: '' }),
      });
      const { response } = await call(client, `${storage}/GetExport`, { exportId: sampleExport.id });
      expect(JSON.stringify(response)).not.to.contain(sampleExport.sealedAccess);
    });
  });

  describe('an error', () => {
    it('of the core carries its code, reason, facts and fields', async () => {
      const { client } = await plain({
        'volumes.delete': async () => {
          throw new MoorageError('FAILED_PRECONDITION', 'The volume is in use by node nc-a.', {
            reason: 'VOLUME_IN_USE',
            metadata: { node_id: 'nc-a' },
            fieldViolations: [{ field: 'volume_id', description: 'in use' }],
            retryAfterMilliseconds: 1500,
          });
        },
      });
      const { error } = await call(client, `${storage}/DeleteVolume`, {});
      expect(error?.code).to.equal(status.FAILED_PRECONDITION);
      expect(error?.details).to.equal('The volume is in use by node nc-a.');
      const { info, bad, retry } = detailsOf(error);
      expect(info).to.deep.include({ reason: 'VOLUME_IN_USE', domain: 'moorage', metadata: { node_id: 'nc-a' } });
      expect(bad?.fieldViolations[0]).to.include({ field: 'volume_id', description: 'in use' });
      expect(retry?.retryDelay).to.include({ seconds: 1, nanos: 500_000_000 });
    });

    it('that nobody foresaw says its request id and nothing else; the log gets all of it', async () => {
      const { client, running } = await plain({
        'volumes.get': async () => {
          throw new Error('ENOENT /secret/path AQB0cGhyZWFk==');
        },
      });
      const { error, requestId } = await call(client, `${storage}/GetVolume`, {});
      expect(error?.code).to.equal(status.INTERNAL);
      expect(error?.details).to.contain(requestId);
      expect(JSON.stringify(error?.metadata.toJSON()) + error?.details).not.to.match(/secret|ENOENT|\.ts:/);
      expect(running.unexpected[0]?.requestId).to.equal(requestId);
      expect(String(running.unexpected[0]?.error)).to.contain('ENOENT');
    });

    it('of the store is UNAVAILABLE and to be tried again', async () => {
      const { client } = await plain({
        'volumes.create': async () => {
          throw new StoreError('full', 'SQLITE_FULL /var/lib/moorage/store.db');
        },
      });
      const { error } = await call(client, `${storage}/CreateVolume`, {});
      expect(error?.code).to.equal(status.UNAVAILABLE);
      expect(error?.details).to.contain('full').and.not.to.contain('/var/lib');
      expect(detailsOf(error).retry).not.to.equal(undefined);
    });

    it('with a long text, or half a surrogate pair in it, still arrives', async () => {
      const { client } = await plain({
        'volumes.get': async () => {
          throw new MoorageError('NOT_FOUND', `\ud83d${'x'.repeat(10_000)}`, { metadata: { id: 'y'.repeat(10_000) } });
        },
      });
      const { error } = await call(client, `${storage}/GetVolume`, {});
      expect(error?.code).to.equal(status.NOT_FOUND);
      expect(error?.details.length).to.be.below(1100);
    });
  });

  describe('bad input', () => {
    const bad: [string, object | Buffer, number, string][] = [
      ['CreateVolume', { sizeBytes: '9223372036854775807' }, status.OUT_OF_RANGE, 'size_bytes'],
      ['ExpandVolume', { sizeBytes: '-9223372036854775808' }, status.OUT_OF_RANGE, 'size_bytes'],
      ['CreateVolume', { source: {} }, status.INVALID_ARGUMENT, 'source'],
      ['CreateVolume', { source: { snapshotId: '' } }, status.INVALID_ARGUMENT, 'source.snapshot_id'],
      ['CreateVolume', { source: { volumeId: 'vol-0123456789abcdef0' } }, status.UNIMPLEMENTED, 'source.volume_id'],
      ['ListVolumes', { states: [0] }, status.INVALID_ARGUMENT, 'states'],
      ['ListVolumes', { states: [77] }, status.INVALID_ARGUMENT, 'states'],
      ['Export', { volumeId: 'vol-0123456789abcdef0' }, status.INVALID_ARGUMENT, 'authority'],
      ['Export', { grantId: '' }, status.INVALID_ARGUMENT, 'grant_id'],
      ['GrantExport', { lifetime: { seconds: 0, nanos: 0 } }, status.INVALID_ARGUMENT, 'lifetime'],
      ['GrantExport', { lifetime: { seconds: -1, nanos: 0 } }, status.INVALID_ARGUMENT, 'lifetime'],
    ];
    for (const [method, request, code, field] of bad) {
      it(`${method} ${JSON.stringify(request)} is ${status[code]} and names ${field}`, async () => {
        const { client, seen } = await plain({});
        const { error } = await call(client, `${storage}/${method}`, request);
        expect(error?.code, error?.details).to.equal(code);
        expect(detailsOf(error).bad?.fieldViolations[0]?.field).to.equal(field);
        expect(seen).to.deep.equal([]);
      });
    }

    it('bytes that are no message are INVALID_ARGUMENT', async () => {
      const { client, running } = await plain({});
      const { error } = await call(client, `${storage}/GetVolume`, Buffer.from('ffffffffff', 'hex'));
      expect(error?.code).to.equal(status.INVALID_ARGUMENT);
      expect(running.ended[0]?.code).to.equal('INVALID_ARGUMENT');
    });

    it('a message larger than the limit is RESOURCE_EXHAUSTED', async () => {
      const { client, seen } = await plain({}, { messageBytes: 4096, concurrentCalls: 8 });
      const { error } = await call(client, `${storage}/GetVolume`, { volumeId: 'x'.repeat(5000) });
      expect(error?.code).to.equal(status.RESOURCE_EXHAUSTED);
      expect(seen).to.deep.equal([]);
    });

    it('a pool without settings, or with an access that is unknown, is refused', async () => {
      const { client } = await plain({});
      const without = await call(client, '/moorage.v1.PoolService/CreatePool', { poolId: 'ssd' });
      expect(detailsOf(without.error).bad?.fieldViolations[0]?.field).to.equal('settings');
      const unknown = await call(client, '/moorage.v1.PoolService/CreatePool', { rbd: { access: 9 } });
      expect(detailsOf(unknown.error).bad?.fieldViolations[0]?.field).to.equal('rbd.access');
    });
  });

  it('refuses more calls at once than its limit with a time to try again, and takes them again after', async () => {
    let release = (): void => undefined;
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    const { client, seen } = await plain(
      {
        'volumes.get': async () => {
          await held;
          return { value: sampleVolume, etag: '' };
        },
      },
      { messageBytes: 4096, concurrentCalls: 2 },
    );
    const first = [1, 2].map(() => call(client, `${storage}/GetVolume`, {}));
    while (seen.length < 2) await new Promise((resolve) => setImmediate(resolve));
    const { error } = await call(client, `${storage}/GetVolume`, {});
    expect(error?.code).to.equal(status.RESOURCE_EXHAUSTED);
    expect(detailsOf(error).retry?.retryDelay?.nanos).to.be.above(0);
    release();
    await Promise.all(first);
    expect((await call(client, `${storage}/GetVolume`, {})).error).to.equal(undefined);
  });

  it('has a role for every method, and every role for a method that is there', () => {
    const paths = Object.values(definitions).flatMap((each) => Object.values(each).map((method) => method.path));
    expect(Object.keys(methodRules).sort()).to.deep.equal(paths.sort());
  });

  describe('over TLS', () => {
    let authority: TestAuthority;
    let tls: Listener;
    before(() => {
      authority = new TestAuthority(folder);
      const { certificate, key } = authority.server();
      tls = {
        address: '127.0.0.1:0',
        security: { kind: 'tls', certificate, key, clientCa: authority.certificate },
      };
    });

    function as(authorityOfServer: TestAuthority, pair: { certificate: string; key: string } | undefined) {
      const ca = readFileSync(authorityOfServer.certificate);
      const security =
        pair === undefined
          ? credentials.createSsl(ca)
          : credentials.createSsl(ca, readFileSync(pair.key), readFileSync(pair.certificate));
      return connectTo(running?.server.addresses[0] ?? '', security);
    }

    it('knows the caller by its certificate, and lets each role call exactly what the table says', async () => {
      const fake = fakeServices({});
      running = await serve(fake.services, [tls]);
      for (const role of ['admin', 'node', 'reader'] as const) {
        const client = as(authority, authority.client(role, `/OU=${role}/CN=${role}-1`));
        for (const [path, { roles: allowed }] of Object.entries(methodRules)) {
          fake.seen.length = 0;
          const { error } = await call(
            client,
            path,
            path.endsWith('/CreatePool') ? { rbd: {} } : { grantId: `grant-${'0'.repeat(17)}` },
          );
          if (allowed.includes(role)) {
            expect(error?.code, `${role} ${path}`).to.equal(status.INTERNAL);
            expect(fake.seen[0]?.caller, path).to.include({ name: `${role}-1`, role });
          } else {
            expect(error?.code, `${role} ${path}`).to.equal(status.PERMISSION_DENIED);
            expect(fake.seen, path).to.deep.equal([]);
          }
        }
        client.close();
      }
    });

    it('refuses a caller without a certificate, or with one of another authority', async () => {
      const fake = fakeServices({});
      running = await serve(fake.services, [tls]);
      const other = new TestAuthority(folder, 'other-ca');
      for (const pair of [undefined, other.client('stranger', '/OU=admin/CN=mallory')]) {
        const { error } = await call(as(authority, pair), `${storage}/GetVolume`, {});
        expect(error?.code).to.equal(status.UNAVAILABLE);
      }
      expect(fake.seen).to.deep.equal([]);
    });

    it('refuses a certificate that does not say who it is', async () => {
      const fake = fakeServices({});
      running = await serve(fake.services, [tls]);
      const subjects = [
        '/CN=nobody',
        '/OU=root/CN=alice',
        '/OU=admin',
        '/OU=node/OU=admin/CN=two',
        '/OU=node/CN=a/CN=b',
      ];
      for (const [index, subject] of subjects.entries()) {
        const client = as(authority, authority.client(`bad-${index}`, subject));
        const { error } = await call(client, `${storage}/GetVolume`, {});
        expect(error?.code, subject).to.equal(status.UNAUTHENTICATED);
      }
      expect(fake.seen).to.deep.equal([]);
    });
  });

  describe('listeners', () => {
    const address = () => `unix:${join(folder, 'api.sock')}`;
    const local = (): Listener => ({ ...plainListener, address: address() });

    it('serves on a unix socket that only its mode lets others reach, and over a stale one', async () => {
      const fake = fakeServices({ 'volumes.get': async () => ({ value: sampleVolume, etag: '' }) });
      const stale = createServer();
      await new Promise<void>((resolve) => stale.listen(join(folder, 'stale.sock'), resolve));
      running = await serve(fake.services, [local()]);
      expect(statSync(join(folder, 'api.sock')).mode & 0o777).to.equal(0o600);
      expect((await call(connectTo(address()), `${storage}/GetVolume`, {})).error).to.equal(undefined);
      stale.close();
    });

    it('refuses a socket that another process serves, and a path that is no socket', async () => {
      const fake = fakeServices({});
      running = await serve(fake.services, [local()]);
      const second = await serve(fake.services, [local()]).catch((error: unknown) => error);
      expect(second).to.be.instanceOf(ListenError).with.property('message').that.contains('another process');
      writeFileSync(join(folder, 'file'), '');
      const third = await serve(fake.services, [{ ...plainListener, address: `unix:${join(folder, 'file')}` }]).catch(
        (error: unknown) => error,
      );
      expect(third).to.be.instanceOf(ListenError).with.property('message').that.contains('not a socket');
    });

    it('serves no plain text beyond this host', async () => {
      for (const beyond of ['0.0.0.0:0', '[::]:0', '10.0.0.1:7420', 'example.org:7420']) {
        const error = await serve(fakeServices({}).services, [{ ...plainListener, address: beyond }]).catch(
          (caught: unknown) => caught,
        );
        expect(error, beyond).to.be.instanceOf(ListenError);
      }
    });
  });

  it('drains: a running call gets its answer, and new ones are refused', async () => {
    let release = (): void => undefined;
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    const {
      client,
      seen,
      running: served,
    } = await plain({
      'volumes.get': async () => {
        await held;
        return { value: sampleVolume, etag: '' };
      },
    });
    const slow = call(client, `${storage}/GetVolume`, {});
    while (seen.length < 1) await new Promise((resolve) => setImmediate(resolve));
    const stopped = served.server.stop(60_000);
    const late = await call(connectTo(served.server.addresses[0] ?? ''), `${storage}/GetVolume`, {});
    expect(late.error?.code).to.equal(status.UNAVAILABLE);
    release();
    expect((await slow).error).to.equal(undefined);
    client.close();
    await stopped;
  });
});
