import { connect as connectHttp2 } from 'node:http2';
import { credentials, type ServiceError, status } from '@grpc/grpc-js';
import { expect } from 'chai';
import { connect, type MoorageClient, type WatchEvent } from '../../src/client/index.js';
import { MoorageError } from '../../src/core/errors.js';
import type { EventService, WatchRequest } from '../../src/core/services/types.js';
import { clients } from '../../src/rpc/definitions.js';
import { fakeServices, sampleExport, sampleVolume } from '../helpers/fake-services.js';
import { plainListener, realClock, serve, type TestServer } from '../helpers/server.js';
import { waitFor } from '../helpers/wait.js';

const volume = (resumeToken: string, displayName = 'db') => ({
  kind: 'volume' as const,
  resource: { value: { ...sampleVolume, displayName }, etag: '7' },
  resumeToken,
});

describe('watching over gRPC', function () {
  this.timeout(60_000);
  const servers: TestServer[] = [];
  const opened: { close(): void }[] = [];
  afterEach(async () => {
    for (const client of opened.splice(0)) client.close();
    await Promise.all(servers.splice(0).map(({ server }) => server.stop(0)));
  });

  async function started(watch: EventService['watch'], clock = realClock) {
    const fake = fakeServices({ 'events.watch': watch });
    const test = await serve(fake.services, [plainListener], undefined, clock);
    servers.push(test);
    const endpoint = test.server.addresses[0] ?? '';
    return { ...fake, test, endpoint };
  }

  function client(...endpoints: string[]): MoorageClient {
    const made = connect({ endpoints, silenceMilliseconds: 1_000 });
    opened.push(made);
    return made;
  }

  /** A client without anything of ours. */
  function bare(endpoint: string) {
    const made = new clients.event(endpoint, credentials.createInsecure());
    opened.push(made);
    return made;
  }

  const asked = (seen: readonly { readonly request: unknown }[]) =>
    seen.map(({ request }) => (request as WatchRequest).resumeToken);

  it('carries every kind of event, with its token', async () => {
    const { endpoint, seen } = await started(async function* () {
      yield volume('t1');
      yield { kind: 'export', resource: { value: sampleExport, etag: '8' }, resumeToken: 't2' };
      yield { kind: 'gone', type: 'snapshot', id: 's', goneTime: 1_700_000_000_123, reason: 'why', resumeToken: 't3' };
      yield { kind: 'synced', resumeToken: 't4' };
      yield { kind: 'bookmark', resumeToken: 't5' };
      throw new MoorageError('OUT_OF_RANGE', 'too old', { reason: 'RESUME_TOKEN_EXPIRED' });
    });
    const events: WatchEvent[] = [];
    let failure: unknown;
    try {
      const request = { types: ['RESOURCE_TYPE_VOLUME' as const, 'RESOURCE_TYPE_EXPORT' as const], poolId: 'ssd' };
      for await (const event of client(endpoint).watch(request)) events.push(event);
    } catch (error) {
      failure = error;
    }
    expect(failure).to.include({ code: 'OUT_OF_RANGE', reason: 'RESUME_TOKEN_EXPIRED', method: 'Watch' });
    expect(events.map(({ event, resumeToken }) => `${event} ${resumeToken}`)).to.deep.equal([
      'volume t1',
      'export t2',
      'gone t3',
      'synced t4',
      'bookmark t5',
    ]);
    expect(events[0]?.volume).to.deep.include({ id: sampleVolume.id, state: 'VOLUME_STATE_AVAILABLE', etag: '7' });
    expect(JSON.stringify(events[1])).not.to.include(sampleExport.sealedAccess);
    expect(events[2]?.gone).to.deep.equal({
      type: 'RESOURCE_TYPE_SNAPSHOT',
      id: 's',
      goneTime: { seconds: '1700000000', nanos: 123_000_000 },
      reason: 'why',
    });
    expect(seen[0]?.request).to.deep.equal({ resumeToken: '', types: ['volume', 'export'], poolId: 'ssd' });
  });

  it('refuses a kind that it does not know, and bytes that are no message', async () => {
    const { endpoint, seen } = await started(async function* () {
      yield volume('t');
    });
    const raw = bare(endpoint);
    const fail = (bytes: Buffer) =>
      new Promise<ServiceError>((resolve) => {
        const path = '/moorage.v1.EventService/Watch';
        raw
          .makeServerStreamRequest(
            path,
            () => bytes,
            (data) => data,
            {},
          )
          .on('data', () => undefined)
          .on('error', resolve);
      });
    const unknown = await fail(Buffer.from([0x10, 99]));
    expect(unknown.code).to.equal(status.INVALID_ARGUMENT);
    expect(unknown.details).to.include('types').and.to.include('RESOURCE_TYPE_OPERATION');
    expect((await fail(Buffer.from([0xff]))).code).to.equal(status.INVALID_ARGUMENT);
    expect(seen).to.deep.equal([]);
  });

  it('reads no further than the caller takes, and goes on when it does', async () => {
    let made = 0;
    const { endpoint } = await started(async function* () {
      for (;;) {
        made += 1;
        yield volume(`t${made}`, 'x'.repeat(8_192));
        if (made % 64 === 0) await new Promise((resolve) => setImmediate(resolve));
      }
    });
    const session = connectHttp2(`http://${endpoint}`);
    try {
      const path = '/moorage.v1.EventService/Watch';
      const stream = session.request({
        ':method': 'POST',
        ':path': path,
        'content-type': 'application/grpc',
        te: 'trailers',
      });
      stream.end(Buffer.alloc(5));
      await waitFor('the buffers to be full', async () => {
        const before = made;
        await new Promise((resolve) => setTimeout(resolve, 200));
        return made > 0 && made === before;
      });
      // What fits into the windows of HTTP/2 and the stream's own buffer.
      expect(made).to.be.below(200);
      const full = made;
      stream.resume();
      await waitFor('the watch to go on', async () => made > full + 500);
    } finally {
      session.destroy();
    }
  });

  /** Many large messages behind the place of the token, and then silence; and whether somebody reads. */
  function manyFrom(messages: number) {
    const made = { last: 0, running: 0 };
    const watch: EventService['watch'] = async function* ({ resumeToken }, caller) {
      made.running += 1;
      try {
        for (let next = Number(resumeToken.slice(1)) + 1; next <= messages; next += 1) {
          made.last = next;
          yield volume(`t${next}`, 'x'.repeat(8_192));
        }
        await new Promise<void>((resolve) => caller.signal?.addEventListener('abort', () => resolve()));
      } finally {
        made.running -= 1;
      }
    };
    return { made, watch };
  }

  /** A clock on which a minute passes when the test says so: for each who waits for one then. */
  function clockOfMinutes() {
    const waiting = new Set<() => void>();
    const clock: typeof realClock = {
      ...realClock,
      sleep: (milliseconds, signal) =>
        milliseconds < 60_000
          ? realClock.sleep(milliseconds, signal)
          : new Promise((resolve) => {
              waiting.add(resolve);
              signal?.addEventListener('abort', () => {
                waiting.delete(resolve);
                resolve();
              });
            }),
    };
    const pass = (): void => {
      for (const wake of waiting) wake();
    };
    return { clock, waiting, pass };
  }

  it('ends a stream off which nothing was taken for a minute, and says so behind what was written', async () => {
    const { clock, waiting, pass } = clockOfMinutes();
    const { made, watch } = manyFrom(10_000);
    const { endpoint, test } = await started(watch, clock);
    const session = connectHttp2(`http://${endpoint}`);
    try {
      const path = '/moorage.v1.EventService/Watch';
      const headers = { ':method': 'POST', ':path': path, 'content-type': 'application/grpc', te: 'trailers' };
      const stream = session.request(headers);
      stream.end(Buffer.alloc(5));
      await waitFor('the stream to be full', async () => {
        const before = made.last;
        await new Promise((resolve) => setTimeout(resolve, 200));
        return waiting.size === 1 && made.last === before;
      });
      expect(made.running).to.equal(1);
      pass();
      await waitFor('nobody to read any more', async () => made.running === 0);
      const written = made.last;
      expect(test.unexpected).to.deep.equal([]);
      const trailers = new Promise<Record<string, unknown>>((resolve) => stream.once('trailers', resolve));
      let bytes = 0;
      stream.on('data', (chunk: Buffer) => {
        bytes += chunk.length;
      });
      expect(await trailers).to.include({ 'grpc-status': String(status.UNAVAILABLE) });
      expect(bytes).to.be.above(written * 8_192);
      await waitFor('it to be counted', async () => test.ended.length === 1);
      expect(test.ended[0]).to.include({ code: 'UNAVAILABLE' });
      expect(waiting.size).to.equal(0);
    } finally {
      session.destroy();
    }
  });

  it('a caller who stood still for a minute goes on where it was: it is told everything, and nothing twice', async () => {
    const { clock, waiting, pass } = clockOfMinutes();
    const messages = 600;
    const { made, watch } = manyFrom(messages);
    const { endpoint, seen, test } = await started(watch, clock);
    const tokens: string[] = [];
    for await (const { resumeToken } of client(endpoint).watch({})) {
      tokens.push(resumeToken);
      if (tokens.length === 20) {
        await waitFor('the stream to be full', async () => {
          const before = made.last;
          await new Promise((resolve) => setTimeout(resolve, 200));
          return waiting.size === 1 && made.last === before;
        });
        expect(made.last).to.be.below(messages);
        pass();
        await waitFor('nobody to read any more', async () => made.running === 0);
      }
      if (tokens.length === messages) break;
    }
    expect(tokens).to.deep.equal(Array.from({ length: messages }, (_, index) => `t${index + 1}`));
    expect(seen.length).to.equal(2);
    await waitFor('both to be counted', async () => test.ended.length === 2);
    expect(test.ended.map(({ code }) => code)).to.deep.equal(['UNAVAILABLE', 'CANCELLED']);
  });

  it('ends what it reads when the caller ends the watch, by its signal or by leaving the loop', async () => {
    let running = 0;
    const { endpoint, test } = await started(async function* (_request, caller) {
      running += 1;
      try {
        yield volume('t');
        await new Promise<void>((resolve) => caller.signal?.addEventListener('abort', () => resolve()));
      } finally {
        running -= 1;
      }
    });
    for await (const _ of client(endpoint).watch({})) break;
    await waitFor('the watch to end', async () => test.ended.length === 1 && running === 0);
    const stop = new AbortController();
    for await (const _ of client(endpoint).watch({}, { signal: stop.signal })) stop.abort();
    await waitFor('the second to end', async () => test.ended.length === 2 && running === 0);
    expect(test.ended.map(({ code }) => code)).to.deep.equal(['CANCELLED', 'CANCELLED']);
    expect(test.unexpected).to.deep.equal([]);
  });

  it('a server that stops ends its watches first, with their last word', async () => {
    const { endpoint, test } = await started(async function* (_request, _caller, stopping) {
      yield volume('t1');
      await new Promise<void>((resolve) => stopping.addEventListener('abort', () => resolve()));
      yield { kind: 'bookmark', resumeToken: 't2' };
      throw new MoorageError('UNAVAILABLE', 'stops', { reason: 'WATCH_INTERRUPTED', retryAfterMilliseconds: 1 });
    });
    const tokens: string[] = [];
    const ended = new Promise<ServiceError>((resolve) => {
      const stream = bare(endpoint).Watch({});
      stream.on('data', ({ resumeToken }: WatchEvent) => tokens.push(resumeToken)).on('error', resolve);
    });
    await waitFor('the first word', async () => tokens.length === 1);
    const stopped = test.server.stop(3_600_000);
    expect((await ended).code).to.equal(status.UNAVAILABLE);
    expect(tokens).to.deep.equal(['t1', 't2']);
    for (const each of opened.splice(0)) each.close();
    await stopped;
    servers.splice(0);
  });

  it('the client goes on where it was, at the next endpoint, after an end, a failure and a lost connection', async () => {
    const ends = [
      () => undefined,
      () => {
        throw new MoorageError('UNAVAILABLE', 'stops', { retryAfterMilliseconds: 1 });
      },
      () => {
        throw new MoorageError('RESOURCE_EXHAUSTED', 'full', { reason: 'TOO_MANY_WATCHES', retryAfterMilliseconds: 1 });
      },
    ];
    let turn = 0;
    const watch: EventService['watch'] = async function* (_request, caller) {
      turn += 1;
      yield volume(`t${turn}`);
      const end = ends.shift();
      if (end === undefined)
        await new Promise<void>((resolve) => caller.signal?.addEventListener('abort', () => resolve()));
      else end();
    };
    const one = await started(watch);
    const other = await started(watch);
    const tokens: string[] = [];
    for await (const { resumeToken } of client(one.endpoint, other.endpoint).watch({ poolId: 'ssd' })) {
      tokens.push(resumeToken);
      // Without a word: as a killed process.
      if (tokens.length === 4) void other.test.server.stop(0);
      if (tokens.length === 5) break;
    }
    expect(tokens).to.deep.equal(['t1', 't2', 't3', 't4', 't5']);
    expect([...asked(one.seen), ...asked(other.seen)].sort()).to.deep.equal(['', 't1', 't2', 't3', 't4']);
    expect(other.seen.length).to.be.at.least(1);
  });

  it('the client gives up when it is told to, and at once on what another try does not change', async () => {
    const { endpoint, test } = await started(async function* () {
      yield volume('t');
      throw new MoorageError('PERMISSION_DENIED', 'no');
    });
    const run = async (watching: AsyncGenerator<WatchEvent>) => {
      try {
        for await (const _ of watching);
      } catch (error) {
        return error;
      }
      return undefined;
    };
    expect(await run(client(endpoint).watch({}))).to.include({ code: 'PERMISSION_DENIED' });
    await test.server.stop(0);
    expect(await run(client(endpoint).watch({}, { unreachableMilliseconds: 200 }))).to.include({ code: 'UNAVAILABLE' });
    const signal = AbortSignal.timeout(200);
    expect(await run(client(endpoint).watch({}, { signal }))).to.equal(undefined);
  });

  it('watches are not among the calls that are counted', async () => {
    const fake = fakeServices({
      'events.watch': async function* (_request, caller) {
        yield volume('t');
        await new Promise<void>((resolve) => caller.signal?.addEventListener('abort', () => resolve()));
      } as EventService['watch'],
      'volumes.get': async () => ({ value: sampleVolume, etag: '1' }),
    });
    const test = await serve(fake.services, [plainListener], { messageBytes: 1 << 20, concurrentCalls: 2 });
    servers.push(test);
    const caller = client(test.server.addresses[0] ?? '');
    const watching = [caller.watch({}), caller.watch({}), caller.watch({})];
    for (const each of watching) await each.next();
    expect((await caller.getVolume({ volumeId: sampleVolume.id })).volume?.id).to.equal(sampleVolume.id);
    for (const each of watching) await each.return();
  });
});
