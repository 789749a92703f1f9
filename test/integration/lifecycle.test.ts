import { randomUUID } from 'node:crypto';
import { expect } from 'chai';
import { RbdImage } from '../../src/agents/rbd/librbd/image.js';
import { connect, MoorageCallError, pages } from '../../src/client/index.js';
import { auditPool } from '../helpers/pool-audit.js';
import { killWriters, RecordWriter } from '../helpers/record-writer.js';
import { lastRecord } from '../helpers/records.js';
import { type System, startSystem } from '../helpers/system.js';
import { type Exported, openAsAdministrator, TestNode } from '../helpers/test-node.js';
import { waitFor } from '../helpers/wait.js';

const MEBIBYTE = 2 ** 20;

/** What a call is refused with. */
async function refusal(call: Promise<unknown>): Promise<MoorageCallError> {
  try {
    await call;
  } catch (error) {
    if (error instanceof MoorageCallError) return error;
    throw error;
  }
  throw new Error('the call was not refused');
}

describe('the life of volumes, snapshots and exports', function () {
  this.timeout(300_000);
  let system: System;
  let nodeA: TestNode;
  let nodeB: TestNode;

  before(async () => {
    system = await startSystem({ name: 'lifecycle', undeleteWindowSeconds: 3600 });
    nodeA = await TestNode.register(system, 'nc-a');
    nodeB = await TestNode.register(system, 'nc-b');
  });
  afterEach(killWriters);
  after(() => system?.remove());

  const create = async (sizeBytes = 16 * MEBIBYTE): Promise<string> => {
    const { volume } = await system.client.createVolume({ poolId: 'main', sizeBytes });
    expect(volume?.state).to.equal('VOLUME_STATE_AVAILABLE');
    return volume?.id ?? '';
  };
  const snapshotOf = async (volumeId: string): Promise<string> => {
    const { snapshot } = await system.client.createSnapshot({ volumeId });
    expect(snapshot?.state).to.equal('SNAPSHOT_STATE_COMPLETED');
    return snapshot?.id ?? '';
  };
  const from = async (snapshotId: string, sizeBytes = 0): Promise<string> => {
    const { volume } = await system.client.createVolume({ source: { snapshotId }, sizeBytes });
    return volume?.id ?? '';
  };
  const write = async (exported: Exported): Promise<number> => {
    const writer = await RecordWriter.start(system, exported, { seed: 'life', pauseMilliseconds: 0 });
    await waitFor('a few records are written', () => writer.last > 100);
    await writer.stop();
    expect(writer.failure).to.equal(undefined);
    return writer.last;
  };
  const readLast = async (name: string): Promise<number> => {
    const { cluster, pool } = await openAsAdministrator(system);
    try {
      return await RbdImage.with(pool, { name }, { readOnly: true }, (image) =>
        lastRecord('life', (offset, length) => image.read(offset, length)),
      );
    } finally {
      pool.close();
      await cluster.close();
    }
  };
  const audit = async (): Promise<void> => {
    await waitFor('store and pool agree', async () => {
      const { problems } = await auditPool(system);
      if (problems.length > 0) throw new Error(problems.join('\n'));
      return true;
    });
  };

  it('makes, finds, deletes and brings back a volume, under a new name on the backend', async () => {
    const id = await create();
    expect((await system.client.getVolume({ volumeId: id })).volume?.sizeBytes).to.equal(String(16 * MEBIBYTE));
    const before = (await auditPool(system)).images.get(id);
    expect(before?.name).to.equal(id);
    const deleted = await system.client.deleteVolume({ volumeId: id });
    expect(deleted.volume?.state).to.equal('VOLUME_STATE_DELETED');
    const listed = await system.client.listVolumes({ pageSize: 1000 });
    expect(listed.volumes.map((volume) => volume.id)).not.to.include(id);
    expect((await auditPool(system)).images.get(id)?.trashed).to.equal(true);
    expect((await system.client.deleteVolume({ volumeId: id })).volume?.state).to.equal('VOLUME_STATE_DELETED');
    const restored = await system.client.undeleteVolume({ volumeId: id });
    expect(restored.volume?.state).to.equal('VOLUME_STATE_AVAILABLE');
    const found = (await auditPool(system)).images.get(id);
    expect(found).to.include({ name: `${id}.2`, trashed: false, id: before?.id });
    const node = await nodeA.export(id);
    expect(node.image).to.equal(`${id}.2`);
    await write(node);
    await system.client.unexport({ exportId: node.exportId });
    await audit();
  });

  it('expands a volume, never to less, and clones larger', async () => {
    const id = await create();
    const exported = await nodeA.export(id);
    const last = await write(exported);
    await system.client.unexport({ exportId: exported.exportId });
    const expanded = await system.client.expandVolume({ volumeId: id, sizeBytes: 24 * MEBIBYTE });
    expect(expanded.volume?.sizeBytes).to.equal(String(24 * MEBIBYTE));
    const smaller = await refusal(system.client.expandVolume({ volumeId: id, sizeBytes: 16 * MEBIBYTE }));
    expect(smaller.code).to.equal('INVALID_ARGUMENT');
    const snapshotId = await snapshotOf(id);
    const larger = await from(snapshotId, 32 * MEBIBYTE);
    const tooSmall = await refusal(system.client.createVolume({ source: { snapshotId }, sizeBytes: 16 * MEBIBYTE }));
    expect(tooSmall.fieldViolations[0]?.field).to.equal('size_bytes');
    const { images } = await auditPool(system);
    expect(images.get(id)?.header?.sizeBytes).to.equal(BigInt(24 * MEBIBYTE));
    expect(images.get(larger)?.header?.sizeBytes).to.equal(BigInt(32 * MEBIBYTE));
    expect(await readLast(larger)).to.equal(last);
    await audit();
  });

  it('keeps a snapshot when its volume goes, and a volume when its snapshot goes', async () => {
    const origin = await create();
    const exported = await nodeA.export(origin);
    const last = await write(exported);
    await system.client.unexport({ exportId: exported.exportId });
    const snapshotId = await snapshotOf(origin);
    await system.client.deleteVolume({ volumeId: origin });
    const first = await from(snapshotId);
    await system.client.deleteSnapshot({ snapshotId });
    expect((await refusal(system.client.createVolume({ source: { snapshotId } }))).code).to.equal(
      'FAILED_PRECONDITION',
    );
    expect(await readLast(first)).to.equal(last);
    const onward = await nodeB.export(first);
    const writer = await RecordWriter.start(system, onward, { seed: 'life' });
    await writer.stop();
    expect(writer.failure, 'with the export’s own key, above trashed ancestors').to.equal(undefined);
    await system.client.unexport({ exportId: onward.exportId });
    await system.client.undeleteSnapshot({ snapshotId });
    expect(await readLast(await from(snapshotId))).to.equal(last);
    await audit();
  });

  it('answers the same token the same way, also while the first call runs', async () => {
    const clientToken = randomUUID();
    const request = { clientToken, poolId: 'main', sizeBytes: 16 * MEBIBYTE, displayName: 'twice' };
    const answers = await Promise.all([1, 2, 3].map(() => system.client.createVolume(request)));
    const again = await system.client.createVolume(request);
    expect(new Set([...answers, again].map((answer) => answer.volume?.id)).size).to.equal(1);
    const volumeId = again.volume?.id ?? '';
    const snapshotToken = randomUUID();
    const first = system.client.createSnapshot({ clientToken: snapshotToken, volumeId });
    const second = system.client.createSnapshot({ clientToken: snapshotToken, volumeId });
    expect((await second).snapshot?.id).to.equal((await first).snapshot?.id);
    const other = await refusal(system.client.createVolume({ ...request, displayName: 'other' }));
    expect(other.code).to.equal('ALREADY_EXISTS');
    expect(other.message).to.include(volumeId);
    await audit();
  });

  it('only says what would be with validate_only', async () => {
    const id = await create();
    const before = await auditPool(system);
    const { client } = system;
    const made = await client.createVolume({ poolId: 'main', sizeBytes: MEBIBYTE, validateOnly: true });
    expect(made.volume).to.include({ id: '', state: 'VOLUME_STATE_CREATING', sizeBytes: String(MEBIBYTE) });
    await client.expandVolume({ volumeId: id, sizeBytes: 32 * MEBIBYTE, validateOnly: true });
    await client.createSnapshot({ volumeId: id, validateOnly: true });
    await client.export({ volumeId: id, authority: 'direct', direct: { nodeId: 'nc-a' }, validateOnly: true });
    await client.deleteVolume({ volumeId: id, validateOnly: true });
    expect((await refusal(client.createVolume({ poolId: 'main', sizeBytes: -1, validateOnly: true }))).code).to.equal(
      'OUT_OF_RANGE',
    );
    const after = await auditPool(system);
    expect(after.inventory).to.deep.equal(before.inventory);
    expect([...after.images.keys()].sort()).to.deep.equal([...before.images.keys()].sort());
  });

  it('refuses a change of another version by its etag', async () => {
    const id = await create();
    const { volume } = await system.client.getVolume({ volumeId: id });
    const etag = volume?.etag ?? '';
    await system.client.expandVolume({ volumeId: id, sizeBytes: 24 * MEBIBYTE, etag });
    const stale = await refusal(system.client.deleteVolume({ volumeId: id, etag }));
    expect(stale).to.include({ code: 'ABORTED', reason: 'ETAG_MISMATCH' });
    const now = (await system.client.getVolume({ volumeId: id })).volume?.etag ?? '';
    expect((await system.client.deleteVolume({ volumeId: id, etag: now })).volume?.state).to.equal(
      'VOLUME_STATE_DELETED',
    );
  });

  it('lists page by page, filtered, and only to the caller that began', async () => {
    const ids: string[] = [];
    for (let index = 0; index < 5; index += 1) {
      const made = await system.client.createVolume({ poolId: 'main', sizeBytes: MEBIBYTE, tags: { page: 'yes' } });
      ids.push(made.volume?.id ?? '');
    }
    const request = { pageSize: 2, tags: { page: 'yes' } };
    const found: string[] = [];
    let token = '';
    for await (const page of pages((pageToken) => system.client.listVolumes({ ...request, pageToken }))) {
      expect(page.volumes.length).to.be.at.most(2);
      found.push(...page.volumes.map((volume) => volume.id));
      token ||= page.nextPageToken;
    }
    expect(found).to.have.members(ids);
    expect(found).to.deep.equal([...new Set(found)]);
    for (const wrong of [{ tags: {} }, { poolId: 'main' }, { pageToken: `${token}x` }, { pageToken: 'nonsense' }]) {
      const refused = await refusal(system.client.listVolumes({ ...request, pageToken: token, ...wrong }));
      expect(refused.code, JSON.stringify(wrong)).to.equal('INVALID_ARGUMENT');
      expect(refused.fieldViolations[0]?.field).to.equal('page_token');
    }
    const elsewhere = await refusal(system.client.listSnapshots({ pageSize: 2, pageToken: token }));
    expect(elsewhere.fieldViolations[0]?.field).to.equal('page_token');
  });

  it('exports once: the same call again is the same export, another node is refused and told who holds it', async () => {
    const id = await create();
    const first = await nodeA.export(id);
    const second = await nodeA.export(id);
    expect(second).to.deep.equal(first);
    const elsewhere = await refusal(nodeB.export(id));
    expect(elsewhere.code).to.equal('FAILED_PRECONDITION');
    expect(elsewhere.message).to.include('nc-a');
    const deleting = await refusal(system.client.deleteVolume({ volumeId: id }));
    expect(deleting.code).to.equal('FAILED_PRECONDITION');
    expect(deleting.message).to.include('nc-a').and.include(first.exportId);
    await system.client.unexport({ exportId: first.exportId });
    await system.client.unexport({ exportId: first.exportId });
    const users = (await system.cluster.ceph('auth', 'ls')).stdout;
    expect(users).not.to.include(first.exportId);
    const onward = await nodeB.export(id);
    await system.client.unexport({ exportId: onward.exportId });
    await audit();
  });

  it('lets a migration’s second node in, and only that', async () => {
    const id = await create();
    const { client } = system;
    const nodeC = await TestNode.register(system, 'nc-c');
    const direct = (nodeId: string, more: object = {}) =>
      client.export({ volumeId: id, authority: 'direct', direct: { nodeId, instance: 'web1', ...more } });
    const source = await direct('nc-a');
    expect((await refusal(direct('nc-b'))).code).to.equal('FAILED_PRECONDITION');
    expect((await refusal(direct('nc-b', { migration: true, instance: 'web2' }))).code).to.equal('FAILED_PRECONDITION');
    const target = await direct('nc-b', { migration: true });
    expect(target.export?.migration).to.equal(true);
    expect((await refusal(direct(nodeC.id, { migration: true }))).code).to.equal('FAILED_PRECONDITION');
    const [payloadA, payloadB] = [await nodeA.open(source.descriptor), await nodeB.open(target.descriptor)];
    expect(payloadA.access).not.to.deep.equal(payloadB.access);
    await client.unexport({ exportId: source.export?.id ?? '' });
    const { exports } = await client.listExports({ volumeId: id });
    expect(exports.map((item) => [item.nodeId, item.migration])).to.deep.equal([['nc-b', false]]);
    await client.unexport({ exportId: target.export?.id ?? '' });
    await audit();
  });

  it('refuses to withdraw what is open and says where; with force it cuts that off for certain', async () => {
    const id = await create();
    const exported = await nodeA.export(id);
    const writer = await RecordWriter.start(system, exported);
    try {
      const open = await refusal(system.client.unexport({ exportId: exported.exportId }));
      expect(open).to.include({ code: 'FAILED_PRECONDITION', reason: 'EXPORT_OPEN' });
      expect(open.message).to.include('nc-a').and.include(writer.address);
      const before = writer.last;
      await waitFor('it goes on writing', () => writer.last > before + 10);
      expect(writer.failure).to.equal(undefined);
      await system.client.unexport({ exportId: exported.exportId, force: true });
      const { cluster, pool } = await openAsAdministrator(system);
      try {
        await RbdImage.with(pool, { name: exported.image }, {}, async (image) => {
          const last = await lastRecord(writer.seed, (offset, length) => image.read(offset, length));
          await waitFor('the writer is refused', () => writer.failure !== undefined);
          expect(writer.failure).to.match(/ESHUTDOWN|EROFS|ENOTCONN/);
          expect(await lastRecord(writer.seed, (offset, length) => image.read(offset, length))).to.equal(last);
        });
      } finally {
        pool.close();
        await cluster.close();
      }
      expect((await system.cluster.ceph('auth', 'ls')).stdout).not.to.include(exported.exportId);
    } finally {
      await writer.kill();
    }
    const onward = await nodeB.export(id);
    const next = await RecordWriter.start(system, onward, { seed: writer.seed });
    await next.stop();
    expect(next.failure).to.equal(undefined);
    await system.client.unexport({ exportId: onward.exportId });
    await audit();
  });

  it('cuts off a frozen client too: when it wakes, the volume is another node’s and it writes nothing', async () => {
    const id = await create();
    const exported = await nodeA.export(id);
    const writer = await RecordWriter.start(system, exported);
    writer.process.kill('SIGSTOP');
    const open = await refusal(system.client.unexport({ exportId: exported.exportId }));
    expect(open.reason).to.equal('EXPORT_OPEN');
    await system.client.unexport({ exportId: exported.exportId, force: true });
    const onward = await nodeB.export(id);
    const next = await RecordWriter.start(system, onward, { seed: 'next' });
    await waitFor('the next node writes', () => next.last > 100);
    const frozen = writer.last;
    writer.process.kill('SIGCONT');
    await waitFor('the frozen one is refused', () => writer.failure !== undefined);
    expect(writer.last).to.be.at.most(frozen + 1);
    await writer.kill();
    await next.stop();
    expect(next.failure).to.equal(undefined);
    expect(await readSeed(onward.image, 'next')).to.equal(next.last);
    await system.client.unexport({ exportId: onward.exportId });
    await audit();
  });

  const readSeed = async (name: string, seed: string): Promise<number> => {
    const { cluster, pool } = await openAsAdministrator(system);
    try {
      return await RbdImage.with(pool, { name }, { readOnly: true }, (image) =>
        lastRecord(seed, (offset, length) => image.read(offset, length)),
      );
    } finally {
      pool.close();
      await cluster.close();
    }
  };

  it('keeps everything over a restart of the controller', async () => {
    const id = await create();
    const exported = await nodeA.export(id);
    await system.stop();
    await system.start();
    const client = connect({ endpoints: [system.endpoint] });
    try {
      expect((await client.getVolume({ volumeId: id })).volume?.exportIds).to.deep.equal([exported.exportId]);
      expect(await nodeA.export(id)).to.deep.equal(exported);
      await client.unexport({ exportId: exported.exportId });
    } finally {
      client.close();
    }
    await audit();
  });
});
