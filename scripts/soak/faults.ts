import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Cluster } from '../../test/helpers/cluster.js';
import type { PrivateNetwork } from '../../test/helpers/private-network.js';
import type { RedisGroup } from '../../test/helpers/redis.js';
import type { OneController, SeveralControllers } from '../../test/helpers/several-controllers.js';
import type { Random } from './random.js';

/** What can be broken. */
export interface Targets {
  readonly several: SeveralControllers;
  readonly redis: RedisGroup;
  readonly cluster: Cluster;
  readonly network: PrivateNetwork;
  /** Starts what is dead of the Ceph cluster. */
  readonly startCluster: () => Promise<unknown>;
}

type Place = 'controller' | 'redis' | 'osd';

/** One way to break something; it is whole again when the promise resolves. */
interface Fault {
  readonly name: string;
  /** Of one place only one thing is broken at a time: with all of it gone nothing could be seen. */
  readonly place: Place;
  readonly run: () => Promise<void>;
}

/** Something broke, and was whole again; in milliseconds of the histories' clock. */
export interface Broke {
  readonly fault: string;
  readonly from: number;
  readonly to: number;
}

/** Breaks something every 5 to 10 seconds, one kind after the other in an order by chance. */
export class Faults {
  readonly done: Broke[] = [];
  /** Controllers that are dead because they were killed: they are started again by who killed them. */
  readonly killed = new Set<OneController>();
  readonly #targets: Targets;
  readonly #random: Random;
  readonly #under = new Map<Place, Promise<void>>();
  #next: Fault[] = [];

  constructor(targets: Targets, random: Random) {
    this.#targets = targets;
    this.#random = random;
  }

  /** Until the signal; then waits until all is whole. */
  async run(signal: AbortSignal, tell: (line: string) => void): Promise<void> {
    while (!signal.aborted) {
      await sleep(this.#random.between(5_000, 10_000), undefined, { signal }).catch(() => undefined);
      if (signal.aborted) break;
      const fault = this.#pick();
      if (fault === undefined) continue;
      const from = performance.now();
      tell(`${fault.name}`);
      const running = fault.run().then(
        () => {
          this.done.push({ fault: fault.name, from, to: performance.now() });
        },
        (error: unknown) => {
          this.done.push({ fault: `${fault.name}: ${String(error)}`, from, to: performance.now() });
          tell(`${fault.name}: ${String(error)}`);
        },
      );
      this.#under.set(fault.place, running);
      void running.then(() => this.#under.delete(fault.place));
    }
    await Promise.all(this.#under.values());
  }

  #pick(): Fault | undefined {
    if (this.#next.length === 0) this.#next = this.#random.shuffled(this.#kinds());
    const index = this.#next.findIndex(({ place }) => !this.#under.has(place));
    return index < 0 ? undefined : this.#next.splice(index, 1)[0];
  }

  #kinds(): readonly Fault[] {
    const { several, redis, cluster, network } = this.#targets;
    const random = this.#random;
    const one = (): OneController => random.pick(several.all);
    const pause = (least: number, most: number): Promise<void> => sleep(random.between(least, most));
    const killController = async (): Promise<void> => {
      const controller = one();
      this.killed.add(controller);
      try {
        await controller.process.end('SIGKILL');
        await pause(1_000, 4_000);
      } finally {
        this.killed.delete(controller);
      }
    };
    const stopFor = async (pids: readonly number[], least: number, most: number): Promise<void> => {
      for (const pid of pids) signalTo(pid, 'SIGSTOP');
      await pause(least, most);
      for (const pid of pids) signalTo(pid, 'SIGCONT');
    };
    const freezeAgent = async (): Promise<void> => {
      const pid = await one().process.agentPid(random.pick(['data', 'fence'] as const));
      await stopFor([pid], 2_000, 10_000);
    };
    const killAgent = async (): Promise<void> => {
      signalTo(await one().process.agentPid(random.pick(['data', 'fence'] as const)), 'SIGKILL');
    };
    const cut = async (): Promise<void> => {
      const { host } = one();
      await network.cut(host);
      await pause(2_000, 12_000);
      await network.mend(host);
    };
    const killRedis = async (): Promise<void> => {
      const primary = await redis.primary();
      await primary.kill();
      await pause(3_000, 8_000);
      await primary.start();
    };
    const freezeRedis = async (): Promise<void> => {
      const primary = await redis.primary();
      primary.freeze();
      await pause(1_000, 8_000);
      primary.thaw();
    };
    const killOsd = async (): Promise<void> => {
      signalTo(Number(readFileSync(join(cluster.directory, 'run/osd.0.pid'), 'utf8')), 'SIGKILL');
      await pause(500, 4_000);
      await this.#targets.startCluster();
    };
    const freezeOsd = async (): Promise<void> => {
      await cluster.pauseOsd(0);
      await pause(1_000, 6_000);
      await cluster.resumeOsd(0);
    };
    return [
      { name: 'a controller is killed', place: 'controller', run: killController },
      {
        name: 'a controller freezes',
        place: 'controller',
        run: async () => stopFor(await one().processIds(), 2_000, 15_000),
      },
      { name: 'an agent is killed', place: 'controller', run: killAgent },
      { name: 'an agent freezes', place: 'controller', run: freezeAgent },
      { name: 'a controller is cut off', place: 'controller', run: cut },
      { name: 'the primary of Redis is killed', place: 'redis', run: killRedis },
      { name: 'the primary of Redis freezes', place: 'redis', run: freezeRedis },
      { name: 'the OSD is killed', place: 'osd', run: killOsd },
      { name: 'the OSD freezes', place: 'osd', run: freezeOsd },
    ];
  }
}

function signalTo(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
