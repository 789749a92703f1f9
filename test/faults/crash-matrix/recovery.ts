import { randomUUID } from 'node:crypto';
import { connect } from '../../../src/client/index.js';
import { waitFor } from '../../helpers/wait.js';
import { type Bench, SIZE_BYTES, type Trap } from './bench.js';
import { type Case, differences, given, type Scenario } from './scenario.js';
import { makeVolume } from './volumes.js';

/* What the controller does when it starts again, and when an agent has died: deaths in the middle of that. */

/** A call that is under way when a first death comes. */
interface Interrupted {
  /** Makes it, or makes it once more. */
  call(client: Bench['client'], clientToken: string): Promise<string>;
  check(answer: string): Promise<readonly string[]>;
}

async function snapshotOf(bench: Bench): Promise<Interrupted> {
  const volumeId = await makeVolume(bench);
  return {
    call: async (client, clientToken) =>
      given('snapshot', (await client.createSnapshot({ volumeId, clientToken })).snapshot).id,
    check: async (id) => {
      const { snapshot } = await bench.client.getSnapshot({ snapshotId: id });
      return differences(id, given('snapshot', snapshot), { state: 'SNAPSHOT_STATE_COMPLETED', volumeId });
    },
  };
}

async function expansionOf(bench: Bench): Promise<Interrupted> {
  const volumeId = await makeVolume(bench);
  return {
    call: async (client, clientToken) => {
      await client.expandVolume({ volumeId, sizeBytes: 2 * SIZE_BYTES, clientToken });
      return volumeId;
    },
    check: async (id) => {
      const { volume } = await bench.client.getVolume({ volumeId: id });
      return differences(id, given('volume', volume), { sizeBytes: String(2 * SIZE_BYTES) });
    },
  };
}

/** The controller, and its agents with it, die inside a call; what is looked at is the start after that. */
async function startAfter(bench: Bench, interrupted: Interrupted, first: Trap): Promise<Case> {
  return {
    ready: async (clientToken) => {
      const impatient = connect({ endpoints: [bench.system.endpoint], unreachableMilliseconds: 0 });
      bench.set(first, 'first');
      const cut = interrupted.call(impatient, clientToken).catch(() => undefined);
      const reached = await waitFor('the first death', () => bench.reached('first'), { intervalMilliseconds: 5 });
      await bench.dead(reached);
      await cut;
      impatient.close();
    },
    call: async (client, clientToken) => {
      if (!bench.system.running) await bench.system.start();
      return interrupted.call(client, clientToken);
    },
    check: (answer) => interrupted.check(answer),
  };
}

const TAKE_POINT = 'step snapshot.create take-point: take-point (TakePoint)';
const EXPAND = 'effect volume.expand expand-image: expand-image (ExpandImage) rbd_resize2 1';

export const recoveryScenarios: readonly Scenario[] = [
  {
    name: 'start after a death while a snapshot was made',
    kind: 'keeps',
    prepare: async (bench) =>
      startAfter(bench, await snapshotOf(bench), {
        point: TAKE_POINT,
        site: 'agent',
        moment: 'after',
        victims: 'both',
      }),
  },
  {
    name: 'start after a death while a volume was expanded',
    kind: 'keeps',
    points: /controller|adopted|\((CutOff|BreakLocks)\)/,
    prepare: async (bench) =>
      startAfter(bench, await expansionOf(bench), { point: EXPAND, site: 'agent', moment: 'before', victims: 'both' }),
  },
  {
    name: 'start after a stop',
    kind: 'keeps',
    points: /controller/,
    prepare: async (bench) => ({
      ready: () => bench.system.stop(),
      call: async (client) => {
        if (!bench.system.running) await bench.system.start();
        const { pool } = await client.getPool({ poolId: 'main' });
        return given('pool', pool).id;
      },
      check: async () => [],
    }),
  },
  {
    name: 'death of a data agent while it expands a volume',
    kind: 'keeps',
    points: /controller|\((CutOff|BreakLocks)\)/,
    prepare: async (bench) => {
      const interrupted = await expansionOf(bench);
      const name = `first-${randomUUID()}`;
      return {
        ready: async () => bench.set({ point: EXPAND, site: 'agent', moment: 'before', victims: 'agent' }, name),
        call: (client, clientToken) => interrupted.call(client, clientToken),
        check: (answer) => interrupted.check(answer),
      };
    },
  },
];
