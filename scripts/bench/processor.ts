import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Bench, cloneVolume, createVolume } from './measures.js';
import { fresh, SIZE_BYTES } from './names.js';
import { inParallel } from './statistics.js';

/*
 * Where the time goes when the machine is full: processor time, by process. With a client, a controller, an agent and the
 * whole storage on the same few cores, what a batch takes is what all of them compute, and a wall clock cannot say who did.
 */

/** Linux counts processor time in ticks of 10 ms (USER_HZ is 100 on every architecture that Debian has). */
const MILLISECONDS_PER_TICK = 10;

/** Processor time of one thing that was done, in milliseconds, by process. */
export interface ProcessorTime {
  readonly name: string;
  readonly milliseconds: Readonly<Record<'client' | 'controller' | 'agent' | 'reference' | 'storage', number>>;
}

type Processes = Readonly<Record<keyof ProcessorTime['milliseconds'], readonly number[]>>;

/** Measures one create, one volume from a snapshot, and one of 200 such at 16 at a time; ours and bare. */
export async function measureProcessorTime(bench: Bench): Promise<readonly ProcessorTime[]> {
  const { system, reference, snapshotId } = bench;
  const processes: Processes = {
    client: [process.pid],
    controller: [system.pid],
    agent: [await system.agentPid('data'), await system.agentPid('fence')],
    reference: [reference.pid],
    storage: await daemons(join(system.cluster.directory, 'run')),
  };
  const rounds = 200;
  const names = Array.from({ length: rounds }, fresh);
  const clone = { task: 'clone', parent: snapshotId, point: 'base' } as const;
  const measures: readonly (readonly [string, () => Promise<unknown>])[] = [
    ['create', () => inParallel(1, names, () => createVolume(system))],
    [
      'create, bare',
      () => inParallel(1, names, () => reference.run({ task: 'create', name: fresh(), sizeBytes: SIZE_BYTES })),
    ],
    ['from snapshot', () => inParallel(1, names, () => cloneVolume(system, snapshotId))],
    ['from snapshot, bare', () => inParallel(1, names, () => reference.run({ ...clone, name: fresh() }))],
    ['200 from snapshot at 16', () => inParallel(16, names, () => cloneVolume(system, snapshotId))],
    ['200 at 16, bare', () => reference.run({ ...clone, task: 'clones', names, width: 16 })],
  ];
  const found: ProcessorTime[] = [];
  for (const [name, work] of measures) {
    const before = await readTimes(processes);
    await work();
    const after = await readTimes(processes);
    const spent = (who: keyof Processes): number => (after[who] - before[who]) / rounds;
    found.push({
      name,
      milliseconds: {
        client: spent('client'),
        controller: spent('controller'),
        agent: spent('agent'),
        reference: spent('reference'),
        storage: spent('storage'),
      },
    });
  }
  return found;
}

async function daemons(directory: string): Promise<readonly number[]> {
  const files = (await readdir(directory)).filter((name) => name.endsWith('.pid'));
  return Promise.all(files.map(async (name) => Number((await readFile(join(directory, name), 'utf8')).trim())));
}

async function readTimes(processes: Processes): Promise<Record<keyof Processes, number>> {
  const sum = async (pids: readonly number[]): Promise<number> => {
    const times = await Promise.all(pids.map(processorTime));
    return times.reduce((total, each) => total + each, 0);
  };
  const { client, controller, agent, reference, storage } = processes;
  return {
    client: await sum(client),
    controller: await sum(controller),
    agent: await sum(agent),
    reference: await sum(reference),
    storage: await sum(storage),
  };
}

/** User and system time of a process, all its threads, in milliseconds (proc(5), fields 14 and 15 of stat). */
async function processorTime(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
  // The name in parentheses may hold blanks; the fields after it are counted from the third.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) * MILLISECONDS_PER_TICK;
}
