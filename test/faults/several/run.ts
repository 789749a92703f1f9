/**
 * Freezes one of two controllers in the middle of every kind of backend call. To be run in the hub of a private network;
 * prints a line of JSON for each freeze, and one for what was seen.
 *
 *   node --import tsx test/faults/several/run.ts '<JSON of the network's hosts>' [--full] [--only TEXT]
 */
import { parseArgs } from 'node:util';
import { cleanUp } from '../../helpers/clean-up.js';
import { startCluster } from '../../helpers/cluster.js';
import { trimAtOnce } from '../../helpers/pool-audit.js';
import type { NetworkHost } from '../../helpers/private-network.js';
import { startRedis } from '../../helpers/redis.js';
import { redisTimes } from '../../helpers/several-controllers.js';
import type { BenchKind } from '../crash-matrix/bench.js';
import { exportScenarios } from '../crash-matrix/exports.js';
import { snapshotScenarios } from '../crash-matrix/snapshots.js';
import { volumeScenarios } from '../crash-matrix/volumes.js';
import { type Freeze, type FreezeScenario, freeze, nameOf, ownScenarios, trace } from './freeze.js';
import { Stage } from './stage.js';

const { values: flags, positionals } = parseArgs({
  options: { full: { type: 'boolean', default: false }, only: { type: 'string' }, hub: { type: 'string' } },
  allowPositionals: true,
});
const hub = JSON.parse(flags.hub ?? '') as NetworkHost;
const hosts = positionals.map((text) => JSON.parse(text) as NetworkHost);
const say = (line: object): void => console.log(JSON.stringify(line));

/** Nothing is frozen in these: they look after what is cut, or belong to a process and not to a call. */
const BESIDE = /^(Hello|GetPool)$/;

const scenarios: readonly FreezeScenario[] = [
  ...volumeScenarios,
  ...snapshotScenarios,
  ...exportScenarios,
  ...ownScenarios,
].filter(({ kind }) => kind !== 'keyring');
/** Enough for each kind of backend call that changes something. */
const SHORT =
  /^(CreateVolume|ExpandVolume|UndeleteVolume|CreateSnapshot|DeleteVolume, until it is purged|Export, by .*|Export, undone .*|Unexport with force.*|CreateSnapshot, of .*)$/;
const cluster = await startCluster({ name: 'several', address: hub.address });
await trimAtOnce(cluster);
const redis = await startRedis({ address: hub.address, replicas: 1 });
const stages: Stage[] = [];
try {
  const kinds: BenchKind[] = ['keeps', 'keeps', 'keeps', 'purges'];
  const settings = { server: redis.servers[0]?.address, ...redisTimes };
  const started = await Promise.allSettled(
    kinds.map((kind, index) => Stage.start({ name: `several-${index + 1}`, kind, cluster, hosts, redis: settings })),
  );
  for (const each of started) {
    if (each.status === 'rejected') throw each.reason;
    stages.push(each.value);
  }
  const freezes = choose(await traceAll());
  await sideBySide(freezes, async (stage, one) => say(await freeze(stage, one)));
} finally {
  await cleanUp(
    ...stages.map((stage) => () => stage.remove()),
    () => redis.remove(),
    () => cluster.remove(),
  );
}

async function traceAll(): Promise<readonly Freeze[]> {
  const found: Freeze[] = [];
  await sideBySide(
    scenarios.filter(({ name }) => flags.full || SHORT.test(name)).map((scenario) => ({ scenario })),
    async (stage, { scenario }) => {
      const points = await trace(stage, scenario);
      found.push(...points.filter(({ method }) => !BESIDE.test(method)).map((point) => ({ scenario, point })));
    },
  );
  say({ seen: [...new Set(found.map(({ point }) => `${point.role} ${point.method}`))].sort() });
  return found;
}

/** Every point of every call; or of each kind of backend call that changes something one, as late in it as can be. */
function choose(all: readonly Freeze[]): readonly Freeze[] {
  const wanted = all.filter((one) => flags.only === undefined || nameOf(one).includes(flags.only));
  if (flags.full) return wanted;
  const chosen = new Map<string, Freeze>();
  const order = (one: Freeze): number => scenarios.indexOf(one.scenario);
  const changing = wanted.filter(
    // What is undone before the thaw is about a late key.
    ({ scenario, point }) => (scenario.undone ? /^GrantAccess$/ : /^(?!Get|List|Inspect)/).test(point.method),
  );
  for (const one of [...changing].sort((a, b) => order(a) - order(b))) {
    const kind = `${one.point.role} ${one.point.method} ${one.scenario.undone === true}`;
    const known = chosen.get(kind);
    const sameCall = known === undefined || known.scenario === one.scenario;
    if (
      known === undefined ||
      (sameCall && lateness(one) >= lateness(known)) ||
      (lateness(known) === 0 && lateness(one) > 0)
    )
      chosen.set(kind, one);
  }
  return [...chosen.values()];
}

/** Librbd's own calls are what a step is for; before them it makes sure of something. */
function lateness({ point }: Freeze): number {
  if (point.function === '') return 0;
  return point.function.startsWith('rbd_') ? 2 : 1;
}

async function sideBySide<Work extends { readonly scenario: { readonly kind: BenchKind } }>(
  work: readonly Work[],
  act: (stage: Stage, one: Work) => Promise<void>,
): Promise<void> {
  const left = [...work];
  await Promise.all(
    stages.map(async (stage) => {
      for (;;) {
        const index = left.findIndex(({ scenario }) => scenario.kind === stage.kind);
        const [one] = index < 0 ? [] : left.splice(index, 1);
        if (one === undefined) return;
        await act(stage, one);
      }
    }),
  );
}
