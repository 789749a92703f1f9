import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { developmentDirectory, startCluster } from '../../test/helpers/cluster.js';
import { type System, startSystem } from '../../test/helpers/system.js';
import { measureClones, measureRedis, measureSnapshots, measureStores } from './batches.js';
import { type Breakdown, breakDown } from './breakdown.js';
import {
  type Bench,
  createVolume,
  measureCreate,
  measureDelete,
  measureExport,
  measureFromSnapshot,
  measureSnapshot,
} from './measures.js';
import { measureProcessorTime, type ProcessorTime } from './processor.js';
import { Reference } from './reference.js';
import type { Figure } from './statistics.js';
import { measureGenerations, measureReaping } from './storage.js';

/*
 * `make bench`: how much time Moorage adds to what the storage itself takes. Every figure is a ratio to a reference that was
 * measured in the same run, in turn; single times of a busy machine say little.
 *
 *   node --import tsx scripts/bench/bench.ts [--only TEXT …]     only measures whose name contains one of the texts; they are
 *                                                                printed, and .dev/bench.json stays as it is
 */

/** As many threads as an agent has (the configuration's agents.threads). */
const THREADS = 96;

const limits: Readonly<Record<string, string>> = {
  'create/librbd': '≤ 1.8',
  'create/rbd-cli': '≤ 0.25',
  'from-snapshot/librbd': '≤ 1.4',
  'delete/librbd': '≤ 1.8',
  'export/empty-call': '≤ 3',
  'clones-200x16/librbd': '≤ 1.3',
  'snapshots-32/librbd': 'ours ≤ 2500 ms',
  'get-100000/get-1000': '≤ 1.3',
  'list-100000/list-1000': '≤ 1.3',
  'create-100000/create-1000': '≤ 1.3',
  'get-1000000/get-1000': '≤ 1.3',
  'list-1000000/list-1000': '≤ 1.3',
  'create-1000000/create-1000': '≤ 1.3',
  'create-redis/create-sqlite': '≤ 1.3',
  'create-while-reaping/create': '≤ 1.5',
  'open-40-generations': 'ours ≤ 100 ms',
};

function narrate(text: string): void {
  process.stderr.write(`bench: ${text}\n`);
}

function printProcessorTime(times: readonly ProcessorTime[]): void {
  const parts = ['client', 'controller', 'agent', 'reference', 'storage'] as const;
  process.stdout.write('\nprocessor time of one volume, by process (ms; storage: all daemons of Ceph):\n');
  process.stdout.write(`  ${''.padEnd(26)}${parts.map((part) => part.padStart(11)).join('')}${'all'.padStart(11)}\n`);
  for (const { name, milliseconds } of times) {
    const all = parts.reduce((sum, part) => sum + milliseconds[part], 0);
    const cells = [...parts.map((part) => milliseconds[part]), all].map((each) => each.toFixed(2).padStart(11));
    process.stdout.write(`  ${name.padEnd(26)}${cells.join('')}\n`);
  }
}

function printTable(figures: readonly Figure[]): void {
  const columns = ['figure', 'ours p50', 'p99', 'reference p50', 'p99', 'ratio', 'wanted', 'n'];
  const rows = figures.map((each) => [
    each.name,
    `${each.ours_ms.toFixed(2)} ms`,
    `${each.ours_p99_ms.toFixed(2)} ms`,
    `${each.reference_ms.toFixed(2)} ms`,
    `${each.reference_p99_ms.toFixed(2)} ms`,
    each.ratio.toFixed(2),
    limits[each.name] ?? '',
    String(each.n),
  ]);
  const widths = columns.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)));
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, column) => (column === 0 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0)))
      .join('  ');
  process.stdout.write(`${[columns, ...rows].map(line).join('\n')}\n\n`);
}

function printBreakdown(breakdown: Breakdown): void {
  const parts = Object.entries({
    gRPC: breakdown.grpc,
    'store (two commits)': breakdown.store,
    catalogue: breakdown.catalogue,
    'agent hop, id checks, core': breakdown.agentAndRest,
  });
  process.stdout.write('our own share of a create, each part measured alone (p50):\n');
  for (const [name, milliseconds] of parts) {
    process.stdout.write(`  ${name.padEnd(28)} ${milliseconds.toFixed(2).padStart(6)} ms\n`);
  }
}

async function makeBench(system: System): Promise<Bench> {
  const volumeId = await createVolume(system);
  const { snapshot } = await system.client.createSnapshot({ volumeId });
  const reference = await Reference.start({
    configurationFile: system.cluster.configurationFile,
    user: `moorage-data-${system.cephPool}`,
    keyringFile: join(system.directory, 'ceph.client.data.keyring'),
    pool: system.cephPool,
    threads: THREADS,
  });
  return { system, reference, volumeId, snapshotId: snapshot?.id ?? '' };
}

async function main(): Promise<void> {
  const { only = [] } = parseArgs({ options: { only: { type: 'string', multiple: true } } }).values;
  await mkdir(developmentDirectory, { recursive: true });
  narrate('starting a cluster of its own');
  const cluster = await startCluster({ name: 'bench' });
  const systems: System[] = [];
  const start = async (name: string, store: 'sqlite' | 'redis' = 'sqlite'): Promise<System> => {
    const settings = { reaper: { interval: '1h' }, agents: { threads: THREADS } };
    const system = await startSystem({ name, cluster, store, storeDirectory: developmentDirectory, settings });
    systems.push(system);
    return system;
  };
  let reference: Reference | undefined;
  try {
    const bench = await makeBench(await start('bench'));
    reference = bench.reference;
    const figures: Figure[] = [];
    const measures: readonly [string, () => Promise<readonly Figure[]>][] = [
      ['create', () => measureCreate(bench)],
      ['volume from snapshot', () => measureFromSnapshot(bench)],
      ['snapshot', () => measureSnapshot(bench)],
      ['delete', () => measureDelete(bench)],
      ['export', () => measureExport(bench)],
      ['create while the reaper purges', async () => measureReaping(await start('bench-reaper'), narrate)],
      ['open at the end of 40 generations', () => measureGenerations(bench, narrate)],
      ['create on Redis', async () => measureRedis(bench.system, await start('bench-redis', 'redis'))],
      ['200 volumes from one snapshot', () => measureClones(bench)],
      ['32 snapshots at once', () => measureSnapshots(bench)],
      [
        'Get, List and Create by the size of the store',
        async () => measureStores({ small: await start('bench-few'), large: await start('bench-many') }, narrate),
      ],
    ];
    const wanted = measures.filter(([name]) => only.length === 0 || only.some((text) => name.includes(text)));
    if (wanted.length === 0) throw new Error(`there are: ${measures.map(([name]) => name).join(' · ')}`);
    for (const [name, measure] of wanted) {
      narrate(name);
      figures.push(...(await measure()));
    }
    if (only.length > 0) {
      printTable(figures);
      return;
    }
    const create = figures.find((each) => each.name === 'create/librbd');
    narrate('where our own share goes');
    const breakdown = await breakDown(bench, (create?.ours_ms ?? 0) - (create?.reference_ms ?? 0));
    const processorTimes = await measureProcessorTime(bench);
    printTable(figures);
    printBreakdown(breakdown);
    printProcessorTime(processorTimes);
    await writeFile(join(developmentDirectory, 'bench.json'), `${JSON.stringify(figures, undefined, 2)}\n`);
  } finally {
    reference?.stop();
    for (const system of systems) await system.remove();
    await cluster.remove();
  }
}

await main();
process.exit(0);
