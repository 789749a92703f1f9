import { randomUUID } from 'node:crypto';
import { waitFor } from '../../helpers/wait.js';
import { comeToRest, sentence } from '../crash-matrix/crash.js';
import { type Case, given, type Scenario } from '../crash-matrix/scenario.js';
import { makeVolume } from '../crash-matrix/volumes.js';
import { type FreezePoint, type Frozen, isStopped, type Stage } from './stage.js';

/** One freeze: in this call, at this point. */
export interface Freeze {
  readonly scenario: FreezeScenario;
  readonly point: FreezePoint;
}

/** What came of one. */
export interface Outcome {
  readonly freeze: string;
  /** Each a sentence. */
  readonly problems: readonly string[];
  /** Whether the step that was stopped succeeded when its machine went on. */
  readonly late: boolean;
  /** From the freeze until the caller was answered, and of all of it; milliseconds. */
  readonly answered: number;
  readonly total: number;
}

/** A call of the crash matrix's kind. */
export interface FreezeScenario extends Scenario {
  /** What it made goes again before the frozen one goes on: an answer cannot be had once more. */
  readonly undone?: true;
}

/** Calls beside those of the crash matrix. */
export const ownScenarios: readonly FreezeScenario[] = [
  {
    name: 'Export, undone before the thaw',
    method: 'Export',
    kind: 'keeps',
    undone: true,
    prepare: async (stage) => {
      const volumeId = await makeVolume(stage);
      let made = '';
      return {
        call: async (client, clientToken) => {
          const direct = { nodeId: stage.node(0).id };
          await client.export({ volumeId, authority: 'direct', direct, clientToken });
          const { exports } = await client.listExports({ volumeId, pageSize: 1000 });
          made = exports.map(({ id }) => id).join(' ');
          return made;
        },
        rest: async () => {
          await stage.client.unexport({ exportId: made });
        },
        check: async () => {
          const { exports } = await stage.client.listExports({ volumeId, pageSize: 1000 });
          return exports.length === 0 ? [] : [`${volumeId} is exported again`];
        },
      };
    },
  },
  {
    name: 'CreateSnapshot, of a long chain',
    method: 'CreateSnapshot',
    kind: 'keeps',
    prepare: async (stage) => {
      const volumeId = await makeVolume(stage, stage.snapshotId);
      return {
        call: async (client, clientToken) =>
          given('snapshot', (await client.createSnapshot({ volumeId, clientToken })).snapshot).id,
        check: async (snapshotId) => {
          const { snapshot } = await stage.client.getSnapshot({ snapshotId });
          const { state, cloneDepth } = given('snapshot', snapshot);
          return state === 'SNAPSHOT_STATE_COMPLETED' && cloneDepth === 0
            ? []
            : [`${snapshotId} is ${state} at depth ${cloneDepth}`];
        },
      };
    },
  },
];

export function nameOf({ scenario, point }: Freeze): string {
  return `${scenario.name} | ${point.role} ${point.method} ${point.function}`;
}

/** What a call passes until all is at rest. */
export async function trace(stage: Stage, scenario: Scenario): Promise<readonly FreezePoint[]> {
  const made = await scenario.prepare(stage.bench);
  const token = randomUUID();
  const mark = stage.mark();
  const answer = await made.call(stage.client, token);
  await made.rest?.();
  const problems = [...(await comeToRest(stage.bench))];
  const points = stage.passed(mark);
  problems.push(...(await made.check(answer)));
  await made.end?.();
  if (problems.length > 0) throw new Error(`${scenario.name}, with nothing frozen: ${problems.join('; ')}`);
  return points;
}

/**
 * Makes a call, freezes the machine that works on it at a point, has the other controller take over and answer the caller's
 * retry, lets the frozen one go on, and looks at everything once that has begun anew.
 */
export async function freeze(stage: Stage, what: Freeze): Promise<Outcome> {
  const problems: string[] = [];
  const began = performance.now();
  const { undone = false } = what.scenario;
  let answered = 0;
  let made: Case | undefined;
  let frozen: Frozen | undefined;
  try {
    stage.seenThrough = 0;
    made = await what.scenario.prepare(stage.bench);
    const token = randomUUID();
    stage.arm(what.point);
    // From the one that shall freeze; what the controllers do by themselves may freeze the other.
    const first = settle(made.call(stage.several.one(0).client, token));
    const { rest } = made;
    // What comes after the answer, as a purge, may be where the machine freezes.
    const resting = undone ? undefined : first.then(() => rest?.()).catch(() => undefined);
    frozen = await waitFor('the machine to freeze', () => stage.frozen(), { intervalMilliseconds: 5 });
    const { controller, agents } = frozen;
    await waitFor('all of it to stand still', () => [controller, ...agents].every(isStopped));
    const stood = performance.now();
    const index = stage.several.all.findIndex((each) => each.process.pid === controller);
    const one = stage.several.one(index);
    const other = stage.several.one(1 - index);
    stage.seenThrough = 1 - index;
    const tookOver = other.said('took over from a controller');
    const anew = one.said('begun anew');
    const again = await made.call(other.client, token);
    answered = performance.now() - stood;
    await made.rest?.();
    await waitFor('the other to take over', () => other.said('took over from a controller') > tookOver);
    stage.takenOver(frozen);
    if (![controller, ...agents].every(isStopped)) problems.push('the frozen machine went on too early');
    problems.push(...(await comeToRest(stage.bench)).map((problem) => `before the thaw: ${problem}`));
    await stage.thaw(frozen);
    await waitFor('the frozen one to begin anew', () => one.said('begun anew') > anew || !one.process.running);
    if (!one.process.running) {
      problems.push(`the frozen controller ended: ${one.process.log.slice(-500)}`);
      await one.process.start();
    }
    const told = await first;
    await resting;
    if (!undone) {
      problems.push(...judge(told, again));
      const third = await made.call(one.client, token);
      if (third !== again) problems.push(`the caller was told ${again}, and then ${third}`);
    }
    problems.push(...(await comeToRest(stage.bench)), ...(await made.check(again)));
  } catch (error) {
    problems.push(sentence(error));
  } finally {
    if (frozen !== undefined) await stage.thaw(frozen);
    await made?.end?.();
  }
  const late = stage.succeededLate;
  stage.disarm();
  return { freeze: nameOf(what), problems, late, answered, total: performance.now() - began };
}

type Told = { readonly answer: string } | { readonly error: unknown };

function settle(call: Promise<string>): Promise<Told> {
  return call.then(
    (answer) => ({ answer }),
    (error: unknown) => ({ error }),
  );
}

/** The call that was under way when its controller froze gets the same answer, or one that says: ask again. */
function judge(told: Told, again: string): readonly string[] {
  if ('answer' in told) return told.answer === again ? [] : [`one caller was told ${told.answer}, another ${again}`];
  const { code } = told.error as { readonly code?: string };
  return code === 'UNAVAILABLE' ? [] : [`the first caller was told: ${sentence(told.error)}`];
}
