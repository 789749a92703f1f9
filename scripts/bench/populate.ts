import { indexes, putVolume } from '../../src/core/journal/documents.js';
import { newId } from '../../src/core/model/ids.js';
import type { Volume } from '../../src/core/model/resources.js';
import { openSqliteStore } from '../../src/store/sqlite/index.js';

/** Fills a store that nobody has open with volumes until it has so many. @returns the ids of a thousand of them */
export async function populate(path: string, wanted: number): Promise<readonly string[]> {
  const store = await openSqliteStore({ path });
  const ids: string[] = [];
  try {
    for (let made = await store.count(indexes.volumes); made < wanted; ) {
      const size = Math.min(500, wanted - made);
      const volumes = Array.from({ length: size }, (_, index) => sampleVolume(made + index));
      const outcome = await store.commit(volumes.map((volume) => putVolume(volume, 'absent')));
      if (!outcome.ok) throw new Error('the store refused a volume of the benchmark');
      made += size;
      ids.push(...volumes.map((volume) => volume.id));
    }
  } finally {
    await store.close();
  }
  const step = Math.max(1, Math.floor(ids.length / 1000));
  return ids.filter((_, index) => index % step === 0);
}

/** A volume as the store holds it. */
export function sampleVolume(number: number): Volume {
  const id = newId('vol');
  return {
    id,
    poolId: 'main',
    state: 'available',
    statusMessage: '',
    sizeBytes: 10 * 1024 ** 3,
    displayName: `database ${number}`,
    tags: { owner: `tenant-${number % 100}`, environment: 'production' },
    encrypted: false,
    multiAttach: false,
    createTime: 1_700_000_000_000 + number,
    updateTime: 1_700_000_000_000 + number,
    cloneDepth: 0,
    exportIds: [],
    image: {
      name: id,
      backendId: newId('pt').slice(3, 15),
      sizeBytes: 10 * 1024 ** 3,
      largestSizeBytes: 10 * 1024 ** 3,
      points: [],
      formerNames: [],
    },
  };
}
