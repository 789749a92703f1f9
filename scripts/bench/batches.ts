import type { System } from '../../test/helpers/system.js';
import { type Bench, cloneVolume, createVolume } from './measures.js';
import { fresh, SIZE_BYTES } from './names.js';
import { populate } from './populate.js';
import { alternate, type Figure, figure, inParallel, timed } from './statistics.js';

/** clones-200x16/librbd: 200 volumes from one snapshot, 16 at a time. */
export async function measureClones({ system, reference, snapshotId }: Bench): Promise<readonly Figure[]> {
  const names = (): string[] => Array.from({ length: 200 }, fresh);
  const times = await alternate(
    2,
    () => timed(() => inParallel(16, names(), () => cloneVolume(system, snapshotId))),
    () => reference.run({ task: 'clones', parent: snapshotId, point: 'base', names: names(), width: 16 }),
  );
  return [figure('clones-200x16/librbd', times.ours, times.reference)];
}

/** snapshots-32/librbd: 32 snapshots at once, of 32 volumes. */
export async function measureSnapshots({ system, reference }: Bench): Promise<readonly Figure[]> {
  const mine: string[] = [];
  const theirs: string[] = [];
  for (let made = 0; made < 32; made += 1) {
    mine.push(await createVolume(system));
    const name = fresh();
    await reference.run({ task: 'create', name, sizeBytes: SIZE_BYTES });
    theirs.push(name);
  }
  const times = await alternate(
    4,
    () => timed(() => Promise.all(mine.map((volumeId) => system.client.createSnapshot({ volumeId })))),
    () => reference.run({ task: 'snapshots', volumes: theirs, point: fresh() }),
  );
  return [figure('snapshots-32/librbd', times.ours, times.reference)];
}

/** get-100000/get-1000 and list-100000/list-1000: Get, and the first page of 100, by how many volumes the store holds. */
export async function measureStores(small: System, large: System): Promise<readonly Figure[]> {
  const fill = async (system: System, wanted: number): Promise<readonly string[]> => {
    await system.stop();
    const ids = await populate(system.storeFile, wanted);
    await system.start();
    await createVolume(system);
    return ids;
  };
  const few = await fill(small, 1_000);
  const many = await fill(large, 100_000);
  const get = (system: System, ids: readonly string[]) => (round: number) =>
    timed(() => system.client.getVolume({ volumeId: ids[(round * 7) % ids.length] ?? '' }));
  const list = (system: System) => () => timed(() => system.client.listVolumes({ pageSize: 100 }));
  const gets = await alternate(1000, get(large, many), get(small, few));
  const lists = await alternate(200, list(large), list(small));
  return [
    figure('get-100000/get-1000', gets.ours, gets.reference),
    figure('list-100000/list-1000', lists.ours, lists.reference),
  ];
}
