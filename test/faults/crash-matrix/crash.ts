import { randomUUID } from 'node:crypto';
import { connect } from '../../../src/client/index.js';
import { waitFor } from '../../helpers/wait.js';
import type { Bench, Reached, Trap } from './bench.js';
import { checkAtRest, checkStore, checkStoreAtRest } from './check.js';
import type { Case } from './scenario.js';

/** How long everything may take to come to rest after a death, in milliseconds: far more than it takes. */
const REST = 90_000;

/** What came of a death. */
export interface Outcome {
  /** Whether the trap closed. */
  readonly reached: boolean;
  /** What is wrong, each a sentence; nothing when all invariants held. */
  readonly problems: readonly string[];
}

/**
 * Makes a call, ends who the trap says at its point, starts again what ended, makes the call once more with the same token,
 * and looks at everything.
 * @param patience how long everything may take to come to rest, in milliseconds
 */
export async function crash(bench: Bench, made: Case, trap: Trap, patience = REST): Promise<Outcome> {
  const problems: string[] = [];
  const logged = bench.system.log().length;
  let isReached = false;
  const clientToken = randomUUID();
  const impatient = connect({
    endpoints: [bench.system.endpoint],
    unreachableMilliseconds: 0,
    deadlineMilliseconds: 60_000,
  });
  try {
    await made.ready?.(clientToken);
    bench.set(trap);
    const first = made.call(impatient, clientToken).then(
      (answer) => ({ answer }),
      (error: unknown) => ({ error }),
    );
    const reached = await trapCloses(bench, first, made);
    if (reached === undefined) {
      const refusal = await first;
      // Without harm it succeeds: that has been seen while it was traced.
      if ('error' in refusal) return { reached: true, problems: [`without harm: ${sentence(refusal.error)}`] };
      return { reached: false, problems: ['the call did not pass this point'] };
    }
    isReached = true;
    if (await bench.dead(reached)) {
      problems.push(...(await checkDead(bench)));
      await bench.system.start();
    }
    // Before the caller asks again: what was begun is finished without that.
    problems.push(...(await recover(bench, patience)));
    const told = await first;
    const again = await made.call(bench.client, clientToken);
    if ('answer' in told && told.answer !== again)
      problems.push(`the caller was told ${told.answer}, and then ${again}`);
    const third = await made.call(bench.client, clientToken);
    if (third !== again) problems.push(`the caller was told ${again}, and then ${third}`);
    await made.rest?.();
    problems.push(...(await comeToRest(bench, patience)));
    problems.push(...(await made.check(again)));
  } catch (error) {
    problems.push(sentence(error));
  } finally {
    bench.unset();
    impatient.close();
  }
  if (isReached && problems.length > 0) problems.push(...warnings(bench.system.log().slice(logged)));
  return { reached: isReached, problems };
}

/** The last that the controller has warned of. */
function warnings(log: string): readonly string[] {
  const lines = log.split('\n').filter((line) => /"level":"(warn|error|fatal)"/.test(line) && !line.includes('"died"'));
  return lines.slice(-4).map((line) => `logged: ${line.slice(0, 600)}`);
}

/** Waits until the trap has closed; undefined when the call has come to rest without it. */
async function trapCloses(bench: Bench, call: Promise<unknown>, made: Case): Promise<Reached | undefined> {
  let over = false;
  void call
    .then(() => made.rest?.())
    // Looking at everything is dear, and needed only where the call has gone by without harm.
    .then(() => (bench.reached() === undefined ? comeToRest(bench) : undefined))
    .catch(() => undefined)
    .then(() => {
      over = true;
    });
  return waitFor('the trap closes', () => bench.reached() ?? (over ? { none: true as const } : undefined), {
    timeoutMilliseconds: REST,
    intervalMilliseconds: 5,
  }).then((outcome) => ('none' in outcome ? undefined : outcome));
}

/** Waits until no operation runs. @returns those that go on running, each a sentence */
async function recover(bench: Bench, milliseconds: number): Promise<readonly string[]> {
  let running: readonly string[] = [];
  const look = async (): Promise<boolean> => {
    const { operations } = await bench.client.listOperations({ pageSize: 1000 });
    running = operations.map(({ id, kind, statusMessage }) => `${id} (${kind}) is not finished: ${statusMessage}`);
    return running.length === 0;
  };
  try {
    await waitFor('recovery', look, { timeoutMilliseconds: milliseconds, intervalMilliseconds: 20 });
    return [];
  } catch (error) {
    return running.length > 0 ? running : [sentence(error)];
  }
}

/** What is wrong in the store of a system whose controller has ended. @param at whether everything had come to rest before */
export async function checkDead(bench: Bench, at?: 'at rest'): Promise<readonly string[]> {
  const store = await bench.system.store.open();
  try {
    const problems = at === undefined ? await checkStore(store) : await checkStoreAtRest(store);
    return problems.map((problem) => `in the store of the dead: ${problem}`);
  } finally {
    await store.close();
  }
}

/** Waits until nothing is wrong any more, or gives up and says what is. */
export async function comeToRest(bench: Bench, milliseconds = REST): Promise<readonly string[]> {
  let problems: readonly string[] = [];
  try {
    await waitFor(
      'everything agrees',
      async () => {
        problems = await checkAtRest(bench, true);
        return problems.length === 0;
      },
      { timeoutMilliseconds: milliseconds, intervalMilliseconds: 100 },
    );
    return [];
  } catch (error) {
    const all = await checkAtRest(bench).catch((second: unknown) => [sentence(second)]);
    return all.length > 0 ? all : [...problems, sentence(error)];
  }
}

/** An error and its causes in one line. */
export function sentence(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause === undefined ? error.message : `${error.message}: ${sentence(error.cause)}`;
}
