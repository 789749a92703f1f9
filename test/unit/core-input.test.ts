import { randomUUID } from 'node:crypto';
import { expect } from 'chai';
import { newId } from '../../src/core/model/ids.js';
import { exportTo, snapshotTo, volumeTo } from '../../src/core/transitions.js';
import {
  admin,
  CoreWorld,
  callerOf,
  change,
  expectFailure,
  MEBIBYTE,
  mutation,
  volumeRequest,
} from '../helpers/core-world.js';

describe('core: transitions', () => {
  const volumeStates = ['creating', 'available', 'deleting', 'deleted', 'purging', 'gone', 'error'] as const;
  const allowed: Readonly<Record<string, readonly string[]>> = {
    creating: ['available', 'gone'],
    available: ['deleting', 'error'],
    deleting: ['deleted', 'available'],
    deleted: ['available', 'purging'],
    purging: ['gone'],
    gone: [],
    error: ['deleting', 'available'],
  };
  for (const from of volumeStates) {
    it(`a volume that is ${from} goes only to ${allowed[from]?.join(', ') || 'nothing'}`, () => {
      for (const to of volumeStates) {
        const move = () => volumeTo({ id: 'vol-1', state: from }, to);
        if (allowed[from]?.includes(to) === true) expect(move().state).to.equal(to);
        else expect(move, to).to.throw(/cannot go from/);
      }
    });
  }
  it('nothing comes back from purging or gone, for snapshots and exports too', () => {
    expect(() => snapshotTo({ id: 's', state: 'purging' }, 'completed')).to.throw();
    expect(() => snapshotTo({ id: 's', state: 'gone' }, 'deleted')).to.throw();
    expect(() => exportTo({ id: 'e', state: 'gone' }, 'exported')).to.throw();
    expect(() => exportTo({ id: 'e', state: 'exporting' }, 'unexporting')).to.throw();
  });
});

describe('core: bad input', () => {
  let world: CoreWorld;
  before(async () => {
    world = await CoreWorld.make();
  });
  after(() => world.end());
  afterEach(() => world.expectWhole());

  const sizes: readonly (readonly [string, number, string])[] = [
    ['zero', 0, 'OUT_OF_RANGE'],
    ['negative', -MEBIBYTE, 'OUT_OF_RANGE'],
    ['fractional', MEBIBYTE + 0.5, 'INVALID_ARGUMENT'],
    ['NaN', Number.NaN, 'INVALID_ARGUMENT'],
    ['infinite', Number.POSITIVE_INFINITY, 'INVALID_ARGUMENT'],
    ['below a mebibyte', 512, 'OUT_OF_RANGE'],
    ['no multiple of a sector', MEBIBYTE + 1, 'INVALID_ARGUMENT'],
    ['above a pebibyte', 2 ** 51, 'OUT_OF_RANGE'],
    ['huge', 2 ** 62, 'INVALID_ARGUMENT'],
  ];
  for (const [what, sizeBytes, code] of sizes) {
    it(`a size that is ${what}`, async () => {
      const error = await expectFailure(world.createVolume({ sizeBytes }), code);
      expect(error.fieldViolations.map(({ field }) => field)).to.deep.equal(['size_bytes']);
    });
  }

  const texts: readonly (readonly [string, Parameters<typeof volumeRequest>[0], string])[] = [
    ['a name with a line break', { displayName: 'a\nb' }, 'display_name'],
    ['a name of 10,000 characters', { displayName: 'x'.repeat(10_000) }, 'display_name'],
    ['an empty tag', { tags: { '': 'x' } }, 'tags'],
    ['a tag of 10,000 characters', { tags: { a: 'x'.repeat(10_000) } }, 'tags'],
    ['a pool with a slash', { poolId: '../ssd' }, 'pool_id'],
    ['a pool with quotes', { poolId: '"ssd"' }, 'pool_id'],
    ['a pool of 10,000 characters', { poolId: 'x'.repeat(10_000) }, 'pool_id'],
    ['no token', { clientToken: '' }, 'client_token'],
    ['a token with a space', { clientToken: 'a b' }, 'client_token'],
    ['a token of 10,000 characters', { clientToken: 'x'.repeat(10_000) }, 'client_token'],
    ['a volume where a snapshot belongs', { sourceSnapshotId: newId('vol') }, 'source.snapshot_id'],
  ];
  for (const [what, request, field] of texts) {
    it(what, async () => {
      const error = await expectFailure(world.createVolume(request), 'INVALID_ARGUMENT');
      expect(error.fieldViolations[0]?.field).to.equal(field);
      expect(error.message.length).to.be.below(400);
    });
  }

  it('quotes and slashes in a name for people are kept as they are', async () => {
    const displayName = `"it's" <b>/../\\ ünï ${'🙂'}`;
    expect((await world.createVolume({ displayName })).displayName).to.equal(displayName);
  });

  it('ids that never were, and ids of the wrong kind', async () => {
    const { volumes, snapshots, exports, operations } = world.core.services;
    await expectFailure(volumes.get(newId('vol'), admin()), 'NOT_FOUND');
    await expectFailure(volumes.get(newId('snap'), admin()), 'INVALID_ARGUMENT');
    await expectFailure(volumes.get('vol-0123456789abcdeF0', admin()), 'INVALID_ARGUMENT');
    await expectFailure(volumes.get('', admin()), 'INVALID_ARGUMENT');
    await expectFailure(world.deleteVolume(newId('vol')), 'NOT_FOUND');
    await expectFailure(snapshots.get(newId('vol'), admin()), 'INVALID_ARGUMENT');
    await expectFailure(world.createSnapshot(newId('vol')), 'NOT_FOUND');
    await expectFailure(exports.get(newId('exp'), admin()), 'NOT_FOUND');
    await expectFailure(operations.wait(newId('op'), 10, admin()), 'NOT_FOUND');
    await expectFailure(world.createVolume({ poolId: 'nowhere' }), 'NOT_FOUND');
  });

  it('page tokens of others, of other filters, altered, and invented', async () => {
    const { volumes } = world.core.services;
    for (let count = 0; count < 3; count += 1) await world.createVolume();
    const list = { poolId: '', sourceSnapshotId: '', states: [], tags: {}, pageSize: 1, pageToken: '' };
    const { nextPageToken } = await volumes.list(list, admin());
    expect((await volumes.list({ ...list, pageToken: nextPageToken }, admin())).items).to.have.length(1);
    const foreign = [
      volumes.list({ ...list, pageToken: nextPageToken }, callerOf('somebody', 'admin')),
      volumes.list({ ...list, pageToken: nextPageToken }, callerOf('root', 'reader')),
      volumes.list({ ...list, poolId: 'ssd', pageToken: nextPageToken }, admin()),
      volumes.list({ ...list, pageToken: `${nextPageToken.slice(0, -3)}AAA` }, admin()),
      volumes.list({ ...list, pageToken: 'made up/"\n' }, admin()),
    ];
    for (const call of foreign) {
      const error = await expectFailure(call, 'INVALID_ARGUMENT');
      expect(error.fieldViolations[0]?.field).to.equal('page_token');
    }
    for (const pageSize of [-1, 1_001, 1.5]) {
      await expectFailure(volumes.list({ ...list, pageSize }, admin()), 'INVALID_ARGUMENT');
    }
  });

  it('a token with other parameters is refused, also after the resource is gone; another caller has tokens of its own', async () => {
    const clientToken = randomUUID();
    const made = await world.createVolume({ clientToken, displayName: 'one' });
    expect((await world.createVolume({ clientToken, displayName: 'one' })).id).to.equal(made.id);
    const error = await expectFailure(world.createVolume({ clientToken, displayName: 'two' }), 'ALREADY_EXISTS');
    expect(error.metadata).to.deep.equal({ resource_id: made.id });
    const other = await world.createVolume({ clientToken, displayName: 'two' }, callerOf('other', 'admin'));
    expect(other.id).not.to.equal(made.id);
    await world.deleteVolume(made.id);
    world.ahead += 61_000;
    await world.core.reap();
    await expectFailure(world.createVolume({ clientToken, displayName: 'one' }), 'NOT_FOUND', 'GONE');
    await expectFailure(world.createVolume({ clientToken, displayName: 'two' }), 'ALREADY_EXISTS');
  });

  it('a late duplicate of a delete that had nothing to do does nothing after the undelete', async () => {
    const { id } = await world.createVolume();
    const { volumes } = world.core.services;
    await world.deleteVolume(id);
    const late = change(id);
    await volumes.delete(late, admin());
    await volumes.undelete(change(id), admin());
    await volumes.delete(late, admin());
    expect((await world.volume(id)).state).to.equal('available');
  });

  it('validate_only changes nothing, and refuses what the call would refuse', async () => {
    const before = world.fake.calls.length;
    const { volumes } = world.core.services;
    const request = { ...volumeRequest(), validateOnly: true };
    expect((await volumes.create(request, admin())).operationId).to.equal('');
    await expectFailure(volumes.create({ ...request, poolId: 'nowhere' }, admin()), 'NOT_FOUND');
    expect(world.fake.calls.length).to.equal(before);
  });

  it('an etag that is not the present one', async () => {
    const { id } = await world.createVolume();
    const { volumes } = world.core.services;
    const { etag } = await volumes.get(id, admin());
    await volumes.expand({ ...change(id), etag, sizeBytes: 2 * MEBIBYTE }, admin());
    const late = volumes.expand({ ...change(id), etag, sizeBytes: 3 * MEBIBYTE }, admin());
    await expectFailure(late, 'ABORTED', 'ETAG_MISMATCH');
  });

  it('smaller sizes are refused, the same size is done already', async () => {
    const { id } = await world.createVolume({ sizeBytes: 4 * MEBIBYTE });
    const { volumes } = world.core.services;
    const smaller = volumes.expand({ ...change(id), sizeBytes: MEBIBYTE }, admin());
    await expectFailure(smaller, 'INVALID_ARGUMENT');
    const same = await volumes.expand({ ...change(id), sizeBytes: 4 * MEBIBYTE }, admin());
    expect(same.operationId).to.equal('');
    const snapshot = await world.createSnapshot(id);
    const request = { poolId: '', sizeBytes: MEBIBYTE, sourceSnapshotId: snapshot.id };
    await expectFailure(world.createVolume(request), 'INVALID_ARGUMENT');
  });

  it('two pools in one place, at once', async () => {
    const { pools } = world.core.services;
    const settings = {
      backend: 'rbd' as const,
      cluster: 'main',
      cephPool: 'hdd',
      access: 'managed' as const,
      keyringUser: '',
    };
    const make = (poolId: string) =>
      pools
        .create({ ...mutation(), poolId, settings, undeleteWindowSeconds: undefined, tags: {} }, admin())
        .then(() => 'made')
        .catch((error: { reason: string }) => error.reason);
    expect((await Promise.all([make('one'), make('two')])).sort()).to.deep.equal(['PLACE_TAKEN', 'made']);
  });
});

describe('core: depth', () => {
  it('is limited to 14 generations, for snapshots and for volumes from them', async () => {
    const world = await CoreWorld.make({ softCloneDepth: 100 });
    try {
      let { id } = await world.createVolume();
      for (let depth = 2; depth <= 14; depth += 2)
        id = (await world.createFrom((await world.createSnapshot(id)).id)).id;
      expect((await world.volume(id)).cloneDepth).to.equal(14);
      const error = await expectFailure(world.createSnapshot(id), 'FAILED_PRECONDITION', 'CLONE_TOO_DEEP');
      expect(error.metadata.limit).to.equal('14');
      await world.expectWhole();
    } finally {
      await world.end();
    }
  });
});
