import { expect } from 'chai';
import { runCommand } from '../../src/cli/index.js';
import { MoorageError } from '../../src/core/errors.js';
import type { Operation } from '../../src/core/model/operation.js';
import type { Snapshot, Volume } from '../../src/core/model/resources.js';
import { formatNodePublicKey, generateKeyPair, TEXT_PREFIX } from '../../src/descriptor/index.js';
import { fakeServices, sampleExport, sampleVolume } from '../helpers/fake-services.js';
import { plainListener, serve, type TestServer } from '../helpers/server.js';

const operation: Operation = {
  id: 'op-0123456789abcdef0',
  kind: 'volume.create',
  resourceId: sampleVolume.id,
  poolId: 'ssd',
  owner: 'inc',
  state: 'running',
  phase: 'create-image',
  plan: {},
  locks: [],
  progressPercent: 0,
  statusMessage: '',
  principal: 'local',
  createTime: 1_700_000_000_000,
  updateTime: 1_700_000_000_000,
};

const snapshot: Snapshot = {
  id: 'snap-0123456789abcdef0',
  poolId: 'ssd',
  volumeId: 'vol-aaaaaaaaaaaaaaaaa',
  state: 'completed',
  statusMessage: '',
  sizeBytes: 1_610_612_736,
  displayName: 'nightly',
  tags: {},
  encrypted: false,
  createTime: 1_700_000_000_000,
  updateTime: 1_700_000_000_000,
  pointTime: 1_700_000_000_000,
  cloneDepth: 1,
};

const versioned = <T>(value: T) => ({ value, etag: 'e' });
const changed = <T>(value: T, operationId = '') => ({ resource: versioned(value), operationId });
const page = <T>(...values: T[]) => ({ items: values.map(versioned), nextPageToken: '' });

describe('the moorage command', () => {
  let running: TestServer | undefined;
  afterEach(async () => {
    await running?.server.stop(0);
    running = undefined;
  });

  async function run(methods: Parameters<typeof fakeServices>[0], ...argv: string[]) {
    const fake = fakeServices(methods);
    running = await serve(fake.services, [plainListener]);
    const parts =
      argv[0]?.startsWith('-') || argv.length === 0 ? argv : [...argv, '--endpoint', running.server.addresses[0] ?? ''];
    const result = await capture(...parts);
    await running.server.stop(0);
    return { ...result, seen: fake.seen };
  }

  async function capture(...argv: string[]) {
    const out: string[] = [];
    const err: string[] = [];
    const initialised: unknown[] = [];
    const code = await runCommand(argv, {
      stdout: { write: (text: string) => out.push(text) },
      stderr: { write: (text: string) => err.push(text) },
      initialisePool: async (settings) => {
        initialised.push(settings);
        return { fsid: 'f', pools: ['moorage'], usersMade: ['moorage-data'] };
      },
      authority: () => Promise.reject(new Error('not asked for')),
    });
    return { code, stdout: out.join(''), stderr: err.join(''), initialised };
  }

  describe('volume', () => {
    it('cancels an operation and shows what came of it', async () => {
      const ended = {
        ...operation,
        kind: 'snapshot.create' as const,
        state: 'succeeded' as const,
        cancelRequested: true,
      };
      const methods = {
        'operations.cancel': async () => ended,
        'operations.wait': async () => ended,
        'operations.get': async () => ended,
      };
      const { code, stdout, seen } = await run(methods, 'operation', 'cancel', operation.id);
      expect(code).to.equal(0);
      expect(stdout)
        .to.match(/state: +succeeded/)
        .and.to.match(/cancelled: +yes/);
      expect(seen[0]).to.deep.include({ method: 'operations.cancel', request: operation.id });
    });

    it('create takes a size as people write it, finds the only pool, and shows the volume', async () => {
      const { code, stdout, seen } = await run(
        {
          'pools.list': async () => page({ pool: { id: 'ssd', settings: { backend: 'rbd' }, tags: {} }, status: {} }),
          'volumes.create': async () => changed(sampleVolume, operation.id),
        },
        ...['volume', 'create', '--size', '10GiB', '--name', 'db', '--tag', 'tier=gold', '--tag', 'a=b=c'],
      );
      expect(code).to.equal(0);
      expect(seen[1]?.request).to.deep.include({
        poolId: 'ssd',
        sizeBytes: 10 * 2 ** 30,
        displayName: 'db',
        tags: { tier: 'gold', a: 'b=c' },
      });
      expect(stdout).to.contain(sampleVolume.id).and.to.contain('10GiB').and.to.contain('available');
    });

    it('update sends what was given and nothing else, and refuses an update of nothing', async () => {
      const argv = ['volume', 'update', sampleVolume.id];
      const methods = { 'volumes.update': async () => changed(sampleVolume) };
      const { code, stdout, seen } = await run(
        methods,
        ...[...argv, '--name', 'db', '--tag', 'a.b=c', '--untag', 'owner', '--token', 't1'],
      );
      expect(code).to.equal(0);
      expect(seen[0]?.request).to.deep.equal({
        clientToken: 't1',
        validateOnly: false,
        id: sampleVolume.id,
        etag: '',
        updateMask: ['display_name', 'tags.a.b', 'tags.owner'],
        tags: { 'a.b': 'c' },
        displayName: 'db',
      });
      expect(stdout).to.contain(sampleVolume.id);
      const nameless = await run(methods, ...argv, '--name', '');
      expect(nameless.seen[0]?.request).to.deep.include({ updateMask: ['display_name'], displayName: '' });
      for (const wrong of [[], ['--tag', 'a=b', '--untag', 'a'], ['--untag', '']]) {
        expect(await run(methods, ...argv, ...wrong), wrong.join(' ')).to.deep.include({ code: 2, seen: [] });
      }
    });

    it('create from a snapshot needs neither size nor pool', async () => {
      const { code, seen } = await run(
        { 'volumes.create': async () => changed(sampleVolume) },
        ...['volume', 'create', '--from-snapshot', snapshot.id],
      );
      expect(code).to.equal(0);
      expect(seen[0]?.request).to.include({ sourceSnapshotId: snapshot.id, sizeBytes: 0, poolId: '' });
    });

    it('create without a pool says that there are none, or several', async () => {
      const pool = (id: string) => ({ pool: { id, settings: { backend: 'rbd' }, tags: {} }, status: {} });
      const argv = ['volume', 'create', '--size', '1GiB'];
      const none = await run({ 'pools.list': async () => page() }, ...argv);
      expect(none).to.deep.include({ code: 2, stdout: '' });
      expect(none.stderr).to.contain('moorage pool create');
      const several = await run({ 'pools.list': async () => page(pool('a'), pool('b')) }, ...argv);
      expect(several.code).to.equal(2);
      expect(several.stderr).to.contain('--pool');
    });

    it('waits for what is not done yet, shows progress on stderr, and the result on stdout', async () => {
      let waits = 0;
      const { code, stdout, stderr } = await run(
        {
          'volumes.create': async () =>
            changed({ ...sampleVolume, state: 'creating', operationId: operation.id }, operation.id),
          'operations.wait': async () => {
            waits += 1;
            return waits < 3 ? { ...operation, progressPercent: waits * 10 } : { ...operation, state: 'succeeded' };
          },
          'volumes.get': async () => versioned(sampleVolume),
        },
        ...['volume', 'create', '--size', '1GiB', '--pool', 'ssd'],
      );
      expect(code).to.equal(0);
      expect(stderr).to.equal(
        ['10%', '20%'].map((done) => `volume.create ${sampleVolume.id}: create-image ${done}\n`).join(''),
      );
      expect(stdout).to.contain('available').and.not.to.contain('creating');
    });

    it('ends with 7 when its time is up, and with the code of an operation that failed', async () => {
      const creating = async () =>
        changed({ ...sampleVolume, state: 'creating', operationId: operation.id }, operation.id);
      const argv = ['volume', 'create', '--size', '1GiB', '--pool', 'ssd', '--timeout'];
      const late = await run({ 'volumes.create': creating, 'operations.wait': async () => operation }, ...argv, '1s');
      expect(late).to.deep.include({ code: 7, stdout: '' });
      expect(late.stderr).to.contain(`moorage operation wait ${operation.id}`);
      const failure = { code: 'RESOURCE_EXHAUSTED', message: 'The pool is full.', reason: 'ENOSPC', metadata: {} };
      const failed = await run(
        { 'volumes.create': creating, 'operations.wait': async () => ({ ...operation, state: 'failed', failure }) },
        ...argv,
        '60s',
      );
      expect(failed).to.deep.include({ code: 5, stdout: '', stderr: 'moorage: The pool is full.\n' });
    });

    it('list draws a table that nobody’s names can disturb, and prints JSON for programs', async () => {
      const methods = {
        'volumes.list': async () => page({ ...sampleVolume, displayName: 'a\u001b[31mred\u202e' }, sampleVolume),
      };
      const { stdout, seen } = await run(methods, 'volume', 'list', '--state', 'deleted', '--state', 'error');
      for (const hidden of ['\u001b', '\u202e']) expect(stdout).not.to.contain(hidden);
      const [head, first, second] = stdout.split('\n');
      expect(head).to.match(/^ID +NAME +SIZE +STATE/);
      expect(first?.indexOf('10GiB')).to.equal(second?.indexOf('10GiB'));
      expect(seen[0]?.request).to.deep.include({ states: ['deleted', 'error'] });
      const json = JSON.parse((await run(methods, 'volume', 'list', '--json')).stdout);
      expect(json[1]).to.deep.include({
        id: sampleVolume.id,
        sizeBytes: 10 * 2 ** 30,
        createTime: '2023-11-14T22:13:20.123Z',
        source: { snapshotId: sampleVolume.sourceSnapshotId },
      });
    });

    it('list goes through all pages', async () => {
      const { stdout } = await run(
        {
          'volumes.list': async ({ pageToken }: { pageToken: string }) => ({
            items: [versioned({ ...sampleVolume, displayName: pageToken === '' ? 'first' : 'second' })],
            nextPageToken: pageToken === '' ? 'more' : '',
          }),
        },
        ...['volume', 'list'],
      );
      expect(stdout).to.contain('first').and.to.contain('second');
    });

    it('delete takes several, and one that was purged before', async () => {
      let calls = 0;
      const { code, stdout, stderr } = await run(
        {
          'volumes.delete': async () => {
            calls += 1;
            return calls === 1
              ? changed({ ...sampleVolume, state: 'deleted' })
              : { resource: undefined, operationId: '' };
          },
        },
        ...['volume', 'delete', sampleVolume.id, 'vol-aaaaaaaaaaaaaaaaa'],
      );
      expect(code).to.equal(0);
      expect(stdout).to.contain('deleted');
      expect(stderr).to.contain('vol-aaaaaaaaaaaaaaaaa was purged before');
    });
  });

  describe('export', () => {
    const done = {
      ...changed(sampleExport),
      descriptor: Buffer.from('MRGD-sealed'),
      descriptorExpireTime: 1_700_000_000_000,
    };

    it('prints the descriptor on stdout and nothing else', async () => {
      const { code, stdout, seen } = await run(
        { 'exports.export': async () => done },
        ...['export', sampleVolume.id, '--node', 'nc-a', '--instance', 'web1', '--read-only', '--lifetime', '2h'],
      );
      expect(code).to.equal(0);
      expect(stdout).to.equal(`${TEXT_PREFIX}${Buffer.from('MRGD-sealed').toString('base64')}\n`);
      expect(seen[0]?.request).to.deep.include({
        volumeId: sampleVolume.id,
        direct: {
          nodeId: 'nc-a',
          instance: 'web1',
          migration: false,
          readOnly: true,
          descriptorLifetimeMilliseconds: 7_200_000,
        },
      });
    });

    it('asks again with the same token once the export is made', async () => {
      let calls = 0;
      const { code, stdout, seen } = await run(
        {
          'exports.export': async () => {
            calls += 1;
            return calls > 1 ? done : { ...done, ...changed(sampleExport, operation.id), descriptor: Buffer.alloc(0) };
          },
          'operations.wait': async () => ({ ...operation, state: 'succeeded' }),
        },
        ...['export', sampleVolume.id, '--node', 'nc-a'],
      );
      expect(code).to.equal(0);
      expect(stdout).to.match(new RegExp(`^${TEXT_PREFIX}`));
      const tokens = seen
        .filter((call) => call.method === 'exports.export')
        .map((call) => (call.request as { clientToken: string }).clientToken);
      expect(tokens).to.have.length(2);
      expect(tokens[0]).to.equal(tokens[1]);
    });

    it('prints nothing on stdout and ends with 7 while it is not done', async () => {
      const { code, stdout, stderr } = await run(
        {
          'exports.export': async () => ({
            ...changed({ ...sampleExport, state: 'exporting', operationId: operation.id }, operation.id),
            descriptor: new Uint8Array(),
            descriptorExpireTime: undefined,
          }),
          'operations.wait': async () => ({ ...operation, kind: 'export.create' }),
        },
        ...['export', sampleVolume.id, '--node', 'nc-a', '--timeout', '1s'],
      );
      expect({ code, stdout }).to.deep.equal({ code: 7, stdout: '' });
      expect(stderr).to.contain(operation.id);
    });

    it('needs a node or a grant', async () => {
      for (const more of [[], ['--node', 'a', '--grant', 'grant-1']]) {
        expect(await run({}, 'export', sampleVolume.id, ...more)).to.deep.include({ code: 2, stdout: '' });
      }
    });

    it('unexport finds the export of a volume on a node; without one that is well', async () => {
      const methods = {
        'exports.list': async () => page(sampleExport),
        'exports.unexport': async () => ({ resource: undefined, operationId: 'op-1' }),
      };
      const withdrawn = await run(methods, 'unexport', sampleVolume.id, '--node', 'nc-a', '--force');
      expect(withdrawn.code).to.equal(0);
      expect(withdrawn.seen[1]?.request).to.include({ exportId: sampleExport.id, force: true });
      const none = await run({ 'exports.list': async () => page() }, 'unexport', sampleVolume.id, '--node', 'nc-a');
      expect(none.code).to.equal(0);
      expect((await run({}, 'unexport', sampleVolume.id)).code).to.equal(2);
    });
  });

  it('tells failures apart by its exit code, with a sentence on stderr and nothing on stdout', async () => {
    const expected: [ConstructorParameters<typeof MoorageError>[0], number][] = [
      ['INVALID_ARGUMENT', 2],
      ['OUT_OF_RANGE', 2],
      ['NOT_FOUND', 3],
      ['FAILED_PRECONDITION', 4],
      ['ABORTED', 4],
      ['ALREADY_EXISTS', 4],
      ['RESOURCE_EXHAUSTED', 5],
      ['PERMISSION_DENIED', 6],
      ['INTERNAL', 1],
    ];
    for (const [code, exit] of expected) {
      const result = await run(
        {
          'volumes.get': async () => {
            throw new MoorageError(code, 'What went wrong.');
          },
        },
        ...['volume', 'get', sampleVolume.id],
      );
      expect(result, code).to.deep.include({ code: exit, stdout: '' });
      expect(result.stderr).to.match(/^moorage: What went wrong\./);
    }
    const nobody = await capture(
      'volume',
      'get',
      'x',
      '--endpoint',
      'unix:/nonexistent/moorage.sock',
      '--timeout',
      '1s',
    );
    expect(nobody).to.deep.include({ code: 5, stdout: '' });
    expect(nobody.stderr).to.contain('cannot be reached');
  });

  it('refuses wrong usage with 2 and says what would be right', async () => {
    const wrong: [string[], string][] = [
      [['volume', 'create', '--size', '10G'], '10GiB'],
      [['volume', 'create', '--size', '1.3B'], 'whole number'],
      [['volume', 'create', '--size', '-1GiB'], 'size'],
      [['volume', 'create'], '--from-snapshot'],
      [['volume', 'list', '--state', 'asleep'], 'available'],
      [['volume', 'create', '--size', '1GiB', '--tag', 'novalue'], 'key=value'],
      [['volume', 'frobnicate'], 'unknown command'],
      [['node', 'register', 'nc-a', '--public-key', 'nonsense'], 'moorage-node-key:'],
      [['grant', sampleVolume.id, '--node', 'a', '--lifetime', '10'], '10min'],
      [['volume', 'get', 'x', '--endpoint', 'storage.example.org:7420'], 'tls'],
      [['volume', 'get', 'x', '--ca', '/nonexistent'], 'together'],
    ];
    for (const [argv, part] of wrong) {
      const result = await capture(...argv);
      expect(result.code, argv.join(' ')).to.equal(2);
      expect(result.stdout, argv.join(' ')).to.equal('');
      expect(result.stderr, argv.join(' ')).to.contain(part);
    }
  });

  it('has examples and exit codes in the help of every command', async () => {
    for (const argv of [[], ['volume', 'create'], ['export'], ['pool', 'create'], ['tree'], ['operation', 'wait']]) {
      const { code, stdout } = await capture(...argv, '--help');
      expect(code).to.equal(0);
      expect(stdout, argv.join(' ')).to.contain('Examples:').and.to.contain('Exit codes:');
    }
  });

  it('registers a node with the key that storage-utils init prints', async () => {
    const { publicKey } = generateKeyPair();
    const { code, seen } = await run(
      {
        'nodes.register': async () =>
          changed({
            id: 'nc-a',
            publicKey: Buffer.from(publicKey).toString('base64'),
            publicKeyId: 'k',
            storageAddresses: ['192.0.2.1'],
            initiatorName: '',
            tags: {},
            createTime: 0,
            updateTime: 0,
          }),
      },
      ...['node', 'register', 'nc-a', '--public-key', formatNodePublicKey(publicKey), '--address', '192.0.2.1'],
    );
    expect(code).to.equal(0);
    const request = seen[0]?.request as { publicKey: Uint8Array; storageAddresses: string[] } | undefined;
    expect(request?.publicKey).to.deep.equal(Buffer.from(publicKey));
    expect(request?.storageAddresses).to.deep.equal(['192.0.2.1']);
  });

  it('hands pool init to who composes it', async () => {
    const { code, stdout, initialised } = await capture('pool', 'init', 'moorage', '--ceph-conf', '/tmp/c', '--json');
    expect(code).to.equal(0);
    expect(JSON.parse(stdout)).to.include({ fsid: 'f' });
    expect(initialised[0]).to.include({ cephPool: 'moorage', configurationFile: '/tmp/c', dataUser: 'moorage-data' });
  });

  it('draws the tree: snapshots under their volume, volumes under their snapshot, orphans at the root', async () => {
    const origin = { ...sampleVolume, id: 'vol-aaaaaaaaaaaaaaaaa', displayName: 'db', exportIds: [] };
    const { sourceSnapshotId: _none, ...empty } = origin;
    const { stdout } = await run(
      {
        'volumes.list': async () =>
          page<Volume>(empty, {
            ...sampleVolume,
            displayName: 'copy',
            sourceSnapshotId: snapshot.id,
            createTime: 1_700_000_100_000,
          }),
        'snapshots.list': async () =>
          page(
            snapshot,
            { ...snapshot, id: 'snap-bbbbbbbbbbbbbbbbb', createTime: 1_700_000_200_000 },
            {
              ...snapshot,
              id: 'snap-ccccccccccccccccc',
              volumeId: 'vol-ddddddddddddddddd',
              createTime: 1_800_000_000_000,
            },
          ),
      },
      ...['tree'],
    );
    expect(stdout).to.equal(
      [
        '■ vol-aaaaaaaaaaaaaaaaa  db  10GiB  available',
        '├─ ◆ snap-0123456789abcdef0  nightly  1.5GiB  completed',
        '│  └─ ■ vol-0123456789abcdef0  copy  10GiB  available  exported ×1',
        '└─ ◆ snap-bbbbbbbbbbbbbbbbb  nightly  1.5GiB  completed',
        '◆ snap-ccccccccccccccccc  nightly  1.5GiB  completed  (of vol-ddddddddddddddddd, which is gone)',
        '',
      ].join('\n'),
    );
  });
});
