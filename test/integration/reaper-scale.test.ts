import { readFile, writeFile } from 'node:fs/promises';
import { expect } from 'chai';
import { parse, stringify } from 'yaml';
import type { Cluster as CephConnection } from '../../src/agents/rbd/librbd/cluster.js';
import { headerObject } from '../../src/agents/rbd/librbd/header.js';
import { RbdImage } from '../../src/agents/rbd/librbd/image.js';
import type { PoolContext } from '../../src/agents/rbd/librbd/pool-context.js';
import { cleanUp } from '../helpers/clean-up.js';
import { takeInventory } from '../helpers/pool-audit.js';
import { type System, startSystem } from '../helpers/system.js';
import { openAsAdministrator } from '../helpers/test-node.js';
import { waitFor } from '../helpers/wait.js';

const SIZE_BYTES = 8 * 2 ** 20;
const IMAGES = process.env.MOORAGE_TEST_FULL ? 1_000 : 120;

describe(`the reaper before ${IMAGES} images of which two are poisoned`, function () {
  this.timeout(1_800_000);
  let system: System;
  let connection: CephConnection;
  let pool: PoolContext;
  let watcher: RbdImage | undefined;

  before(async () => {
    system = await startSystem({ name: 'reaper-scale', settings: { reaper: { interval: '1h' } } });
    ({ cluster: connection, pool } = await openAsAdministrator(system));
  });

  after(async () => {
    await cleanUp(
      () => watcher?.close(),
      () => pool?.close(),
      () => connection?.close(),
      () => system?.remove(),
    );
  });

  const create = async (): Promise<string> => {
    const { volume } = await system.client.createVolume({ poolId: 'main', sizeBytes: SIZE_BYTES });
    return volume?.id ?? '';
  };

  it('purges all the others, again and again in spite of them; and what is poisoned once it is healed', async () => {
    const ids: string[] = [];
    await Promise.all(
      Array.from({ length: 16 }, async () => {
        while (ids.length < IMAGES) {
          const place = ids.push('') - 1;
          ids[place] = await create();
        }
      }),
    );
    // One that somebody watches who never goes, and a clone whose parent's header is gone.
    const [watched = '', origin = ''] = ids;
    const { snapshot } = await system.client.createSnapshot({ volumeId: origin });
    const snapshotId = snapshot?.id ?? '';
    const orphan =
      (await system.client.createVolume({ source: { source: 'snapshotId', snapshotId } })).volume?.id ?? '';
    const idOf = async (name: string): Promise<string> => {
      const image = await RbdImage.open(pool, { name }, {});
      try {
        return await image.id();
      } finally {
        await image.close();
      }
    };
    const watchedImage = await idOf(watched);
    const parentHeader = headerObject(await idOf(snapshotId));
    for (const volumeId of [...ids, orphan]) await system.client.deleteVolume({ volumeId });
    await system.client.deleteSnapshot({ snapshotId });
    watcher = await RbdImage.open(pool, { id: watchedImage }, {});
    await pool.remove(parentHeader);

    await system.stop();
    const configuration = parse(await readFile(system.configurationFile, 'utf8'));
    await writeFile(system.configurationFile, stringify({ ...configuration, reaper: { interval: '1s' } }));
    const began = performance.now();
    await system.start();

    const left = async (): Promise<readonly string[]> =>
      (await takeInventory(system)).volumes.map(({ id }) => id).filter((id) => ids.includes(id) || id === orphan);
    const creates: number[] = [];
    const fresh: string[] = [];
    await waitFor(
      'all but the watched one to be gone',
      async () => {
        const started = performance.now();
        fresh.push(await create());
        creates.push(performance.now() - started);
        const ofThem = await left();
        return ofThem.length === 1 && ofThem[0] === watched;
      },
      { timeoutMilliseconds: 1_500_000, intervalMilliseconds: 100 },
    );
    creates.sort((a, b) => a - b);
    process.stdout.write(
      `      ${ids.length + 1} images purged in ${((performance.now() - began) / 1000).toFixed(1)} s; ` +
        `a create meanwhile took ${(creates[Math.floor(creates.length / 2)] ?? 0).toFixed(1)} ms (median of ${creates.length})\n`,
    );
    // Whoever was made meanwhile is untouched.
    for (const volumeId of fresh) {
      expect((await system.client.getVolume({ volumeId })).volume?.state).to.equal('VOLUME_STATE_AVAILABLE');
    }
    await watcher.close();
    watcher = undefined;
    await waitFor('the watched one to be gone', async () => (await left()).length === 0, {
      timeoutMilliseconds: 120_000,
    });
    await waitFor('the snapshot to be gone', async () => (await takeInventory(system)).snapshots.length === 0, {
      timeoutMilliseconds: 120_000,
    });
  });
});
