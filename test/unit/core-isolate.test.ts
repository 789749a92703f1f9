import { expect } from 'chai';
import { admin, CoreWorld, expectFailure, MEBIBYTE, mutation } from '../helpers/core-world.js';
import { waitFor } from '../helpers/wait.js';

const settings = {
  ...({ backend: 'rbd', cluster: 'main', cephPool: 'apart', access: 'managed', keyringUser: '' } as const),
  isolate: true,
};

describe('core: a pool that isolates its volumes', () => {
  let world: CoreWorld;
  beforeEach(async () => {
    world = await CoreWorld.make();
    await createPool('apart', settings);
  });
  afterEach(async () => {
    try {
      world.fake.fault = () => undefined;
      await world.expectWhole();
    } finally {
      await world.end();
    }
  });

  const createPool = (poolId: string, given: object) =>
    world.core.services.pools.create(
      { ...mutation(), poolId, settings: { ...settings, ...given }, undeleteWindowSeconds: 60, tags: {} },
      admin(),
    );

  it('a snapshot is a copy of its own, and what is made from it reads nothing of the volume below', async () => {
    const origin = await world.createVolume({ poolId: 'apart' });
    world.fake.write(await world.imageName(origin.id), 0, 'before');
    const snapshot = await world.createSnapshot(origin.id);
    expect(snapshot).to.include({ state: 'completed', cloneDepth: 0 });
    expect(snapshot.image?.parent).to.equal(undefined);
    const volume = await world.createFrom(snapshot.id);
    expect(world.fake.read(await world.imageName(volume.id), 0)).to.equal('before');
    const exported = await world.export(volume.id, 'node-a');
    expect(exported.resource.value.ancestorIds).to.deep.equal([snapshot.id]);
    // Also of one that lies on a snapshot already.
    const second = await world.createSnapshot(volume.id);
    expect(second.image?.parent).to.equal(undefined);
  });

  it('that copy cannot be left out, and a pool that is full for it fails the snapshot', async () => {
    const origin = await world.createVolume({ poolId: 'apart', sizeBytes: MEBIBYTE });
    world.fake.flattenQuestions = 1_000_000;
    const making = world.createSnapshot(origin.id).catch((error: unknown) => error);
    await waitFor('the flattening to begin', () => world.fake.calls.some(({ method }) => method === 'flattenImage'));
    const [running] = await world.running();
    const cancelling = world.core.services.operations.cancel(running?.id ?? '', admin());
    await expectFailure(cancelling, 'FAILED_PRECONDITION', 'NOT_CANCELLABLE');
    world.fake.fault = (method) =>
      method === 'flattenImage' ? { kind: 'permanent', code: 'RESOURCE_EXHAUSTED', reason: 'ENOSPC' } : undefined;
    expect(await making).to.include({ code: 'RESOURCE_EXHAUSTED' });
  });

  it('goes only with managed access, and is no other pool by the same name', async () => {
    const keyring = { cephPool: 'other', access: 'keyring', keyringUser: 'nodes' };
    await expectFailure(createPool('other', keyring), 'INVALID_ARGUMENT');
    await expectFailure(createPool('apart', { isolate: false }), 'ALREADY_EXISTS');
  });
});
