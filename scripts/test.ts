/**
 * Runs every suite, one folder of test/ after the other (the unit tests beside them), each in a mocha of its own; prints
 * the coverage of all together; ends with one line "N passed, N failed", and with 0 only if nothing failed and something
 * passed.
 *
 *   node --import tsx scripts/test.ts [--full] [--coverage] [FOLDER...]
 *
 * --full: MOORAGE_TEST_FULL=1 for the suites, which then take as many rounds as it takes to be sure; and those that run a
 * controller once more on the other kind of store. STORE=redis: all of them on Redis.
 * --coverage: a table by file, and pages in coverage/. FOLDER: only these folders of test/.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import type { Totals } from '../test/helpers/totals-reporter.js';

const repositoryDirectory = fileURLToPath(new URL('..', import.meta.url));
/** Cheap ones first: what they find is known soon. Others follow by name. */
const firstFolders = ['unit', 'contract', 'integration', 'e2e', 'faults'];
/** Runs beside the others, since it waits more than it works; what it says is shown when it has ended. */
const besideFolder = 'unit';
/** Minutes each, and younger than the others: only with --full, until they have been seen to hold on machines of all kinds. */
const fullOnly = ['test/faults/crash-matrix/', 'test/faults/several.test.ts'];
/** What runs a controller, by its own words or through the helpers of its folder: with --full on Redis too. */
const onAnyStore = /helpers\/(system|controller)\.js|from '\.\/bench\.js'/;
/** A suite whose process does not end by then after its last test holds something open. */
const endGraceMilliseconds = 30_000;

const { values: flags, positionals } = parseArgs({
  options: { full: { type: 'boolean', default: false }, coverage: { type: 'boolean', default: false } },
  allowPositionals: true,
});

process.chdir(repositoryDirectory);
const folders = positionals.length > 0 ? positionals : foldersWithTests();
const scratch = await mkdtemp(join(tmpdir(), 'moorage-tests-'));
const clusterRan = (await run('scripts/ceph-cluster.sh', ['status', 'test'], 'ignore')) === 0;
const sum = { passed: 0, failed: 0, pending: 0 };
/** The tests that run, and what asked them to end: mocha then still cleans up, and no other folder begins. */
const running = new Set<ChildProcess>();
let interruption: NodeJS.Signals | undefined;
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    interruption = signal;
    for (const child of running) killGroup(child, signal);
  });
}
try {
  await Promise.all([
    runFolders(folders.filter((folder) => folder !== besideFolder)),
    runFolders(folders.filter((folder) => folder === besideFolder)),
  ]);
  if (flags.full && process.env.STORE === undefined) {
    await runFolders(
      folders.filter((each) => filesFor(each, 'redis').length > 0),
      'redis',
    );
  }
  if (interruption === undefined) await printCoverage();
} finally {
  // The shared cluster stays up between suites, and afterwards if somebody had it running before.
  if (!clusterRan) await run('scripts/ceph-cluster.sh', ['stop', 'test'], 'inherit');
  rmSync(scratch, { recursive: true, force: true });
}
if (sum.pending > 0) {
  console.log(`${sum.pending} tests are pending; here every test runs, so each counts as failed`);
  sum.failed += sum.pending;
}
console.log(`${sum.passed} passed, ${sum.failed} failed`);
if (interruption !== undefined) console.log(`interrupted by ${interruption}: not every test ran`);
process.exitCode = interruption === undefined && sum.failed === 0 && sum.passed > 0 ? 0 : 1;

async function runFolders(some: readonly string[], store?: 'redis'): Promise<void> {
  for (const folder of some) {
    if (interruption !== undefined) return;
    const totals = await runFolder(folder, store);
    sum.passed += totals.passed;
    sum.failed += totals.failed;
    sum.pending += totals.pending;
  }
}

function foldersWithTests(): string[] {
  const found = readdirSync('test', { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && testFiles(entry.name).length > 0)
    .map((entry) => entry.name)
    .sort();
  return [
    ...firstFolders.filter((each) => found.includes(each)),
    ...found.filter((each) => !firstFolders.includes(each)),
  ];
}

function testFiles(folder: string): string[] {
  return readdirSync(join('test', folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.test.ts'))
    .map((name) => join('test', folder, name))
    .filter((path) => flags.full || !fullOnly.some((each) => path.startsWith(each)))
    .sort();
}

/** @param store whether only what runs a controller is wanted, to run it on this kind of store */
function filesFor(folder: string, store: 'redis' | undefined): string[] {
  const files = testFiles(folder);
  return store === undefined ? files : files.filter((path) => onAnyStore.test(readFileSync(path, 'utf8')));
}

async function runFolder(folder: string, store: 'redis' | undefined): Promise<Totals> {
  const files = filesFor(folder, store);
  const name = store === undefined ? folder : `${folder} on ${store}`;
  if (files.length === 0) throw new Error(`test/${folder} has no tests`);
  const isHeld = folder === besideFolder && folders.length > 1;
  const held: Buffer[] = [];
  const say = (line: string): void => {
    if (isHeld) held.push(Buffer.from(`${line}\n`));
    else console.log(line);
  };
  say(`\n==== test/${name}`);
  const began = performance.now();
  const totalsFile = join(scratch, `${name}.json`);
  const child = spawn(
    'node_modules/.bin/mocha',
    ['--config', '.mocharc.json', '--reporter', 'test/helpers/totals-reporter.ts', ...files],
    {
      // A process group of its own: mocha is a parent that does not pass a signal on to the process with the tests.
      detached: true,
      stdio: isHeld ? ['ignore', 'pipe', 'pipe'] : 'inherit',
      env: {
        ...process.env,
        MOORAGE_TEST_TOTALS: totalsFile,
        NODE_V8_COVERAGE: join(scratch, 'coverage'),
        ...(flags.full ? { MOORAGE_TEST_FULL: '1' } : {}),
        ...(store === undefined ? {} : { STORE: store }),
      },
    },
  );
  child.stdout?.on('data', (chunk: Buffer) => held.push(chunk));
  child.stderr?.on('data', (chunk: Buffer) => held.push(chunk));
  running.add(child);
  const endedByItself = await waitForEnd(child, totalsFile);
  running.delete(child);
  say(`test/${name} took ${Math.round((performance.now() - began) / 1000)} s`);
  const totals = readTotals(name, totalsFile, endedByItself, say);
  process.stdout.write(Buffer.concat(held));
  return totals;
}

function readTotals(folder: string, file: string, endedByItself: boolean, say: (line: string) => void): Totals {
  if (!existsSync(file)) {
    say(`test/${folder}: mocha ended before its tests did; this counts as one failure`);
    return { passed: 0, failed: 1, pending: 0 };
  }
  const totals = JSON.parse(readFileSync(file, 'utf8')) as Totals;
  if (endedByItself) return totals;
  say(`test/${folder}: the tests are over but their process did not end; this counts as one failure`);
  return { ...totals, failed: totals.failed + 1 };
}

/** Gives false if the process had to be killed because it did not end after its last test. */
function waitForEnd(child: ChildProcess, totalsFile: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    let killed = false;
    let overSince: number | undefined;
    const timer = setInterval(() => {
      if (existsSync(totalsFile)) overSince ??= performance.now();
      if (overSince !== undefined && performance.now() - overSince > endGraceMilliseconds) {
        killed = true;
        killGroup(child, 'SIGKILL');
      }
    }, 500);
    child.on('error', (error) => {
      clearInterval(timer);
      reject(error);
    });
    child.on('close', () => {
      clearInterval(timer);
      resolve(!killed);
    });
  });
}

function killGroup(child: ChildProcess, signal: NodeJS.Signals): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

async function printCoverage(): Promise<void> {
  if (!existsSync(join(scratch, 'coverage'))) {
    console.log('no process ended in a way that leaves its coverage');
    return;
  }
  const reporters = flags.coverage ? ['text', 'html', 'text-summary'] : ['text-summary'];
  const code = await run(
    'node_modules/.bin/c8',
    [
      'report',
      ...reporters.map((each) => `--reporter=${each}`),
      '--reports-dir=coverage',
      `--temp-directory=${join(scratch, 'coverage')}`,
      '--include=src/**',
      '--exclude=src/generated/**',
      '--all',
      '--src=src',
    ],
    'inherit',
  );
  if (code !== 0) throw new Error(`the coverage cannot be reported: c8 ended with ${code}`);
}

function run(program: string, parameters: readonly string[], stdio: 'inherit' | 'ignore'): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, parameters, { stdio });
    child.on('error', reject);
    child.on('close', (code) => resolve(code ?? 1));
  });
}
