import { status } from '@grpc/grpc-js';
import { expect } from 'chai';
import { Controllers } from '../../src/agents/rbd/controllers.js';
import { checkKey, checkLimit, checkName, checkSize, readImage } from '../../src/agents/rbd/data/record.js';
import { SingleFlight } from '../../src/agents/rbd/data/single-flight.js';
import { Lane, Lanes } from '../../src/agents/rbd/lanes.js';
import { parseAddresses } from '../../src/agents/rbd/librbd/cluster.js';
import { Decoder, Encoder } from '../../src/agents/rbd/librbd/encoding.js';
import { CephError, isCephError, nameOfErrno } from '../../src/agents/rbd/librbd/errors.js';
import { parseAgentOptions } from '../../src/agents/rbd/options.js';
import { Pace, Paces } from '../../src/agents/rbd/pace.js';
import { StepError, toGrpcStatus, toStepError } from '../../src/agents/rbd/step-error.js';
import { waitFor } from '../helpers/wait.js';

/** Work that ends when it is told to. */
function gate(): { readonly work: () => Promise<void>; readonly open: () => void; begun: boolean } {
  let release = (): void => undefined;
  const opened = new Promise<void>((resolve) => {
    release = resolve;
  });
  const self = {
    begun: false,
    open: () => release(),
    work: () => {
      self.begun = true;
      return opened;
    },
  };
  return self;
}

const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const never = (): boolean => false;

describe('RBD agent: lanes', () => {
  it('runs so many, lets so many wait, and refuses the rest as not begun', async () => {
    const lane = new Lane('pool p', { concurrent: 2, queued: 1 });
    const gates = [gate(), gate(), gate()];
    const runs = gates.map((each) => lane.run(undefined, never, each.work));
    await settle();
    expect(gates.map((each) => each.begun)).to.deep.equal([true, true, false]);
    const refusal = await lane.run(undefined, never, async () => undefined).catch((error: unknown) => error);
    expect(refusal).to.include({ code: status.RESOURCE_EXHAUSTED, reason: 'LANE_FULL' });
    gates[0]?.open();
    await runs[0];
    await settle();
    expect(gates[2]?.begun).to.equal(true);
    for (const each of gates) each.open();
    await Promise.all(runs);
    await lane.run(undefined, never, async () => undefined);
  });

  it('runs what has the same subject one after the other, past failures', async () => {
    const lane = new Lane('pool p', { concurrent: 8, queued: 8 });
    const order: string[] = [];
    const first = gate();
    const runs = [
      lane.run('a', never, async () => {
        await first.work();
        order.push('a1');
        throw new Error('failed');
      }),
      lane.run('a', never, async () => {
        order.push('a2');
      }),
      lane.run('b', never, async () => {
        order.push('b');
      }),
    ];
    await runs[2];
    first.open();
    await Promise.allSettled(runs);
    expect(order).to.deep.equal(['b', 'a1', 'a2']);
  });

  it('does not begin what is too late', async () => {
    const lane = new Lane('pool p', { concurrent: 1, queued: 8 });
    const late = gate();
    const refusal = await lane.run(undefined, () => true, late.work).catch((error: unknown) => error);
    expect(refusal).to.include({ code: status.DEADLINE_EXCEEDED, reason: 'NOT_BEGUN' });
    expect(late.begun).to.equal(false);
  });

  it('gives each pool and kind its own', () => {
    const limits = { concurrent: 1, queued: 0 };
    const lanes = new Lanes({ steps: limits, reads: limits, polls: limits });
    expect(lanes.of('a', 'steps')).to.equal(lanes.of('a', 'steps'));
    expect(lanes.of('a', 'steps')).to.not.equal(lanes.of('a', 'reads'));
    expect(lanes.of('a', 'steps')).to.not.equal(lanes.of('b', 'steps'));
  });

  it('joins a second purge of the same to the first', async () => {
    const flights = new SingleFlight();
    const first = gate();
    let runs = 0;
    const work = (): Promise<void> => {
      runs += 1;
      return first.work();
    };
    const both = [flights.run('a', work), flights.run('a', work)];
    first.open();
    await Promise.all(both);
    expect(runs).to.equal(1);
    await flights.run('a', work);
    expect(runs).to.equal(2);
  });
});

describe('RBD agent: work that nobody waits for', () => {
  it('gives way to steps that come one after the other, and goes on when they are over', async () => {
    const pace = new Pace(60_000);
    const order: string[] = [];
    const first = gate();
    const running = pace.foreground(first.work);
    const piece = pace.background(async () => order.push('piece'));
    await settle();
    first.open();
    await running;
    await pace.foreground(async () => order.push('step'));
    await piece;
    expect(order).to.deep.equal(['step', 'piece']);
  });

  it('is not starved by a step that never ends, nor stopped by a piece that fails', async () => {
    const pace = new Pace();
    const endless = gate();
    const running = pace.foreground(endless.work);
    const failure = await pace.background(() => Promise.reject(new Error('failed'))).catch((error: unknown) => error);
    expect(failure).to.be.an('error').with.property('message', 'failed');
    expect(await pace.background(async () => 'done')).to.equal('done');
    endless.open();
    await running;
  });

  it('runs a piece at a time on a pool, beside those of other pools', async () => {
    const paces = new Paces();
    const stuck = gate();
    const [first, second] = [gate(), gate()];
    const runs = [paces.of('stuck').background(stuck.work), paces.of('a').background(first.work)];
    runs.push(paces.of('a').background(second.work));
    await waitFor('the piece of the other pool', () => first.begun && stuck.begun);
    expect(second.begun).to.equal(false);
    first.open();
    await waitFor('the next piece', () => second.begun);
    for (const each of [second, stuck]) each.open();
    await Promise.all(runs);
  });
});

describe('RBD agent: errors', () => {
  it('names what Ceph returns', () => {
    const names = [1, 2, 11, 13, 16, 17, 28, 30, 39, 95, 108, 110, 116, 122, 125].map(nameOfErrno);
    expect(names.join(' ')).to.equal(
      'EPERM ENOENT EAGAIN EACCES EBUSY EEXIST ENOSPC EROFS ENOTEMPTY EOPNOTSUPP ESHUTDOWN ETIMEDOUT ESTALE EDQUOT ECANCELED',
    );
    expect(nameOfErrno(9999)).to.equal('E9999');
    expect(isCephError(new CephError('rbd_open', -2), 'ENOENT')).to.equal(true);
    expect(isCephError(new Error('ENOENT'), 'ENOENT')).to.equal(false);
  });

  it('tells permanent failures from unknown outcomes', () => {
    const codeOf = (errno: number): status => toStepError(new CephError('rbd_open', -errno)).code;
    expect(codeOf(2)).to.equal(status.NOT_FOUND);
    expect(codeOf(28)).to.equal(status.RESOURCE_EXHAUSTED);
    expect(codeOf(122)).to.equal(status.RESOURCE_EXHAUSTED);
    expect(codeOf(110)).to.equal(status.DEADLINE_EXCEEDED);
    for (const unknown of [1, 13, 30, 108]) expect(codeOf(unknown)).to.equal(status.UNAVAILABLE);
    expect(codeOf(5)).to.equal(status.INTERNAL);
    const closing = new AggregateError([new Error('a'), new CephError('rbd_close', -110)], 'both');
    expect(toStepError(closing).reason).to.equal('ETIMEDOUT');
    expect(toStepError('text').code).to.equal(status.INTERNAL);
  });

  it('carries no stack trace', () => {
    const sent = toGrpcStatus(new StepError(status.NOT_FOUND, 'ENOENT', 'it is not there'));
    expect(sent.details).to.equal('it is not there');
    const bytes = sent.metadata?.get('grpc-status-details-bin')[0];
    expect(String(bytes)).to.include('moorage.backend').and.not.include('agents-rbd.test');
  });
});

describe('RBD agent: what it reads', () => {
  it('encodes and decodes as Ceph does', () => {
    const bytes = new Encoder()
      .u64(4n)
      .structure(2, 1, (body) => {
        body.u64(1n).text('10ab').text('');
      })
      .bytes();
    expect(bytes.toString('hex')).to.equal(
      ['0400000000000000', '0201', '14000000', '0100000000000000', '04000000', '31306162', '00000000'].join(''),
    );
    const decoder = new Decoder(bytes);
    expect(decoder.u64()).to.equal(4n);
    const { version, body } = decoder.structure();
    expect([version, body.i64(), body.text(), body.text()]).to.deep.equal([2, 1n, '10ab', '']);
    expect(() => body.u8()).to.throw(RangeError);
    expect(() => new Decoder(Buffer.from('ffffffff', 'hex')).text()).to.throw(RangeError);
  });

  it('splits addresses', () => {
    expect(parseAddresses('10.0.0.5:0/123')).to.deep.equal(['10.0.0.5:0/123']);
    expect(parseAddresses('[v2:10.0.0.5:0/1,v1:10.0.0.5:0/1]')).to.deep.equal(['10.0.0.5:0/1']);
    expect(parseAddresses('[fd00::5]:0/7')).to.deep.equal(['[fd00::5]:0/7']);
    expect(parseAddresses('v1:[fd00::5]:0/7')).to.deep.equal(['[fd00::5]:0/7']);
  });

  it('checks names, sizes and keys', () => {
    for (const bad of ['', 'a/b', 'a@b', '-a', 'a b', 'a\n', 'é', 'x'.repeat(96)]) {
      expect(() => checkName('name', bad), bad).to.throw(StepError);
    }
    expect(checkName('name', 'vol-0123456789abcdef0.2')).to.equal('vol-0123456789abcdef0.2');
    for (const bad of ['0', '-1', '1.5', '1e9', '', '99999999999999999999']) {
      expect(() => checkSize('size_bytes', bad), bad).to.throw(StepError);
    }
    expect(checkSize('size_bytes', '1')).to.equal(1n);
    expect(() => checkKey('key', 'a b')).to.throw(StepError);
    expect(() => checkLimit(0)).to.throw(StepError);
    expect(checkLimit(100_000)).to.equal(1000);
    const image = { name: 'a', backendId: '', sizeBytes: '0', largestSizeBytes: '0', points: [], parent: null };
    expect(readImage('image', image)).to.deep.include({ id: undefined, sizeBytes: 0n });
    expect(() => readImage('image', { ...image, backendId: 'a.b' })).to.throw('image.backend_id');
    expect(() => readImage('image', null)).to.throw('image');
  });

  it('knows controllers by their Hello until they are fenced', () => {
    const controllers = new Controllers();
    expect(() => controllers.check('a'))
      .to.throw(StepError)
      .with.property('reason', 'NO_HELLO');
    controllers.hello('a');
    controllers.check('a');
    controllers.fence('a');
    expect(() => controllers.check('a'))
      .to.throw(StepError)
      .with.property('reason', 'FENCED');
  });

  it('reads its command line', () => {
    const required = '--role data --socket s --ceph-conf c --user u --keyring k --lock-file l'.split(' ');
    const options = parseAgentOptions([...required, '--threads', '48'], '64');
    expect(options).to.include({ role: 'data', threads: 48, lane: 16, laneQueue: 1000, osdTimeoutSeconds: 30 });
    expect(() => parseAgentOptions([...required, '--threads', '65'], '64')).to.throw('UV_THREADPOOL_SIZE=64');
    expect(() => parseAgentOptions([...required, '--threads', '8'], undefined)).to.throw('unset');
    expect(() => parseAgentOptions([...required, '--lane', '9'], '8')).to.throw('--lane');
  });
});
