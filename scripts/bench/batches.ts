import { readFile, stat } from 'node:fs/promises';
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

/** Systems by how many volumes their stores hold. */
export interface Stores {
  readonly small: System;
  readonly large: System;
}

/**
 * Get, the first page of 100, and Create, by how many volumes the store holds: at 100,000 (get-100000/get-1000 …) and then, in
 * the same store, at 1,000,000.
 * @param tell is told what a store of that size takes
 */
export async function measureStores(
  { small, large }: Stores,
  tell: (text: string) => void,
): Promise<readonly Figure[]> {
  const fill = async (system: System, wanted: number): Promise<readonly string[]> => {
    await system.stop();
    const ids = await populate(system.storeFile, wanted);
    await system.start();
    await createVolume(system);
    return ids;
  };
  const get = (system: System, ids: readonly string[]) => (round: number) =>
    timed(() => system.client.getVolume({ volumeId: ids[(round * 7) % ids.length] ?? '' }));
  const list = (system: System) => () => timed(() => system.client.listVolumes({ pageSize: 100 }));
  const create = (system: System) => () => timed(() => createVolume(system));
  const few = await fill(small, 1_000);
  const figures: Figure[] = [];
  for (const size of [100_000, 1_000_000]) {
    const many = await fill(large, size);
    const gets = await alternate(1000, get(large, many), get(small, few));
    const lists = await alternate(200, list(large), list(small));
    const creates = await alternate(100, create(large), create(small));
    figures.push(
      figure(`get-${size}/get-1000`, gets.ours, gets.reference),
      figure(`list-${size}/list-1000`, lists.ours, lists.reference),
      figure(`create-${size}/create-1000`, creates.ours, creates.reference),
    );
    const bytes = (await stat(large.storeFile)).size;
    tell(`${size} volumes: the store's file has ${mebibytes(bytes)}, the controller ${await residentSize(large.pid)}`);
  }
  return figures;
}

/** create-redis/create-sqlite: the same call, by the kind of the store. */
export async function measureRedis(sqlite: System, redis: System): Promise<readonly Figure[]> {
  const times = await alternate(
    200,
    () => timed(() => createVolume(redis)),
    () => timed(() => createVolume(sqlite)),
  );
  return [figure('create-redis/create-sqlite', times.ours, times.reference)];
}

function mebibytes(bytes: number): string {
  return `${Math.round(bytes / 1024 ** 2)} MiB`;
}

/** Memory that a process has (proc(5), VmRSS). */
async function residentSize(pid: number): Promise<string> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  return mebibytes(Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024);
}
