import { readFile, writeFile } from 'node:fs/promises';
import { parse, stringify } from 'yaml';
import type { System } from '../../test/helpers/system.js';
import { waitFor } from '../../test/helpers/wait.js';
import { type Bench, createVolume } from './measures.js';
import { fresh, SIZE_BYTES } from './names.js';
import { alternate, type Figure, figure, inParallel, timed } from './statistics.js';

const TRASHED = 1_000;
const USUAL_CREATES = 100;
/** At most: all of them while there is something to purge, which takes longer. */
const CREATES_MEANWHILE = 60;
/** After a start, until what is hot is compiled. */
const WARMING_CREATES = 50;

/**
 * create-while-reaping/create: a create while the reaper purges 1,000 trashed volumes, beside one of just before.
 * @param system of its own, with an undelete window of 0 and a reaper that does not come by itself
 */
export async function measureReaping(system: System, tell: (text: string) => void): Promise<readonly Figure[]> {
  const create = (): Promise<number> => timed(() => createVolume(system));
  const ids: string[] = [];
  await inParallel(16, Array.from({ length: TRASHED }), async () => {
    ids.push(await createVolume(system));
  });
  const usual: number[] = [];
  while (usual.length < USUAL_CREATES) usual.push(await create());
  await inParallel(16, ids, (volumeId) => system.client.deleteVolume({ volumeId }));
  await system.stop();
  const configuration = parse(await readFile(system.configurationFile, 'utf8')) as Record<string, unknown>;
  await writeFile(system.configurationFile, stringify({ ...configuration, reaper: { interval: '3s' } }));
  await system.start();
  for (let n = 0; n < WARMING_CREATES; n += 1) await create();
  await waitFor('the reaper to begin', async () => (await left(system)) < TRASHED);
  const meanwhile: number[] = [];
  // Counted now and then, so that the counting is little of what goes on meanwhile.
  do {
    for (let n = 0; n < 20; n += 1) meanwhile.push(await create());
  } while (meanwhile.length < CREATES_MEANWHILE && (await left(system)) > 0);
  tell(`${await left(system)} of ${TRASHED} trashed volumes were still to be purged at the end`);
  return [figure('create-while-reaping/create', meanwhile, usual)];
}

/** Volumes that are deleted and not purged yet; 1,000 stands for that many and more. */
async function left(system: System): Promise<number> {
  const { volumes } = await system.client.listVolumes({
    states: ['VOLUME_STATE_DELETED', 'VOLUME_STATE_PURGING'],
    pageSize: 1_000,
  });
  return volumes.length;
}

const GENERATIONS = 40;
const OPENS = 30;

/**
 * open-40-generations: opening the deepest volume of the end of a chain of 40 (a volume, its snapshot, a volume from that, …),
 * as flattening at the soft depth leaves it, beside a fresh image.
 */
export async function measureGenerations(
  { system, reference }: Bench,
  tell: (text: string) => void,
): Promise<readonly Figure[]> {
  const { client, poolId } = system;
  const depths = new Map<string, number>();
  let snapshotId: string | undefined;
  for (let generation = 0; generation < GENERATIONS; generation += 1) {
    const { volume }: Awaited<ReturnType<typeof client.createVolume>> = await client.createVolume(
      snapshotId === undefined ? { poolId, sizeBytes: SIZE_BYTES } : { source: { source: 'snapshotId', snapshotId } },
    );
    if (volume === null) throw new Error('the controller answered without a volume');
    depths.set(volume.id, volume.cloneDepth);
    if (generation + 1 === GENERATIONS) break;
    const { snapshot } = await client.createSnapshot({ volumeId: volume.id });
    snapshotId = snapshot?.id ?? '';
  }
  // The last one may have been lucky: the deepest of the last ones stands for all.
  const [deepest = '', depth = 0] = [...depths].slice(-10).sort(([, a], [, b]) => b - a)[0] ?? [];
  const plain = fresh();
  await reference.run({ task: 'create', name: plain, sizeBytes: SIZE_BYTES });
  tell(`the deepest of the last volumes of ${GENERATIONS} generations lies at depth ${depth}`);
  const times = await alternate(
    OPENS,
    () => reference.run({ task: 'open', name: deepest }),
    () => reference.run({ task: 'open', name: plain }),
  );
  return [figure('open-40-generations', times.ours, times.reference)];
}
