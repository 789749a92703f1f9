import { randomUUID } from 'node:crypto';
import type { Bench, BenchKind, Moment, Passed, Site, Trap, Victims } from './bench.js';
import { comeToRest, crash, type Outcome, sentence } from './crash.js';
import type { Case, Scenario } from './scenario.js';
import { scenarioOf } from './scenarios.js';

/** A crash point: something that is done in the course of a call. */
export interface CrashPoint {
  readonly scenario: Scenario;
  readonly point: string;
  /** The sides of processes on which it is passed. */
  readonly sites: readonly Site[];
  /** Only "before" where what is done there fails, as it should. */
  readonly moments: readonly Moment[];
}

/** One death. */
export interface Death {
  readonly scenario: Scenario;
  readonly trap: Trap;
}

/** A death after which something was wrong. */
export interface Broken {
  readonly death: Death;
  readonly problems: readonly string[];
}

/** What a traced call passed. */
export interface Traced {
  readonly scenario: Scenario;
  readonly points: readonly CrashPoint[];
  /** Numbers of the commits that it made, or that were made meanwhile. */
  readonly revisions: readonly number[];
  readonly problems: readonly string[];
}

/** Makes a call without harm and writes down what it passes until it has come to rest. */
export async function trace(bench: Bench, scenario: Scenario): Promise<Traced> {
  const made = await scenario.prepare(bench);
  const clientToken = randomUUID();
  try {
    const problems = [...(await comeToRest(bench))];
    await made.ready?.(clientToken);
    const mark = bench.mark();
    const answer = await made.call(bench.client, clientToken);
    await made.rest?.();
    problems.push(...(await comeToRest(bench)));
    const { passed, revisions } = bench.trace(mark);
    problems.push(...(await made.check(answer)));
    return { scenario, points: pointsIn(scenario, passed), revisions, problems };
  } catch (error) {
    return { scenario, points: [], revisions: [], problems: [sentence(error)] };
  } finally {
    await made.end?.();
  }
}

/** Beats, and looks at the capacity of pools, go on all the time and belong to no call. */
const ALWAYS = /^commit none: beat$|^step none: read-pool \(GetPool\)$/;

/** The points that were passed, each once, in the order of their first passing. */
export function pointsIn(scenario: Scenario, passed: readonly Passed[]): readonly CrashPoint[] {
  const found = new Map<string, { readonly sites: Set<Site>; readonly moments: Set<Moment> }>();
  for (const { point, site, moment } of passed) {
    if (ALWAYS.test(point) || scenario.points?.test(point) === false) continue;
    const known = found.get(point) ?? { sites: new Set(), moments: new Set() };
    known.sites.add(site);
    known.moments.add(moment);
    found.set(point, known);
  }
  return [...found].map(([point, { sites, moments }]) => ({
    scenario,
    point,
    sites: [...sites].sort(),
    moments: moments.has('after') ? ['before', 'after'] : ['before'],
  }));
}

const VICTIMS: readonly Victims[] = ['controller', 'agent', 'both'];

/** Every kind of death at every point. */
export function everyDeath(points: readonly CrashPoint[]): readonly Death[] {
  return points.flatMap(deathsAt);
}

function deathsAt({ scenario, point, sites, moments }: CrashPoint): readonly Death[] {
  const kinds = VICTIMS.flatMap((victims) => moments.map((moment) => ({ victims, moment })));
  return kinds.map((kind, index) => {
    const site = sites[Math.floor(index / moments.length) % sites.length] ?? 'controller';
    return { scenario, trap: { point, ...kind, site } };
  });
}

/**
 * Who dies where each point has one death: most often who acts there, the controller at what it commits and the agent at what
 * it does. (The death of an agent costs a third of a controller's, whose agents all start again.)
 */
const USUAL_VICTIMS: Readonly<Record<string, readonly Victims[]>> = {
  commit: ['controller', 'both', 'agent'],
  step: ['agent', 'controller', 'agent', 'both'],
  effect: ['agent', 'agent', 'both', 'agent', 'agent', 'controller'],
};

/** One death at every point, another kind from one to the next; two runs of different `turn` take others. */
export function oneDeathEach(points: readonly CrashPoint[], turn: number): readonly Death[] {
  const seen = new Map<string, number>();
  return points.flatMap((point) => {
    const kind = point.point.split(' ')[0] ?? '';
    const position = (seen.get(kind) ?? turn) + 1;
    seen.set(kind, position);
    const victims = USUAL_VICTIMS[kind] ?? VICTIMS;
    const who = victims[position % victims.length];
    // The moment changes slower than who dies: each dies before and after.
    const moment = point.moments[Math.floor(position / victims.length) % point.moments.length];
    return deathsAt(point).filter(({ trap }) => trap.victims === who && trap.moment === moment);
  });
}

/** A death as it is named to run it again. */
export function nameOf({ scenario, trap }: Death): string {
  return [scenario.name, trap.point, trap.site, trap.moment, trap.victims].join(' | ');
}

/** A death by its name. @throws Error */
export function deathOf(name: string): Death {
  const [scenario = '', point = '', site, moment, victims] = name.split(' | ');
  return {
    scenario: scenarioOf(scenario),
    trap: { point, site: site as Site, moment: moment as Moment, victims: victims as Victims },
  };
}

/** How many calls are made ready at once before their deaths. */
const PREPARED = 8;
/** What a call passes depends a little on chance; one that does not pass its point is made again, so often at most. */
const TRIES = 4;

/** How deaths are gone through. */
export interface RunOptions {
  readonly onDone?: (death: Death, problems: readonly string[], milliseconds: number) => void;
  /** Ends at the first death after which something was wrong; a point that is not passed is no such thing. */
  readonly untilBroken?: boolean;
  /** How long everything may take to come to rest after a death, in milliseconds. */
  readonly patience?: number;
}

/** Goes through the deaths, several benches side by side, each taking the next that is of its kind. */
export async function runDeaths(
  benches: readonly Bench[],
  deaths: readonly Death[],
  { onDone, untilBroken = false, patience }: RunOptions = {},
): Promise<readonly Broken[]> {
  const broken: Broken[] = [];
  const left = [...deaths];
  const isOver = (): boolean => untilBroken && broken.length > 0;
  const take = (kind: BenchKind): Death[] => {
    const taken: Death[] = [];
    for (let index = 0; index < left.length && taken.length < PREPARED; ) {
      if (left[index]?.scenario.kind === kind) taken.push(...left.splice(index, 1));
      else index += 1;
    }
    return taken;
  };
  const work = async (bench: Bench): Promise<void> => {
    for (let batch = take(bench.kind); batch.length > 0; batch = take(bench.kind)) {
      const prepared = await Promise.all(batch.map((death) => death.scenario.prepare(bench)));
      for (const [index, death] of batch.entries()) {
        const first = prepared[index];
        if (first === undefined || isOver()) {
          await first?.end?.();
          continue;
        }
        const began = performance.now();
        const { reached, problems } = await dieOnce(bench, death, first, patience);
        onDone?.(death, problems, performance.now() - began);
        if (problems.length > 0 && (reached || !untilBroken)) broken.push({ death, problems });
      }
      if (!isOver()) await bench.tidy();
    }
  };
  await Promise.all(benches.map(work));
  return broken;
}

async function dieOnce(bench: Bench, death: Death, first: Case, patience?: number): Promise<Outcome> {
  let made = first;
  for (let tries = 1; ; tries += 1) {
    const outcome = await crash(bench, made, death.trap, patience);
    await made.end?.();
    if (outcome.reached || tries === TRIES) return outcome;
    made = await death.scenario.prepare(bench);
  }
}
