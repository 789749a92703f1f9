import { chmodSync, readFileSync, statSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { expect } from 'chai';
import { MoorageCallError, type MoorageClient } from '../../src/client/index.js';
import {
  generateKeyPair,
  type KeyPair,
  loadControllerKeyFile,
  type OpenedDescriptor,
  openDescriptor,
} from '../../src/descriptor/index.js';
import { type Cluster, startCluster } from '../helpers/cluster.js';
import { TestController } from '../helpers/controller.js';
import { waitFor } from '../helpers/wait.js';

const MiB = 1024 * 1024;

/** Calls that must fail, and how. */
async function failure(promise: Promise<unknown>): Promise<MoorageCallError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof MoorageCallError) return error;
    throw error;
  }
  throw new Error('it did not fail');
}

describe('the API of a real controller', function () {
  this.timeout(300_000);
  let cluster: Cluster;
  let controller: TestController;
  let admin: MoorageClient;
  const others: MoorageClient[] = [];
  const nodeKeys = new Map<string, KeyPair>();

  before(async () => {
    cluster = await startCluster();
    controller = await TestController.make({ cluster, cephPool: 'api-test' });
    await controller.start();
    admin = controller.client();
    await admin.createPool({ poolId: 'ssd', rbd: { cluster: 'main', cephPool: 'api-test' } });
    for (const nodeId of ['nc-a', 'nc-b']) {
      const keys = generateKeyPair();
      nodeKeys.set(nodeId, keys);
      await admin.registerNode({ nodeId, publicKey: Buffer.from(keys.publicKey), storageAddresses: ['127.0.0.1'] });
    }
  });
  after(async () => {
    for (const client of [admin, ...others]) client?.close();
    await controller?.remove();
  });

  function as(name: string, role: string): MoorageClient {
    const client = controller.clientAs(`${role}-${name}`, `/OU=${role}/CN=${name}`);
    others.push(client);
    return client;
  }

  async function volume(displayName = ''): Promise<string> {
    const { volume: made } = await admin.createVolume({ poolId: 'ssd', sizeBytes: 4 * MiB, displayName });
    expect(made?.state).to.equal('VOLUME_STATE_AVAILABLE');
    return made?.id ?? '';
  }

  async function open(descriptor: Uint8Array, node: string): Promise<OpenedDescriptor> {
    const { current } = await loadControllerKeyFile(join(controller.folder, 'state/descriptor.key'));
    return openDescriptor(descriptor, {
      nodeKeys: [nodeKeys.get(node) as KeyPair],
      controllerPublicKeys: [current.publicKey],
    });
  }

  it('goes from a volume to a descriptor and back to nothing', async () => {
    const origin = await volume('db');
    const { snapshot } = await admin.createSnapshot({ volumeId: origin });
    expect(snapshot?.state).to.equal('SNAPSHOT_STATE_COMPLETED');
    const { volume: copy } = await admin.createVolume({
      source: { snapshotId: snapshot?.id ?? '' },
      sizeBytes: 8 * MiB,
    });
    expect(copy).to.deep.include({ sizeBytes: String(8 * MiB), cloneDepth: 2, poolId: 'ssd' });
    const volumeId = copy?.id ?? '';
    const { volume: larger } = await admin.expandVolume({ volumeId, sizeBytes: 16 * MiB });
    expect(larger?.sizeBytes).to.equal(String(16 * MiB));

    const exported = await admin.export({ volumeId, direct: { nodeId: 'nc-a', instance: 'web1' } });
    const { payload } = await open(exported.descriptor, 'nc-a');
    expect(payload).to.deep.include({ volume_id: volumeId, node_id: 'nc-a', size_bytes: 16 * MiB, connector: 'rbd' });
    expect(payload.access).to.include({ mode: 'managed', user: `moorage-${exported.export?.id}` });
    const again = await admin.export({ volumeId, direct: { nodeId: 'nc-a', instance: 'web1' } });
    expect(again.export?.id).to.equal(exported.export?.id);
    expect((await open(again.descriptor, 'nc-a')).payload.access).to.deep.equal(payload.access);

    expect((await admin.unexport({ exportId: exported.export?.id ?? '' })).export).to.equal(null);
    expect((await admin.unexport({ exportId: exported.export?.id ?? '' })).export).to.equal(null);
    for (const id of [volumeId, origin]) {
      expect((await admin.deleteVolume({ volumeId: id })).volume?.state).to.equal('VOLUME_STATE_DELETED');
      expect((await admin.deleteVolume({ volumeId: id })).volume?.state).to.equal('VOLUME_STATE_DELETED');
    }
    const { volume: back } = await admin.undeleteVolume({ volumeId: origin });
    expect(back).to.include({ state: 'VOLUME_STATE_AVAILABLE', displayName: 'db' });
  });

  describe('bad input', () => {
    let existing: string;
    before(async () => {
      existing = await volume();
    });
    const unknown = (prefix: string) => `${prefix}-00000000000000000`;

    const bad: [what: string, call: (client: MoorageClient) => Promise<unknown>, code: string, field: string][] = [
      [
        'a negative size',
        (c) => c.createVolume({ poolId: 'ssd', sizeBytes: -1 }),
        'INVALID_ARGUMENT|OUT_OF_RANGE',
        'size_bytes',
      ],
      ['no size', (c) => c.createVolume({ poolId: 'ssd' }), 'INVALID_ARGUMENT|OUT_OF_RANGE', 'size_bytes'],
      [
        'a size between sectors',
        (c) => c.createVolume({ poolId: 'ssd', sizeBytes: 4 * MiB + 1 }),
        'INVALID_ARGUMENT',
        'size_bytes',
      ],
      [
        'a size too small',
        (c) => c.createVolume({ poolId: 'ssd', sizeBytes: 512 }),
        'INVALID_ARGUMENT|OUT_OF_RANGE',
        'size_bytes',
      ],
      [
        'a size too large',
        (c) => c.createVolume({ poolId: 'ssd', sizeBytes: 2 ** 50 + 512 }),
        'OUT_OF_RANGE',
        'size_bytes',
      ],
      [
        'the largest number',
        (c) => c.createVolume({ poolId: 'ssd', sizeBytes: '9223372036854775807' }),
        'OUT_OF_RANGE',
        'size_bytes',
      ],
      ['no pool', (c) => c.createVolume({ sizeBytes: 4 * MiB }), 'INVALID_ARGUMENT', 'pool_id'],
      ['an unknown pool', (c) => c.createVolume({ poolId: 'none', sizeBytes: 4 * MiB }), 'NOT_FOUND', ''],
      ['a pool with a slash', (c) => c.getPool({ poolId: '../etc' }), 'INVALID_ARGUMENT|NOT_FOUND', ''],
      [
        'a name with a newline',
        (c) => c.createVolume({ poolId: 'ssd', sizeBytes: 4 * MiB, displayName: 'a\nb' }),
        'INVALID_ARGUMENT',
        'display_name',
      ],
      [
        'a name of 10,000 characters',
        (c) => c.createVolume({ poolId: 'ssd', sizeBytes: 4 * MiB, displayName: 'x'.repeat(10_000) }),
        'INVALID_ARGUMENT',
        'display_name',
      ],
      [
        'too many tags',
        (c) =>
          c.createVolume({
            poolId: 'ssd',
            sizeBytes: 4 * MiB,
            tags: Object.fromEntries(Array.from({ length: 51 }, (_, i) => [`t${i}`, ''])),
          }),
        'INVALID_ARGUMENT',
        'tags',
      ],
      [
        'a tag too long',
        (c) => c.createVolume({ poolId: 'ssd', sizeBytes: 4 * MiB, tags: { ['k'.repeat(129)]: '' } }),
        'INVALID_ARGUMENT',
        'tags',
      ],
      [
        'a client token with a newline',
        (c) => c.createVolume({ clientToken: 'a\nb', poolId: 'ssd', sizeBytes: 4 * MiB }),
        'INVALID_ARGUMENT',
        'client_token',
      ],
      [
        'a client token too long',
        (c) => c.createVolume({ clientToken: 'x'.repeat(129), poolId: 'ssd', sizeBytes: 4 * MiB }),
        'INVALID_ARGUMENT',
        'client_token',
      ],
      [
        'encryption, which comes later',
        (c) => c.createVolume({ poolId: 'ssd', sizeBytes: 4 * MiB, encrypted: true }),
        'UNIMPLEMENTED',
        '',
      ],
      ['an unknown volume', (c) => c.getVolume({ volumeId: unknown('vol') }), 'NOT_FOUND', ''],
      ['an unknown snapshot', (c) => c.getSnapshot({ snapshotId: unknown('snap') }), 'NOT_FOUND', ''],
      ['an unknown export', (c) => c.getExport({ exportId: unknown('exp') }), 'NOT_FOUND', ''],
      ['an unknown operation', (c) => c.waitOperation({ operationId: unknown('op') }), 'NOT_FOUND', ''],
      ['an unknown node', (c) => c.getNode({ nodeId: 'nobody' }), 'NOT_FOUND', ''],
      ['an unknown source', (c) => c.createVolume({ source: { snapshotId: unknown('snap') } }), 'NOT_FOUND', ''],
      ['no id', (c) => c.getVolume({}), 'INVALID_ARGUMENT', 'volume_id'],
      ['an id of the wrong kind', (c) => c.getVolume({ volumeId: unknown('snap') }), 'INVALID_ARGUMENT', 'volume_id'],
      [
        'an id with quotes and slashes',
        (c) => c.deleteVolume({ volumeId: '"; DROP TABLE /../' }),
        'INVALID_ARGUMENT',
        'volume_id',
      ],
      [
        'an id of 10,000 characters',
        (c) => c.getSnapshot({ snapshotId: 's'.repeat(10_000) }),
        'INVALID_ARGUMENT',
        'snapshot_id',
      ],
      [
        'shrinking',
        (c) => c.expandVolume({ volumeId: existing, sizeBytes: MiB }),
        'INVALID_ARGUMENT|OUT_OF_RANGE|FAILED_PRECONDITION',
        '',
      ],
      [
        'an etag of before',
        (c) => c.deleteVolume({ volumeId: existing, etag: '1' }),
        'ABORTED|FAILED_PRECONDITION',
        '',
      ],
      ['a negative page size', (c) => c.listVolumes({ pageSize: -1 }), 'INVALID_ARGUMENT|OUT_OF_RANGE', 'page_size'],
      ['a page size too large', (c) => c.listVolumes({ pageSize: 1001 }), 'INVALID_ARGUMENT|OUT_OF_RANGE', 'page_size'],
      ['a page token that is none', (c) => c.listVolumes({ pageToken: 'garbage' }), 'INVALID_ARGUMENT', 'page_token'],
      [
        'a node name with capitals',
        (c) => c.registerNode({ nodeId: 'NC_A', publicKey: Buffer.alloc(32, 1) }),
        'INVALID_ARGUMENT',
        'node_id',
      ],
      [
        'a key of 31 bytes',
        (c) => c.registerNode({ nodeId: 'nc-c', publicKey: Buffer.alloc(31, 1) }),
        'INVALID_ARGUMENT',
        'public_key',
      ],
      [
        'an address with a port',
        (c) => c.registerNode({ nodeId: 'nc-c', publicKey: Buffer.alloc(32, 1), storageAddresses: ['10.0.0.1:80'] }),
        'INVALID_ARGUMENT',
        'storage_addresses',
      ],
      [
        'another key for a node',
        (c) => c.registerNode({ nodeId: 'nc-a', publicKey: Buffer.alloc(32, 1) }),
        'ALREADY_EXISTS',
        '',
      ],
      [
        'export to an unknown node',
        (c) => c.export({ volumeId: existing, direct: { nodeId: 'nobody' } }),
        'NOT_FOUND',
        '',
      ],
      [
        'a migration without an instance',
        (c) => c.grantExport({ volumeId: existing, nodeId: 'nc-a', migration: true }),
        'INVALID_ARGUMENT',
        'instance',
      ],
      [
        'a grant for two days',
        (c) => c.grantExport({ volumeId: existing, nodeId: 'nc-a', lifetime: { seconds: 172_800, nanos: 0 } }),
        'INVALID_ARGUMENT|OUT_OF_RANGE',
        'lifetime',
      ],
      [
        'a cluster that is not configured',
        (c) => c.createPool({ poolId: 'p2', rbd: { cluster: 'elsewhere', cephPool: 'x' } }),
        'NOT_FOUND|INVALID_ARGUMENT|FAILED_PRECONDITION',
        '',
      ],
      [
        'a Ceph pool that is not there',
        (c) => c.createPool({ poolId: 'p2', rbd: { cluster: 'main', cephPool: 'no-such-pool' } }),
        'NOT_FOUND|INVALID_ARGUMENT|FAILED_PRECONDITION',
        '',
      ],
      [
        'a window of a year',
        (c) =>
          c.createPool({
            poolId: 'p2',
            rbd: { cluster: 'main', cephPool: 'api-test' },
            undeleteWindowSeconds: 31_536_000,
          }),
        'INVALID_ARGUMENT|OUT_OF_RANGE',
        'undelete_window_seconds',
      ],
    ];
    for (const [what, call, code, field] of bad) {
      it(`refuses ${what}`, async () => {
        const error = await failure(call(admin));
        expect(error.code, error.message).to.match(new RegExp(`^(${code})$`));
        if (field !== '') expect(error.fieldViolations[0]?.field, error.message).to.contain(field);
        expect(error.message.length).to.be.within(10, 1100);
        expect(error.message).not.to.match(/\bat .*\.[jt]s:|node_modules/);
      });
    }

    it('and leaves nothing behind', async () => {
      const { volumes } = await admin.listVolumes({ pageSize: 1000 });
      for (const each of volumes) expect(each.state).to.equal('VOLUME_STATE_AVAILABLE');
      expect((await admin.listPools({})).pools.map((pool) => pool.id)).to.deep.equal(['ssd']);
      expect((await admin.listNodes({})).nodes.map((node) => node.id)).to.deep.equal(['nc-a', 'nc-b']);
      expect((await admin.listOperations({})).operations).to.deep.equal([]);
    });
  });

  it('gives the same answer to the same token, and refuses it with other parameters', async () => {
    const clientToken = 'the-same-token';
    const request = { clientToken, poolId: 'ssd', sizeBytes: 4 * MiB };
    const [first, joined] = await Promise.all([admin.createVolume(request), admin.createVolume(request)]);
    const later = await admin.createVolume(request);
    expect(new Set([first, joined, later].map((each) => each.volume?.id)).size).to.equal(1);
    const error = await failure(admin.createVolume({ ...request, sizeBytes: 8 * MiB }));
    expect(error.code).to.equal('ALREADY_EXISTS');
  });

  it('changes nothing when it is only to validate', async () => {
    const before = (await admin.listVolumes({ pageSize: 1000 })).volumes.length;
    const { volume: checked } = await admin.createVolume({ poolId: 'ssd', sizeBytes: 4 * MiB, validateOnly: true });
    expect(checked).to.deep.include({ id: '', sizeBytes: String(4 * MiB) });
    expect((await admin.listVolumes({ pageSize: 1000 })).volumes.length).to.equal(before);
  });

  it('gives pages in a fixed order, with tokens that are good for their caller and filter only', async () => {
    for (let count = 0; count < 3; count += 1) await volume(`page-${count}`);
    const first = await admin.listVolumes({ pageSize: 2 });
    expect(first.volumes).to.have.length(2);
    const second = await admin.listVolumes({ pageSize: 2, pageToken: first.nextPageToken });
    const all = (await admin.listVolumes({ pageSize: 1000 })).volumes.map((each) => each.id);
    expect([...first.volumes, ...second.volumes].map((each) => each.id)).to.deep.equal(all.slice(0, 4));
    const pageToken = first.nextPageToken;
    const otherFilter = await failure(admin.listVolumes({ pageSize: 2, pageToken, poolId: 'ssd' }));
    expect(otherFilter.fieldViolations[0]?.field).to.equal('page_token');
    const otherCaller = await failure(as('bob', 'reader').listVolumes({ pageSize: 2, pageToken }));
    expect(otherCaller.fieldViolations[0]?.field).to.equal('page_token');
  });

  it('names who holds a volume that is to be deleted or exported elsewhere', async () => {
    const volumeId = await volume();
    const { export: held } = await admin.export({ volumeId, direct: { nodeId: 'nc-a' } });
    const inUse = await failure(admin.deleteVolume({ volumeId }));
    expect(inUse.code).to.equal('FAILED_PRECONDITION');
    expect(inUse.message).to.contain('nc-a');
    const elsewhere = await failure(admin.export({ volumeId, direct: { nodeId: 'nc-b' } }));
    expect(elsewhere.code).to.equal('FAILED_PRECONDITION');
    expect(elsewhere.message).to.contain('nc-a');
    await admin.unexport({ exportId: held?.id ?? '' });
    await admin.deleteVolume({ volumeId });
    for (const call of [
      admin.export({ volumeId, direct: { nodeId: 'nc-a' } }),
      admin.createSnapshot({ volumeId }),
      admin.expandVolume({ volumeId, sizeBytes: 8 * MiB }),
    ]) {
      expect((await failure(call)).code).to.equal('FAILED_PRECONDITION');
    }
  });

  it('lets a node redeem what was granted to it, once its time has not passed, and nothing else', async () => {
    const [a, b] = [as('nc-a', 'node'), as('nc-b', 'node')];
    const volumeId = await volume();
    const { grant } = await admin.grantExport({ volumeId, nodeId: 'nc-a', instance: 'web1' });
    const grantId = grant?.id ?? '';
    expect((await failure(a.export({ volumeId, direct: { nodeId: 'nc-a' } }))).code).to.equal('PERMISSION_DENIED');
    expect((await failure(b.export({ volumeId, grantId }))).code).to.equal('PERMISSION_DENIED');
    const invented = await failure(a.export({ volumeId, grantId: `grant-${'0'.repeat(17)}` }));
    expect(invented.code).to.equal('PERMISSION_DENIED');
    const exported = await a.export({ volumeId, grantId });
    expect((await open(exported.descriptor, 'nc-a')).payload.node_id).to.equal('nc-a');
    const exportId = exported.export?.id ?? '';
    expect((await failure(b.unexport({ exportId }))).code).to.equal('NOT_FOUND');
    expect((await failure(b.getExport({ exportId }))).code).to.equal('NOT_FOUND');
    expect((await b.listExports({})).exports).to.deep.equal([]);
    expect((await a.listExports({})).exports.map((each) => each.id)).to.deep.equal([exportId]);
    expect((await failure(a.unexport({ exportId, force: true }))).code).to.equal('PERMISSION_DENIED');
    await a.unexport({ exportId });

    const short = await admin.grantExport({ volumeId, nodeId: 'nc-a', lifetime: { seconds: 0, nanos: 1_000_000 } });
    const expired = await failure(a.export({ volumeId, grantId: short.grant?.id ?? '' }));
    expect(expired.code).to.equal('FAILED_PRECONDITION');
    expect(expired.message).to.match(/expired/i);
  });

  it('counts in /metrics, and logs each call once, without any secret', async () => {
    const volumeId = await volume();
    const { export: made, descriptor } = await admin.export({ volumeId, direct: { nodeId: 'nc-a' } });
    const { payload } = await open(descriptor, 'nc-a');
    await admin.getVolume({ volumeId }, { requestId: 'once-in-the-log' });
    const metrics = await new Promise<string>((resolve, reject) => {
      request(`http://${controller.metricsAddress}/metrics`, (response) => {
        let text = '';
        response.on('data', (chunk: Buffer) => {
          text += chunk.toString();
        });
        response.on('end', () => resolve(text));
      })
        .on('error', reject)
        .end();
    });
    expect(metrics).to.match(/moorage_rpc_calls_total\{method="[^"]*CreateVolume",code="OK"\} [1-9]/);
    expect(metrics).to.match(/moorage_operations_total\{kind="export.create",outcome="succeeded"\} [1-9]/);
    expect(metrics).to.match(
      /moorage_backend_calls_total\{cluster="main",role="data",method="CreateImage",outcome="ok"\} [1-9]/,
    );
    expect(metrics).to.match(/moorage_agent_restarts_total\{cluster="main",role="data"\} 0/);
    const calls = controller.log.filter((entry) => entry.request_id === 'once-in-the-log');
    expect(calls).to.have.length(1);
    expect(calls[0]).to.include({ code: 'OK', principal: 'local', role: 'admin' });
    const { key } = payload.access as { key: string };
    expect(key).to.match(/^AQ/);
    const everything = JSON.stringify(controller.log) + controller.stderr.join('\n') + metrics;
    for (const secret of [key, Buffer.from(descriptor).toString('base64').slice(0, 60)]) {
      expect(everything.includes(secret)).to.equal(false);
    }
    await admin.unexport({ exportId: made?.id ?? '' });
  });

  it('keeps others away from what it writes', () => {
    for (const file of [
      controller.storeNote,
      'state/descriptor.key',
      'master.key',
      'data.keyring',
      'fence.keyring',
      'api.sock',
    ]) {
      expect(statSync(join(controller.folder, file)).mode & 0o077, file).to.equal(0);
    }
    const filter = readFileSync(`/proc/${controller.processId}/coredump_filter`, 'utf8');
    expect(Number.parseInt(filter, 16)).to.equal(0);
  });

  describe('a controller', () => {
    it('refuses to start on a store that another one has', async () => {
      const error = await controller.start().catch((caught: Error) => caught);
      expect(error)
        .to.be.instanceOf(Error)
        .with.property('message')
        .that.matches(/another|in use/i);
      expect((await admin.listPools({})).pools).to.have.length(1);
    });

    it('drains on SIGTERM, ends with 0, and the next one goes on where it was', async () => {
      const before = (await admin.listVolumes({ pageSize: 1000 })).volumes.map((each) => each.id);
      expect(await controller.stop('SIGTERM')).to.equal(0);
      await controller.start();
      const after = (await admin.listVolumes({ pageSize: 1000 })).volumes.map((each) => each.id);
      expect(after).to.deep.equal(before);
      await volume();
    });

    it('that was frozen for longer than its beat may stand still begins anew, and serves on', async () => {
      const frozen = await TestController.make({
        cluster,
        cephPool: 'api-frozen',
        settings: { journal: { beat_timeout: '2s' } },
      });
      const client = frozen.client();
      try {
        await frozen.start();
        await client.createPool({ poolId: 'ssd', rbd: { cluster: 'main', cephPool: 'api-frozen' } });
        await waitFor('both agents are ready', () => frozen.agentIds().size === 2);
        const firstAgents = frozen.agentIds();
        const processId = frozen.processId ?? 0;
        process.kill(processId, 'SIGSTOP');
        // The time itself is the fault: the beat must stand still for longer than it may.
        await new Promise((resolve) => setTimeout(resolve, 3000));
        process.kill(processId, 'SIGCONT');
        await waitFor('the controller begins anew', () => frozen.log.some((entry) => entry.msg === 'begun anew'));
        const { volume: made } = await client.createVolume({ poolId: 'ssd', sizeBytes: 4 * MiB });
        expect(made?.state).to.equal('VOLUME_STATE_AVAILABLE');
        expect(frozen.processId).to.equal(processId);
        expect([...frozen.agentIds()].filter((id) => !firstAgents.has(id)).length).to.be.at.least(1);
      } finally {
        client.close();
        await frozen.remove();
      }
    });

    it('refuses a master key that others can read, and says what to do', async () => {
      await controller.stop();
      chmodSync(join(controller.folder, 'master.key'), 0o644);
      const error = await controller.start().catch((caught: Error) => caught);
      expect(String(error)).to.contain('chmod 0600');
      chmodSync(join(controller.folder, 'master.key'), 0o600);
      await controller.start();
      expect((await admin.listPools({})).pools).to.have.length(1);
    });
  });
});
