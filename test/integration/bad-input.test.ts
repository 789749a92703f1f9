import { expect } from 'chai';
import { type CallOptions, connect, MoorageCallError, type StatusName } from '../../src/client/index.js';
import { generateKeyPair } from '../../src/descriptor/index.js';
import { auditPool, takeInventory } from '../helpers/pool-audit.js';
import { type System, startSystem } from '../helpers/system.js';
import { TestNode } from '../helpers/test-node.js';
import { waitFor } from '../helpers/wait.js';

const MEBIBYTE = 2 ** 20;

describe('bad input', function () {
  this.timeout(300_000);
  let system: System;
  let node: TestNode;
  let volumeId = '';
  let snapshotId = '';

  before(async () => {
    system = await startSystem({ name: 'bad-input', undeleteWindowSeconds: 3600 });
    node = await TestNode.register(system, 'nc-a');
    await TestNode.register(system, 'nc-b');
    volumeId = (await system.client.createVolume({ poolId: 'main', sizeBytes: 4 * MEBIBYTE })).volume?.id ?? '';
    await system.client.createVolume({ poolId: 'main', sizeBytes: MEBIBYTE });
    snapshotId = (await system.client.createSnapshot({ volumeId })).snapshot?.id ?? '';
  });
  after(() => system?.remove());

  /** Everything that could be left behind: what the store lists, and what the pool holds. */
  const everything = async (): Promise<unknown> => {
    const { problems, images } = await auditPool(system);
    const { nodes } = await system.client.listNodes({ pageSize: 1000 });
    const { pools } = await system.client.listPools({ pageSize: 1000 });
    return {
      problems,
      images: [...images.keys()].sort(),
      inventory: await takeInventory(system),
      nodes: nodes.map((item) => item.id),
      pools: pools.map((pool) => pool.id),
    };
  };

  /** Runs calls that must each be refused with this code and a sentence that names this; nothing may be left of them. */
  const refused = async (
    calls: readonly {
      readonly what: string;
      readonly call: () => Promise<unknown>;
      readonly code: StatusName;
      /** The field that is wrong. */
      readonly field?: string;
      /** What the sentence says beside. */
      readonly says?: string | RegExp;
    }[],
  ): Promise<void> => {
    const before = await everything();
    for (const { what, call, code, field, says } of calls) {
      let error: unknown;
      try {
        await call();
      } catch (thrown) {
        error = thrown;
      }
      expect(error, `${what}: is refused`).to.be.instanceOf(MoorageCallError);
      if (!(error instanceof MoorageCallError)) continue;
      expect(error.code, `${what}: ${error.message}`).to.equal(code);
      expect(error.message.length, what).to.be.within(20, 600);
      expect(error.message, what).not.to.match(/\bat .*\.js:|undefined|\[object|NaN/);
      if (field !== undefined) {
        expect(error.message, what).to.include(field);
        if (code === 'INVALID_ARGUMENT') expect(error.fieldViolations[0]?.field, what).to.equal(field);
      }
      if (says !== undefined) expect(error.message, what).to.match(says instanceof RegExp ? says : new RegExp(says));
    }
    expect(await everything()).to.deep.equal(before);
  };

  const once: CallOptions = { deadlineMilliseconds: 60_000 };

  it('sizes', () => {
    const create = (sizeBytes: string | number) => () =>
      system.client.createVolume({ poolId: 'main', sizeBytes }, once);
    const field = 'size_bytes';
    return refused([
      { what: 'negative', call: create(-1), code: 'OUT_OF_RANGE', field, says: /-1/ },
      { what: 'zero', call: create(0), code: 'OUT_OF_RANGE', field, says: /1 MiB/ },
      { what: 'tiny', call: create(512), code: 'OUT_OF_RANGE', field },
      { what: 'no whole sector', call: create(MEBIBYTE + 100), code: 'INVALID_ARGUMENT', field, says: /512/ },
      { what: 'a fraction', call: create(MEBIBYTE + 0.5), code: 'INVALID_ARGUMENT', field, says: /whole number/ },
      { what: 'over 1 PiB', call: create(String(2n ** 50n + 512n)), code: 'OUT_OF_RANGE', field },
      { what: 'over 2^53', call: create(String(2n ** 60n)), code: 'OUT_OF_RANGE', field },
      { what: 'the largest', call: create(String(2n ** 63n - 1n)), code: 'OUT_OF_RANGE', field },
      {
        what: 'shrinking',
        call: () => system.client.expandVolume({ volumeId, sizeBytes: MEBIBYTE }),
        code: 'INVALID_ARGUMENT',
        field,
      },
      {
        what: 'a huge expansion',
        call: () => system.client.expandVolume({ volumeId, sizeBytes: String(2n ** 62n) }),
        code: 'OUT_OF_RANGE',
        field,
      },
      {
        what: 'a clone smaller than its snapshot',
        call: () => system.client.createVolume({ source: { snapshotId }, sizeBytes: MEBIBYTE }),
        code: 'INVALID_ARGUMENT',
        field,
      },
    ]);
  });

  it('unknown ids, and ids of the wrong kind', () => {
    const { client } = system;
    const unknown = '0123456789abcdef0';
    const notFound = (what: string, call: () => Promise<unknown>) => ({
      what,
      call,
      code: 'NOT_FOUND' as const,
      says: unknown,
    });
    const wrong = (field: string, call: () => Promise<unknown>) => ({
      what: `wrong ${field}`,
      call,
      code: 'INVALID_ARGUMENT' as const,
      field,
    });
    return refused([
      notFound('volume', () => client.getVolume({ volumeId: `vol-${unknown}` })),
      notFound('expand', () => client.expandVolume({ volumeId: `vol-${unknown}`, sizeBytes: MEBIBYTE })),
      notFound('delete', () => client.deleteVolume({ volumeId: `vol-${unknown}` })),
      notFound('undelete', () => client.undeleteVolume({ volumeId: `vol-${unknown}` })),
      notFound('snapshot', () => client.getSnapshot({ snapshotId: `snap-${unknown}` })),
      notFound('snapshot of', () => client.createSnapshot({ volumeId: `vol-${unknown}` })),
      notFound('volume from', () => client.createVolume({ source: { snapshotId: `snap-${unknown}` } })),
      notFound('export', () => client.getExport({ exportId: `exp-${unknown}` })),
      notFound('unexport', () => client.unexport({ exportId: `exp-${unknown}` })),
      notFound('operation', () => client.getOperation({ operationId: `op-${unknown}` })),
      {
        what: 'pool',
        call: () => client.createVolume({ poolId: 'elsewhere', sizeBytes: MEBIBYTE }),
        code: 'NOT_FOUND',
        says: 'elsewhere',
      },
      {
        what: 'node',
        call: () => client.export({ volumeId, authority: 'direct', direct: { nodeId: 'nc-z' } }),
        code: 'NOT_FOUND',
        says: 'nc-z',
      },
      wrong('volume_id', () => client.getVolume({ volumeId: snapshotId })),
      wrong('volume_id', () => client.getVolume({ volumeId: '' })),
      wrong('volume_id', () => client.createSnapshot({ volumeId: snapshotId })),
      wrong('volume_id', () => client.deleteVolume({ volumeId: "vol-'; DROP TABLE documents; --" })),
      wrong('volume_id', () => client.getVolume({ volumeId: `${volumeId}\n` })),
      wrong('volume_id', () => client.getVolume({ volumeId: 'v'.repeat(10_000) })),
      wrong('snapshot_id', () => client.getSnapshot({ snapshotId: volumeId })),
      wrong('source.snapshot_id', () => client.createVolume({ source: { snapshotId: volumeId } })),
      wrong('export_id', () => client.unexport({ exportId: volumeId })),
      wrong('operation_id', () => client.getOperation({ operationId: volumeId })),
      wrong('grant_id', () => client.export({ volumeId, authority: 'grantId', grantId: volumeId })),
    ]);
  });

  it('names with quotes and slashes are kept as they are; line breaks and 10,000 characters are refused', async () => {
    const { client } = system;
    const name = `it's "a/b\\c" <d> ; rm -rf $HOME ☃`;
    const { volume } = await client.createVolume({
      poolId: 'main',
      sizeBytes: MEBIBYTE,
      displayName: name,
      tags: { [name]: name },
    });
    const { volume: found } = await client.getVolume({ volumeId: volume?.id ?? '' });
    expect(found).to.deep.include({ displayName: name, tags: { [name]: name } });
    const create = (more: object) => () => client.createVolume({ poolId: 'main', sizeBytes: MEBIBYTE, ...more });
    const code = 'INVALID_ARGUMENT';
    const many = Object.fromEntries(Array.from({ length: 51 }, (_, index) => [`tag-${index}`, '']));
    await refused([
      { what: 'a line break', call: create({ displayName: 'a\nb' }), code, field: 'display_name' },
      { what: 'NUL', call: create({ displayName: 'a\0b' }), code, field: 'display_name' },
      { what: '10,000 characters', call: create({ displayName: 'x'.repeat(10_000) }), code, field: 'display_name' },
      { what: 'a long tag', call: create({ tags: { a: 'x'.repeat(10_000) } }), code, field: 'tags' },
      { what: 'a tag without a name', call: create({ tags: { '': 'x' } }), code, field: 'tags' },
      { what: '51 tags', call: create({ tags: many }), code, field: 'tags' },
      { what: 'a pool with a slash', call: create({ poolId: '../main' }), code, field: 'pool_id' },
      { what: 'no pool', call: create({ poolId: '' }), code, field: 'pool_id' },
      { what: 'a long token', call: create({ clientToken: 'x'.repeat(10_000) }), code, field: 'client_token' },
      { what: 'a token with a line break', call: create({ clientToken: 'a\nb' }), code, field: 'client_token' },
      {
        what: 'a snapshot’s name',
        call: () => client.createSnapshot({ volumeId, displayName: 'a\r\nb' }),
        code,
        field: 'display_name',
      },
      {
        what: 'a node’s name',
        call: () => client.registerNode({ nodeId: 'nc a"/\n', publicKey: Buffer.from(generateKeyPair().publicKey) }),
        code,
        field: 'node_id',
      },
      {
        what: 'a node’s key',
        call: () => client.registerNode({ nodeId: 'nc-q', publicKey: Buffer.from('short') }),
        code,
        field: 'public_key',
      },
      {
        what: 'an instance',
        call: () => client.grantExport({ volumeId, nodeId: 'nc-a', instance: 'i'.repeat(10_000) }),
        code,
        field: 'instance',
      },
    ]);
  });

  it('lists: page sizes, page tokens of other lists and made-up ones', async () => {
    const { client } = system;
    const { nextPageToken } = await client.listVolumes({ pageSize: 1 });
    expect(nextPageToken).not.to.equal('');
    const code = 'INVALID_ARGUMENT';
    await refused([
      { what: 'negative', call: () => client.listVolumes({ pageSize: -1 }), code, field: 'page_size' },
      { what: 'too many', call: () => client.listVolumes({ pageSize: 1001 }), code, field: 'page_size' },
      { what: 'made up', call: () => client.listVolumes({ pageToken: 'AAAA' }), code, field: 'page_token' },
      {
        what: 'of another list',
        call: () => client.listNodes({ pageToken: nextPageToken }),
        code,
        field: 'page_token',
      },
      {
        what: 'of another filter',
        call: () => client.listVolumes({ pageToken: nextPageToken, poolId: 'main' }),
        code,
        field: 'page_token',
      },
    ]);
  });

  it('a token reused with other parameters, of each kind of call', async () => {
    const { client } = system;
    const clientToken = 'the-same-token';
    const { volume } = await client.createVolume({ clientToken, poolId: 'main', sizeBytes: MEBIBYTE });
    await client.expandVolume({ clientToken, volumeId: volume?.id ?? '', sizeBytes: 2 * MEBIBYTE });
    await client.createSnapshot({ clientToken, volumeId });
    const code = 'ALREADY_EXISTS';
    const says = /client_token/;
    await refused([
      {
        what: 'CreateVolume',
        call: () => client.createVolume({ clientToken, poolId: 'main', sizeBytes: 2 * MEBIBYTE }),
        code,
        says,
      },
      {
        what: 'ExpandVolume',
        call: () => client.expandVolume({ clientToken, volumeId, sizeBytes: 8 * MEBIBYTE }),
        code,
        says,
      },
      {
        what: 'CreateSnapshot',
        call: () => client.createSnapshot({ clientToken, volumeId, displayName: 'other' }),
        code,
        says,
      },
    ]);
  });

  it('what is deleted, and what is exported', async () => {
    const { client } = system;
    const deleted = (await client.createVolume({ poolId: 'main', sizeBytes: MEBIBYTE })).volume?.id ?? '';
    await client.deleteVolume({ volumeId: deleted });
    const exported = await node.export(volumeId);
    const code = 'FAILED_PRECONDITION';
    await refused([
      {
        what: 'export of a deleted volume',
        call: () => client.export({ volumeId: deleted, authority: 'direct', direct: { nodeId: 'nc-a' } }),
        code,
        says: /deleted/,
      },
      { what: 'snapshot of it', call: () => client.createSnapshot({ volumeId: deleted }), code, says: /deleted/ },
      {
        what: 'expanding it',
        call: () => client.expandVolume({ volumeId: deleted, sizeBytes: 2 * MEBIBYTE }),
        code,
        says: /deleted/,
      },
      {
        what: 'a grant for it',
        call: () => client.grantExport({ volumeId: deleted, nodeId: 'nc-a' }),
        code,
        says: /deleted/,
      },
      { what: 'delete of an exported volume', call: () => client.deleteVolume({ volumeId }), code, says: /nc-a/ },
      {
        what: 'export to a second node',
        call: () => client.export({ volumeId, authority: 'direct', direct: { nodeId: 'nc-b' } }),
        code,
        says: /nc-a/,
      },
      {
        what: 'a migration without an instance',
        call: () => client.export({ volumeId, authority: 'direct', direct: { nodeId: 'nc-b', migration: true } }),
        code: 'INVALID_ARGUMENT',
        field: 'direct.instance',
      },
      {
        what: 'removing a node that has exports',
        call: () => client.removeNode({ nodeId: 'nc-a' }),
        code,
        says: exported.exportId,
      },
      {
        what: 'undelete of what lives',
        call: () => client.undeleteSnapshot({ snapshotId: volumeId }),
        code: 'INVALID_ARGUMENT',
      },
    ]);
    await client.unexport({ exportId: exported.exportId });
  });

  it('exports without a grant, with another’s, with an expired and with a redeemed one', async () => {
    const { client } = system;
    const other = (await client.createVolume({ poolId: 'main', sizeBytes: MEBIBYTE })).volume?.id ?? '';
    const grantFor = async (id: string, more: object = {}): Promise<string> =>
      (await client.grantExport({ volumeId: id, nodeId: 'nc-a', ...more })).grant?.id ?? '';
    const [others, short, used] = [
      await grantFor(other),
      await grantFor(volumeId, { lifetime: { seconds: 0, nanos: 1_000_000 } }),
      await grantFor(volumeId),
    ];
    const redeemed = await client.export({ volumeId, authority: 'grantId', grantId: used });
    await client.unexport({ exportId: redeemed.export?.id ?? '' });
    const made = Date.now();
    await waitFor('the grant expires', () => Date.now() > made);
    const redeem = (grantId: string) => () => client.export({ volumeId, authority: 'grantId', grantId });
    await refused([
      { what: 'no authority', call: () => client.export({ volumeId }), code: 'INVALID_ARGUMENT', field: 'authority' },
      { what: 'an unknown grant', call: redeem('grant-0123456789abcdef0'), code: 'NOT_FOUND' },
      { what: 'of another volume', call: redeem(others), code: 'PERMISSION_DENIED', field: 'grant_id' },
      { what: 'expired', call: redeem(short), code: 'FAILED_PRECONDITION', says: /expired/ },
      { what: 'redeemed and ended', call: redeem(used), code: 'FAILED_PRECONDITION', says: /ended/ },
      {
        what: 'a lifetime of two days',
        call: () => client.grantExport({ volumeId, nodeId: 'nc-a', lifetime: { seconds: 172_800, nanos: 0 } }),
        code: 'INVALID_ARGUMENT',
        field: 'lifetime',
      },
      {
        what: 'a negative lifetime',
        call: () => client.grantExport({ volumeId, nodeId: 'nc-a', lifetime: { seconds: -1, nanos: 0 } }),
        code: 'INVALID_ARGUMENT',
        field: 'lifetime',
      },
    ]);
  });

  it('what this version does not do yet', () => {
    const { client } = system;
    return refused([
      {
        what: 'encrypted',
        call: () => client.createVolume({ poolId: 'main', sizeBytes: MEBIBYTE, encrypted: true }),
        code: 'UNIMPLEMENTED',
        field: 'encrypted',
      },
      {
        what: 'from a volume',
        call: () => client.createVolume({ poolId: 'main', sizeBytes: MEBIBYTE, source: { volumeId } }),
        code: 'UNIMPLEMENTED',
        field: 'source',
      },
    ]);
  });

  it('pools of what is not there', () => {
    const { client } = system;
    const pool = (poolId: string, rbd: object) => () =>
      client.createPool({ poolId, settings: 'rbd', rbd: { cluster: 'main', cephPool: 'bad-input', ...rbd } }, once);
    return refused([
      {
        what: 'no such cluster',
        call: pool('two', { cluster: 'mars' }),
        code: 'FAILED_PRECONDITION',
        says: /mars/,
      },
      {
        what: 'no such Ceph pool',
        call: pool('three', { cephPool: 'not-there' }),
        code: 'FAILED_PRECONDITION',
        says: /not-there/,
      },
      { what: 'a second one on the same place', call: pool('four', {}), code: 'ALREADY_EXISTS' },
      {
        what: 'no settings',
        call: () => client.createPool({ poolId: 'five' }),
        code: 'INVALID_ARGUMENT',
        field: 'settings',
      },
    ]);
  });

  it('a message that is too large', async () => {
    const before = await everything();
    const client = connect({ endpoints: [system.endpoint] });
    const call = client.createVolume({ poolId: 'main', sizeBytes: MEBIBYTE, displayName: 'x'.repeat(5 * MEBIBYTE) });
    const error = await call.catch((thrown: unknown) => thrown);
    expect(error).to.be.instanceOf(MoorageCallError).and.include({ code: 'RESOURCE_EXHAUSTED' });
    client.close();
    expect(await everything()).to.deep.equal(before);
  });
});
