import { randomBytes } from 'node:crypto';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Store, Write } from '../../src/core/ports/store.js';
import { openSqliteStore } from '../../src/store/sqlite/index.js';

/*
 * What the store alone costs, by how much is in it: get, a page of 100, and commits like the one that begins an operation.
 *
 *   npx tsx scripts/bench/store.ts [NUMBER OF VOLUMES ...]        default: 1000 100000
 *
 * The file lies below the working directory, in .dev, because a directory of the system's may be in memory, where an fsync
 * costs nothing.
 */

const sizes = process.argv.length > 2 ? process.argv.slice(2).map(Number) : [1_000, 100_000];
if (sizes.some((size) => !Number.isSafeInteger(size) || size < 1)) throw new Error('give whole numbers of volumes');

const hex = () => randomBytes(9).toString('hex').slice(0, 17);

/** A document as large as a volume's and in as many indexes. */
function volumeWrite(id: string, at: number): Write {
  const key = `volume/${id}`;
  const value = {
    id,
    poolId: `pool-${at % 4}`,
    sizeBytes: 10 * 2 ** 30,
    state: 'available',
    displayName: `database ${at}`,
    tags: { owner: `tenant-${at % 100}`, environment: 'production' },
    source: { kind: 'snapshot', id: `snap-${hex()}` },
    image: { name: id, imageId: hex(), features: 37, dataPrefix: `rbd_data.${hex()}`, largestSizeBytes: 10 * 2 ** 30 },
    ancestors: [`snap-${hex()}`, `vol-${hex()}`],
    createTime: at,
    updateTime: at,
  };
  const sort = `${String(at).padStart(15, '0')}/${id}`;
  const indexes = [
    { index: 'volumes', sort },
    { index: `volumes-by-pool/${value.poolId}`, sort },
    { index: `volumes-by-source/${value.source.id}`, sort },
    { index: 'images-by-id', sort: value.image.imageId },
  ];
  return { kind: 'put', key, expect: 'absent', value, indexes };
}

/** What beginning an operation writes: the resource, the operation, its lock, its token. */
function beginWrites(at: number): readonly Write[] {
  const id = `vol-${hex()}`;
  const operation = `op-${hex()}`;
  return [
    volumeWrite(id, at),
    {
      kind: 'put',
      key: `op/${operation}`,
      expect: 'absent',
      value: { id: operation, owner: hex(), kind: 'create-volume', phase: 'begun', plan: { id }, startTime: at },
      indexes: [
        { index: 'operations', sort: `${String(at).padStart(15, '0')}/${operation}` },
        { index: 'operations-open', sort: operation },
      ],
    },
    { kind: 'put', key: `lock/${id}`, expect: 'absent', value: { exclusive: operation }, indexes: [] },
    { kind: 'put', key: `token/local/CreateVolume/${hex()}`, expect: 'absent', value: { operation, id }, indexes: [] },
  ];
}

/** Milliseconds of each of `count` calls, of so many callers at a time. */
async function measure(count: number, callers: number, call: (turn: number) => Promise<unknown>): Promise<number[]> {
  const took: number[] = [];
  let turn = 0;
  const caller = async () => {
    while (turn < count) {
      const started = performance.now();
      turn += 1;
      await call(turn);
      took.push(performance.now() - started);
    }
  };
  await Promise.all(Array.from({ length: callers }, caller));
  return took.sort((left, right) => left - right);
}

const quantile = (sorted: readonly number[], share: number) => sorted[Math.floor((sorted.length - 1) * share)] ?? 0;

async function fill(store: Store, size: number): Promise<readonly string[]> {
  const ids = Array.from({ length: size }, () => `vol-${hex()}`);
  for (let from = 0; from < size; from += 1000) {
    await store.commit(ids.slice(from, from + 1000).map((id, offset) => volumeWrite(id, from + offset)));
  }
  return ids;
}

async function bench(size: number): Promise<void> {
  const directory = await mkdtemp(join(process.cwd(), '.dev', 'bench-store-'));
  const path = join(directory, 'store.db');
  try {
    const filled = await openSqliteStore({ path });
    const ids = await fill(filled, size);
    await filled.close();
    const started = performance.now();
    const store = await openSqliteStore({ path });
    const opened = performance.now() - started;
    const bytes = (await stat(path)).size;

    const anyId = () => ids[Math.floor(Math.random() * size)] ?? '';
    const anySort = () => String(Math.floor(Math.random() * Math.max(1, size - 100))).padStart(15, '0');
    const report = (name: string, took: readonly number[]) => {
      const [p50, p99] = [quantile(took, 0.5), quantile(took, 0.99)].map((value) => value.toFixed(3).padStart(9));
      console.log(
        `${String(size).padStart(9)}  ${name.padEnd(34)}${p50}${p99}${(took.at(-1) ?? 0).toFixed(1).padStart(9)}`,
      );
    };
    // A cursor taken anywhere in the index: what a caller deep in a long list has.
    const cursors = await Promise.all(
      Array.from(
        { length: 200 },
        async () => (await store.list('volumes', { prefix: anySort().slice(0, 14), limit: 1 })).cursor,
      ),
    );
    const page = (turn: number) => {
      const after = cursors[turn % cursors.length];
      return store.list('volumes', { limit: 100, ...(after === undefined ? {} : { after }) });
    };
    await measure(2000, 1, () => store.get(`volume/${anyId()}`));
    report('get', await measure(10_000, 1, () => store.get(`volume/${anyId()}`)));
    await measure(200, 1, page);
    report('list, page of 100', await measure(2000, 1, page));
    report('count', await measure(2000, 1, () => store.count('volumes')));
    let at = size;
    const begin = async () => {
      at += 1;
      const outcome = await store.commit(beginWrites(at));
      if (!outcome.ok) throw new Error('an id came twice');
    };
    await measure(200, 1, begin);
    report('commit of 4 documents, 1 caller', await measure(2000, 1, begin));
    const before = performance.now();
    report('commit of 4 documents, 16 callers', await measure(8000, 16, begin));
    const rate = 8000 / ((performance.now() - before) / 1000);
    const memory = process.memoryUsage.rss() / 2 ** 20;
    console.log(
      `${String(size).padStart(9)}  16 callers: ${rate.toFixed(0)} commits a second; start with its check ${opened.toFixed(0)} ms; ` +
        `file ${(bytes / 2 ** 20).toFixed(0)} MiB; process ${memory.toFixed(0)} MiB`,
    );
    await store.close();
  } finally {
    await rm(directory, { recursive: true });
  }
}

console.log(
  `${'volumes'.padStart(9)}  ${'milliseconds'.padEnd(34)}${'p50'.padStart(9)}${'p99'.padStart(9)}${'max'.padStart(9)}`,
);
for (const size of sizes) await bench(size);
