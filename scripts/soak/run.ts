/** The soak itself (../soak.ts), in the hub of its network. */
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { cleanUp } from '../../test/helpers/clean-up.js';
import { type Cluster, startCluster } from '../../test/helpers/cluster.js';
import { CommandError, execute } from '../../test/helpers/exec.js';
import { trimAtOnce } from '../../test/helpers/pool-audit.js';
import { PrivateNetwork } from '../../test/helpers/private-network.js';
import { type RedisGroup, startRedis } from '../../test/helpers/redis.js';
import { SeveralControllers } from '../../test/helpers/several-controllers.js';
import { TestNode } from '../../test/helpers/test-node.js';
import { waitFor } from '../../test/helpers/wait.js';
import { type Figures, SoakClient } from './client.js';
import { Faults } from './faults.js';
import { History } from './history.js';
import { Random } from './random.js';
import { Watcher } from './watcher.js';

const CLIENTS = 16;
const NAME = 'soak';
const SETTINGS = {
  journal: { beat_timeout: '5s', step_timeout: '20s', retry_limit: '500ms' },
  reaper: { interval: '1s', sweep_interval: '5s' },
};
const REDIS_TIMES = { commit_timeout: '2500ms', replica_timeout: '1s', call_timeout: '1s' };
/** How long everything may take to come to rest once nothing is broken any more; far more than it takes. */
const REST_MILLISECONDS = 180_000;

const { values: flags } = parseArgs({
  options: {
    seconds: { type: 'string', default: '600' },
    seed: { type: 'string', default: '1' },
    keep: { type: 'boolean', default: false },
  },
});
const network = PrivateNetwork.of(NAME, 2);
const { address } = network.hub;
const random = new Random(Number(flags.seed));
const folder = mkdtempSync(join(tmpdir(), 'moorage-soak-'));
const histories = join(folder, 'histories');
mkdirSync(histories);
const over = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => over.abort());

let cluster: Cluster | undefined;
let redis: RedisGroup | undefined;
let several: SeveralControllers | undefined;
try {
  cluster = await startCluster({ name: NAME, address });
  await trimAtOnce(cluster);
  redis = await startRedis({ address, replicas: 2, sentinels: 3 });
  several = await SeveralControllers.start({
    name: NAME,
    cluster,
    hosts: network.hosts,
    redis: { sentinel: { name: 'moorage', servers: redis.sentinels.map((each) => each.address) }, ...REDIS_TIMES },
    settings: SETTINGS,
    undeleteWindowSeconds: 15,
  });
  const system = several.seenBy(0);
  const nodes = await Promise.all(['node-1', 'node-2', 'node-3'].map((id) => TestNode.register(system, id)));
  const shared = new History(histories, 0);
  const contested = await Promise.all([1, 2].map(() => makeContested(shared, several as SeveralControllers)));
  const figures: Figures = { calls: 0, retries: 0, refused: 0, written: 0, longestWait: 0, longestWaitOf: '' };
  const around = {
    configurationFile: cluster.configurationFile,
    cephPool: several.cephPool,
    ...{ nodes, contested, figures },
  };
  const targets = { several, redis, cluster, network, startCluster: () => startCluster({ name: NAME, address }) };
  const faults = new Faults(targets, new Random(random.between(0, 2 ** 32)));
  const watcher = new Watcher(several.connect(), histories);
  const clients = Array.from({ length: CLIENTS }, (_, index) => {
    const [first, second] = [several as SeveralControllers, several as SeveralControllers].map((all, n) =>
      all.connect((index + n) % 2),
    );
    if (first === undefined || second === undefined) throw new Error('two were made');
    const history = new History(histories, index + 1);
    return new SoakClient(first, second, history, new Random(random.between(0, 2 ** 32)), around);
  });
  const began = performance.now();
  const seconds = (): string => `${Math.round((performance.now() - began) / 1000)} s`.padStart(5);
  setTimeout(() => over.abort(), Number(flags.seconds) * 1000);
  const rested = new AbortController();
  const supervisor = supervise(several, faults, rested.signal);
  const broken = faults.run(over.signal, (line) => console.log(`${seconds()}  ${line}`));
  await Promise.all([...clients.map((client) => client.run(over.signal)), broken]);
  console.log(`${seconds()}  all that was broken is whole, every client has its answers`);
  await comeToRest(several);
  console.log(`${seconds()}  nothing runs any more`);
  const report = await check(several, redis, cluster);
  rested.abort();
  await Promise.all([supervisor, watcher.stop()]);
  for (const violation of report.violations) console.log(`VIOLATION ${violation}`);
  console.log(
    `${figures.calls} calls by ${CLIENTS} clients (${figures.refused} refused for good, ${figures.written} writes), ` +
      `${faults.done.length} faults, ${figures.retries} retries, ` +
      `longest wait ${(figures.longestWait / 1000).toFixed(1)} s (${figures.longestWaitOf}), ` +
      `${report.checked} facts checked, ${report.violations.length} violations`,
  );
  process.exitCode = report.violations.length === 0 ? 0 : 1;
} finally {
  if (flags.keep || process.exitCode !== 0) {
    for (const [index, each] of (several?.all ?? []).entries()) {
      writeFileSync(join(folder, `controller-${index + 1}.log`), each.process.log);
    }
    // What each document ever was stands in the servers' append-only files.
    for (const each of redis?.servers ?? [])
      cpSync(each.folder, join(folder, `redis-${each.port}`), { recursive: true });
    const kept = mkdtempSync(join(tmpdir(), 'moorage-soak-kept-'));
    cpSync(folder, kept, { recursive: true });
    console.log(`histories and logs: ${kept}`);
  }
  await cleanUp(
    () => several?.remove(),
    () => redis?.remove(),
    () => cluster?.remove(),
    () => rmSync(folder, { recursive: true, force: true }),
  );
}

async function makeContested(history: History, all: SeveralControllers): Promise<string> {
  const request = { poolId: 'main', sizeBytes: 16 * 2 ** 20, displayName: '' };
  const { volume } = await all.client.createVolume(request);
  if (volume === null || volume === undefined) throw new Error('there is no volume');
  const { id, state, sizeBytes } = volume;
  history.write({ event: 'call', method: 'createVolume', token: id, request });
  history.write({ event: 'answer', method: 'createVolume', token: id, answer: { id, state, sizeBytes } });
  return id;
}

/** As a service manager does: a controller that has ended is started again, for as long as it takes. */
async function supervise(all: SeveralControllers, faults: Faults, rested: AbortSignal): Promise<void> {
  await Promise.all(
    all.all.map(async (each) => {
      while (!rested.aborted) {
        if (!each.process.running && !faults.killed.has(each)) await each.process.start().catch(() => undefined);
        await sleep(300);
      }
    }),
  );
}

/** Waits until no operation runs, as both say. */
async function comeToRest(all: SeveralControllers): Promise<void> {
  for (const { client } of all.all) {
    await waitFor(
      'all operations to end',
      async () => (await client.listOperations({ pageSize: 1000 })).operations.length === 0,
      { timeoutMilliseconds: REST_MILLISECONDS, intervalMilliseconds: 500 },
    );
  }
}

interface Report {
  readonly checked: number;
  readonly violations: readonly string[];
}

/** Has the checker look until it finds nothing, or for long enough: what is swept up goes by itself. */
async function check(all: SeveralControllers, group: RedisGroup, ceph: Cluster): Promise<Report> {
  const end = performance.now() + 60_000;
  for (;;) {
    const report = await checkOnce(all, group, ceph);
    if (report.violations.length === 0 || performance.now() > end) return report;
    await sleep(2_000);
  }
}

async function checkOnce(all: SeveralControllers, group: RedisGroup, ceph: Cluster): Promise<Report> {
  const primary = await group.primary();
  const program = fileURLToPath(new URL('check.py', import.meta.url));
  const parameters = [
    ...['--histories', histories, '--configuration', ceph.configurationFile, '--pool', all.cephPool],
    ...['--redis', primary.address, '--prefix', `${all.cephPool}:`],
  ];
  try {
    const { stdout } = await execute('/usr/bin/python3', [program, ...parameters]);
    return JSON.parse(stdout) as Report;
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    return { checked: 0, violations: [`the checker failed: ${error.message}`] };
  }
}
