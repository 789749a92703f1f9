import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { systemClock } from '../../src/bin/controller.js';
import { lockKeys, releaseLocks, takeLocks } from '../../src/core/journal/locks.js';
import { newId } from '../../src/core/model/ids.js';
import type { Lock, Operation } from '../../src/core/model/operation.js';
import type { Store } from '../../src/core/ports/store.js';
import { openSqliteStore } from '../../src/store/sqlite/index.js';

function operation(locks: readonly Lock[]): Operation {
  return {
    id: newId('op'),
    kind: 'volume.create',
    resourceId: newId('vol'),
    poolId: 'main',
    owner: 'test',
    state: 'running',
    phase: 'create-image',
    plan: null,
    locks,
    progressPercent: 0,
    statusMessage: '',
    principal: 'test',
    createTime: 0,
    updateTime: 0,
  };
}

describe('Locks of operations', () => {
  let directory: string;
  let store: Store;
  const snapshotId = newId('snap');
  const volumeId = newId('vol');

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'moorage-locks-'));
    store = await openSqliteStore({ path: join(directory, 'store.db') });
  });

  afterEach(async () => {
    await store.close();
    await rm(directory, { recursive: true, force: true });
  });

  const begin = async (each: Operation) => store.commit(await takeLocks(store, systemClock, each));
  const end = async (each: Operation) => store.commit(await releaseLocks(store, each));

  for (const resourceId of [snapshotId, volumeId]) {
    const kind = resourceId.split('-')[0];

    it(`is held by many that share it, and leaves nothing when the last has gone (${kind})`, async () => {
      const sharing = Array.from({ length: 40 }, () => operation([{ resourceId, mode: 'shared' }]));
      for (const each of sharing) expect(await begin(each)).to.include({ ok: true });
      for (const each of sharing) expect(await end(each)).to.include({ ok: true });
      for (const key of lockKeys(resourceId)) expect(await store.get(key)).to.equal(undefined);
    });

    it(`keeps one that wants it alone out while any shares it, and names that one (${kind})`, async () => {
      for (let round = 0; round < 20; round += 1) {
        const sharing = operation([{ resourceId, mode: 'shared' }]);
        await begin(sharing);
        const refused = await begin(operation([{ resourceId, mode: 'exclusive' }])).catch((error: unknown) => error);
        expect(refused).to.have.property('code', 'ABORTED');
        expect(refused).to.have.property('message').that.includes(sharing.id);
        await end(sharing);
      }
    });

    it(`keeps everybody out of what one holds alone (${kind})`, async () => {
      const alone = operation([{ resourceId, mode: 'exclusive' }]);
      await begin(alone);
      for (let round = 0; round < 20; round += 1) {
        const refused = await begin(operation([{ resourceId, mode: 'shared' }])).catch((error: unknown) => error);
        expect(refused).to.have.property('code', 'ABORTED');
      }
      await end(alone);
      expect(await begin(operation([{ resourceId, mode: 'exclusive' }]))).to.include({ ok: true });
    });

    it(`lets one of two win that looked at the same time, whichever commits first (${kind})`, async () => {
      for (let round = 0; round < 20; round += 1) {
        const sharing = operation([{ resourceId, mode: 'shared' }]);
        const alone = operation([{ resourceId, mode: 'exclusive' }]);
        const [first, second] = round % 2 === 0 ? [sharing, alone] : [alone, sharing];
        const [firstWrites, secondWrites] = [
          await takeLocks(store, systemClock, first),
          await takeLocks(store, systemClock, second),
        ];
        expect(await store.commit(firstWrites)).to.include({ ok: true });
        expect(await store.commit(secondWrites)).to.include({ ok: false });
        await end(first);
      }
    });
  }
});
