import { expect } from 'chai';
import { pages } from '../../../src/client/index.js';
import { startCluster } from '../../helpers/cluster.js';
import { trimAtOnce } from '../../helpers/pool-audit.js';
import { endAtFirstFailure } from '../../helpers/steps.js';
import { Bench, type BenchKind } from './bench.js';
import { uncoveredMethods, unknownMethods, unseenCommits, unseenSteps } from './coverage.js';
import { checkDead, comeToRest } from './crash.js';
import {
  type Broken,
  type CrashPoint,
  type Death,
  deathOf,
  everyDeath,
  nameOf,
  oneDeathEach,
  runDeaths,
  type Traced,
  trace,
} from './matrix.js';
import { type PlantedBug, plantedBugs } from './planted-bugs.js';
import type { Scenario } from './scenario.js';
import { scenarioOf, scenarios } from './scenarios.js';
import { gone } from './volumes.js';

/*
 * Real calls are traced; then at every point that they passed somebody dies: the controller, an agent, both; before it and
 * after it. Afterwards everything must agree, and the caller be told the same.
 *
 * One death at each point; with MOORAGE_TEST_FULL every kind of death at each, and planted bugs that must show.
 * MOORAGE_CRASH='<name of a death>' runs that one alone, MOORAGE_CRASH_TIMES=<number> so often; MOORAGE_CRASH_TURN=<number> has
 * others than usual where each point gets one.
 */

const isFull = process.env.MOORAGE_TEST_FULL !== undefined;
const one = process.env.MOORAGE_CRASH;
const times = Number(process.env.MOORAGE_CRASH_TIMES ?? 1);
const turn = Number(process.env.MOORAGE_CRASH_TURN ?? 0);

const FEWEST_POINTS = 150;
/** Side by side: what each of them mostly does is wait. */
const BENCHES: readonly BenchKind[] = ['keeps', 'keeps', 'keeps', 'keeps', 'purges', 'keyring', 'rebuilds'];

function startBenches(kinds: readonly BenchKind[], name: string, planted?: PlantedBug): Promise<Bench[]> {
  return Promise.all(
    kinds.map((kind, index) => Bench.start(`${name}-${index + 1}`, kind, planted === undefined ? {} : { planted })),
  );
}

/** Traces calls, in their order: so that a run takes the same deaths as the last one. */
async function traceAll(benches: readonly Bench[], calls: readonly Scenario[]): Promise<readonly Traced[]> {
  const left = [...calls];
  const traced = new Map<Scenario, Traced>();
  await Promise.all(
    benches.map(async (bench) => {
      for (;;) {
        const index = left.findIndex((scenario) => scenario.kind === bench.kind);
        const [scenario] = index === -1 ? [] : left.splice(index, 1);
        if (scenario === undefined) return;
        traced.set(scenario, await trace(bench, scenario));
      }
    }),
  );
  const inOrder = calls.flatMap((scenario) => traced.get(scenario) ?? []);
  const problems = inOrder.flatMap((call) => call.problems.map((problem) => `${call.scenario.name}: ${problem}`));
  expect(problems).to.deep.equal([]);
  return inOrder;
}

/** One line for each, and how to run it again. */
function report(broken: readonly Broken[]): string {
  return broken
    .map(({ death, problems }) => {
      const again = `MOORAGE_CRASH='${nameOf(death).replaceAll("'", "'\\''")}' npx mocha test/faults/crash-matrix/crash-matrix.test.ts`;
      return [nameOf(death), ...problems.map((problem) => `    ${problem}`), `    again: ${again}`].join('\n');
    })
    .join('\n');
}

/** What the trace found: the planted bugs are looked for at the same points. */
let points: readonly CrashPoint[] = [];

describe('somebody dies at every point of every call', function () {
  this.timeout(isFull ? 4 * 3_600_000 : 1_800_000);
  endAtFirstFailure();
  let benches: Bench[] = [];

  before(async () => {
    await trimAtOnce(await startCluster());
    const kinds = one === undefined ? BENCHES : [deathOf(one).scenario.kind];
    benches = await startBenches(kinds, 'crash');
  });
  after(async () => {
    await Promise.all(benches.map((bench) => bench.remove()));
  });

  if (one !== undefined) {
    it(one, async () => {
      const broken = await runDeaths(
        benches,
        Array.from({ length: times }, () => deathOf(one)),
      );
      expect(broken.length, report(broken)).to.equal(0);
    });
    return;
  }

  it('every step and every commit of every call that changes something passes a point', async () => {
    const traced = await traceAll(benches, scenarios);
    expect(uncoveredMethods(scenarios), 'calls that change something and are in no scenario').to.deep.equal([]);
    expect(unknownMethods(scenarios), 'calls that scenarios are about and that there are not').to.deep.equal([]);
    expect(unseenSteps(benches)).to.deep.equal([]);
    const unseen = traced.flatMap((call) =>
      unseenCommits(call.revisions).map((rev) => `${call.scenario.name}: ${rev}`),
    );
    expect(unseen, 'commits that passed no point').to.deep.equal([]);
    points = traced.flatMap((call) => call.points);
    const names = new Set(points.map(({ scenario, point }) => `${scenario.name}: ${point}`));
    console.log(`      ${names.size} crash points in ${traced.length} calls`);
    expect(names.size).to.be.at.least(FEWEST_POINTS);
  });

  it('and afterwards store, catalogue and Ceph agree, and the caller is told the same', async () => {
    const deaths: readonly Death[] = isFull ? everyDeath(points) : oneDeathEach(points, turn);
    const began = performance.now();
    let done = 0;
    const broken = await runDeaths(benches, deaths, {
      onDone: (death, problems, milliseconds) => {
        done += 1;
        if (process.env.MOORAGE_CRASH_VERBOSE === undefined && problems.length === 0) return;
        const seconds = (milliseconds / 1000).toFixed(1);
        console.log(`      ${done}/${deaths.length} ${nameOf(death)} (${seconds} s) ${problems.join('; ')}`);
      },
    });
    const died = new Set(deaths.map(({ scenario, trap }) => `${scenario.name}: ${trap.point}`)).size;
    const seconds = Math.round((performance.now() - began) / 1000);
    console.log(`      ${died} crash points, ${broken.length} broken (${deaths.length} deaths in ${seconds} s)`);
    expect(broken.length, `\n${report(broken)}\n`).to.equal(0);
  });

  it('and in the end everything can be deleted, and nothing is left', async () => {
    await Promise.all(benches.map(deleteAll));
  });
});

async function deleteAll(bench: Bench): Promise<void> {
  const { client, kind } = bench;
  const findings: string[] = [];
  for await (const page of pages((pageToken) => client.check({ pageSize: 1000, pageToken }))) {
    findings.push(...page.findings.map((finding) => finding.description));
  }
  expect(findings, 'what Check finds').to.deep.equal([]);
  const { exports } = await client.listExports({ pageSize: 1000 });
  for (const { id } of exports) await client.unexport({ exportId: id, force: true });
  const { volumes } = await client.listVolumes({ pageSize: 1000 });
  const { snapshots } = await client.listSnapshots({ pageSize: 1000 });
  await Promise.all([
    ...volumes.map(({ id }) => client.deleteVolume({ volumeId: id })),
    ...snapshots.map(({ id }) => client.deleteSnapshot({ snapshotId: id })),
  ]);
  if (kind === 'purges') for (const { id } of [...snapshots, ...volumes]) await gone(bench, id);
  const problems = [...(await comeToRest(bench))];
  await bench.system.stop();
  problems.push(...(await checkDead(bench, 'at rest')));
  expect(problems).to.deep.equal([]);
}

if (isFull && one === undefined) {
  describe('bugs planted in the journal, one at a time', function () {
    this.timeout(1_800_000);

    before(async () => {
      if (points.length > 0) return;
      await trimAtOnce(await startCluster());
      const calls = [...new Set(plantedBugs.flatMap((bug) => bug.scenarios))].map(scenarioOf);
      const benches = await startBenches(['keeps', 'keeps', 'purges'], 'traced');
      try {
        points = (await traceAll(benches, calls)).flatMap((call) => call.points);
      } finally {
        await Promise.all(benches.map((bench) => bench.remove()));
      }
    });

    for (const [index, bug] of plantedBugs.entries()) {
      it(`${bug.name}: the matrix turns red`, async () => {
        const chosen = bug.scenarios.map(scenarioOf);
        const kinds = new Set(chosen.map(({ kind }) => kind));
        const benches = await startBenches([...kinds, ...kinds], `planted-${index + 1}`, bug);
        try {
          const concerned = points.filter(
            ({ scenario, point }) => chosen.includes(scenario) && bug.points?.test(point) !== false,
          );
          const broken = await runDeaths(benches, everyDeath(concerned), { untilBroken: true, patience: 15_000 });
          console.log(`      ${broken.length === 0 ? 'nothing is broken' : report(broken.slice(0, 1))}`);
          expect(broken).not.to.have.length(0);
        } finally {
          await Promise.all(benches.map((bench) => bench.remove()));
        }
      });
    }
  });
}
