import { expect } from 'chai';
import { putDebris } from '../../src/core/journal/documents.js';
import type { Debris } from '../../src/core/model/resources.js';
import { admin, CoreWorld, expectFailure, mutation, volumeRequest } from '../helpers/core-world.js';
import { waitFor } from '../helpers/wait.js';

describe('core: a pool that is stuck', () => {
  let world: CoreWorld;

  beforeEach(async () => {
    world = await CoreWorld.make({ maximumRunningOperations: 2 });
    await world.core.services.pools.create(
      {
        ...mutation(),
        poolId: 'hdd',
        settings: { backend: 'rbd', cluster: 'main', cephPool: 'hdd', access: 'managed', keyringUser: '' },
        undeleteWindowSeconds: 60,
        tags: {},
      },
      admin(),
    );
  });

  afterEach(() => world.end());

  it('fills its own room, says so with a time to try again, and takes nothing from another pool', async () => {
    let release = (): void => undefined;
    const until = new Promise<void>((resolve) => {
      release = resolve;
    });
    let stuck = 0;
    world.fake.fault = (method) => {
      if (method !== 'createImage' || stuck >= 2) return undefined;
      stuck += 1;
      return { kind: 'hang', until };
    };
    const waiting = [world.createVolume(), world.createVolume()];
    await waitFor('both to be stuck', () => stuck === 2);
    const refused = await expectFailure(world.createVolume(), 'RESOURCE_EXHAUSTED', 'TOO_MANY_OPERATIONS');
    expect(refused.message).to.include('ssd');
    expect(refused.retryAfterMilliseconds).to.be.above(0);
    for (let round = 0; round < 4; round += 1) {
      const made = await world.core.services.volumes.create(volumeRequest({ poolId: 'hdd' }), admin());
      expect(made.resource.value.state).to.equal('available');
    }
    release();
    for (const volume of await Promise.all(waiting)) expect(volume.state).to.equal('available');
    expect((await world.createVolume()).state).to.equal('available');
  });
});

describe('core: the reaper and what is left over', () => {
  it('never destroys what a record calls its image, whoever put it among what is left over', async () => {
    const world = await CoreWorld.make();
    try {
      const { id, image } = await world.createVolume();
      if (image === undefined) throw new Error(`${id} has no image`);
      const debris: Debris = { name: image.name, poolId: 'ssd', image, reason: 'a mistake', createTime: 0 };
      expect(await world.store.commit([putDebris(debris, 'absent')])).to.include({ ok: true });
      await world.core.reap();
      expect(world.fake.find(image.name)?.id).to.equal(image.backendId);
      expect(world.notices.filter((notice) => notice.includes('is kept'))).to.have.length(1);
      await world.expectWhole();
    } finally {
      await world.end();
    }
  });
});
