import { readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'chai';
import { RbdImage } from '../../src/agents/rbd/librbd/image.js';
import { repositoryDirectory, startCluster } from '../helpers/cluster.js';
import { type Audit, auditPool, trimAtOnce } from '../helpers/pool-audit.js';
import { RecordWriter } from '../helpers/record-writer.js';
import { lastRecord } from '../helpers/records.js';
import { type System, startSystem } from '../helpers/system.js';
import { openAsAdministrator, TestNode } from '../helpers/test-node.js';
import { waitFor } from '../helpers/wait.js';

/*
 * The data agent is ended with SIGKILL inside calls of librbd, at random moments of their usual duration. The trap that does
 * it sits in the agent's own process (agent-trap.mjs): it knows that the call has begun and not yet ended, so every kill that
 * is counted fell inside.
 */

const KILLS_PER_CALL = 30;
const SIZE_BYTES = 16 * 2 ** 20;
/** How long a call may take in all: its agent is killed several times meanwhile. */
const PATIENCE = { deadlineMilliseconds: 120_000 };

const CALLS = ['create', 'clone', 'snapshot', 'snapshot-base', 'remove_snap'] as const;
type Call = (typeof CALLS)[number];

/** Usual durations before any was seen, in milliseconds. */
const USUAL: Readonly<Record<Call, number>> = {
  create: 6,
  clone: 20,
  snapshot: 700,
  'snapshot-base': 700,
  remove_snap: 2,
};

/** Systems whose agents are killed, and how often they were. */
class Trapped {
  readonly systems: System[] = [];

  async start(name: string): Promise<System> {
    const trap = join(repositoryDirectory, 'test/helpers/agent-trap.mjs');
    const system = await startSystem({ name, nodeArguments: ['--import', trap] });
    this.systems.push(system);
    return system;
  }

  /** Sets traps that close at a random moment of each call's usual duration. */
  async set(system: System, calls: readonly Call[]): Promise<void> {
    const events = await this.events();
    const traps = Object.fromEntries(
      calls.map((call) => {
        const durations = events
          .filter((event) => event.call === call && event.kind !== 'killed')
          .map((event) => event.milliseconds)
          .sort((a, b) => a - b);
        return [call, Math.random() * (durations[Math.floor(durations.length / 2)] ?? USUAL[call])];
      }),
    );
    const file = join(system.directory, 'trap.json');
    await writeFile(`${file}.test`, JSON.stringify(traps));
    await rename(`${file}.test`, file);
  }

  async kills(call: Call): Promise<number> {
    return (await this.events()).filter((event) => event.call === call && event.kind === 'killed').length;
  }

  async enough(...calls: readonly Call[]): Promise<boolean> {
    for (const call of calls) if ((await this.kills(call)) < KILLS_PER_CALL) return false;
    return true;
  }

  async events(): Promise<{ kind: string; call: string; milliseconds: number }[]> {
    const texts = await Promise.all(
      this.systems.map((system) => readFile(join(system.directory, 'calls.log'), 'utf8').catch(() => '')),
    );
    return texts.flatMap((text) =>
      text
        .split('\n')
        .filter(Boolean)
        .map((line) => {
          const [kind = '', call = '', milliseconds] = line.split(' ');
          return { kind, call, milliseconds: Number(milliseconds) };
        }),
    );
  }
}

/** Waits until the reaper has cleared what the kills left, and store and pool agree. */
function whole(system: System): Promise<Audit> {
  return waitFor(
    `the pool ${system.cephPool} is whole`,
    async () => {
      const audit = await auditPool(system);
      if (audit.problems.length > 0) {
        const warnings = system
          .log()
          .split('\n')
          .filter((line) => line.includes('"warn"') && !line.includes('"died"'));
        throw new Error([...audit.problems, ...warnings.slice(-5)].join('\n'));
      }
      return audit;
    },
    { timeoutMilliseconds: 60_000, intervalMilliseconds: 500 },
  );
}

/** Waits until the agent has lived so long that its next death does not count as one of a row, after which restarts pause. */
async function agentIsSteady(system: System): Promise<void> {
  await waitFor('the agent has been ready for a second', () => {
    const ready = system
      .log()
      .split('\n')
      .filter((line) => line.includes('"agent_role":"data"') && line.includes('"ready"'));
    const { time } = JSON.parse(ready.at(-1) ?? '{}') as { time: string };
    return Date.now() - Date.parse(time) > 1000;
  });
}

async function readRecords(system: System, id: string, seed: string, snapshot?: string): Promise<number> {
  const { cluster, pool } = await openAsAdministrator(system);
  try {
    return await RbdImage.with(pool, { id }, { readOnly: true, ...(snapshot && { snapshot }) }, (image) =>
      lastRecord(seed, (offset, length) => image.read(offset, length)),
    );
  } finally {
    pool.close();
    await cluster.close();
  }
}

/** Deletes everything and waits until nothing is left of it. */
async function purgeAll(system: System): Promise<void> {
  const { volumes, snapshots } = (await whole(system)).inventory;
  await Promise.all([
    ...volumes.map(({ id }) => system.client.deleteVolume({ volumeId: id })),
    ...snapshots.map(({ id }) => system.client.deleteSnapshot({ snapshotId: id })),
  ]);
  await waitFor(
    'everything is purged',
    async () => {
      const { inventory, images } = await whole(system);
      return inventory.volumes.length + inventory.snapshots.length + images.size === 0;
    },
    { timeoutMilliseconds: 60_000, intervalMilliseconds: 500 },
  );
}

describe('an agent that is killed inside calls of librbd', function () {
  this.timeout(600_000);
  const trapped = new Trapped();
  const writers: RecordWriter[] = [];

  before(async () => trimAtOnce(await startCluster()));
  after(async () => {
    await Promise.all(writers.map((writer) => writer.kill()));
    await Promise.all(trapped.systems.map((system) => system.remove()));
  });

  /** Volumes, empty ones and clones, until enough kills fell inside create and clone. */
  const makeVolumes = async (): Promise<void> => {
    const system = await trapped.start('kill-create');
    const node = await TestNode.register(system, 'nc-a');
    const { volume: origin } = await system.client.createVolume({ poolId: 'main', sizeBytes: SIZE_BYTES });
    const exported = await node.export(origin?.id ?? '');
    const writer = await RecordWriter.start(system, exported, { pauseMilliseconds: 0 });
    writers.push(writer);
    await waitFor('something is written', () => writer.last > 200);
    await writer.stop();
    await system.client.unexport({ exportId: exported.exportId });
    const { snapshot } = await system.client.createSnapshot({ volumeId: origin?.id ?? '' });
    const empty: string[] = [];
    const clones: string[] = [];
    while (!(await trapped.enough('create', 'clone'))) {
      await agentIsSteady(system);
      await trapped.set(system, ['create', 'clone']);
      const [plain, clone] = await Promise.all([
        system.client.createVolume({ poolId: 'main', sizeBytes: SIZE_BYTES }, PATIENCE),
        system.client.createVolume({ source: { snapshotId: snapshot?.id ?? '' } }, PATIENCE),
      ]);
      expect([plain.volume?.state, clone.volume?.state]).to.deep.equal(Array(2).fill('VOLUME_STATE_AVAILABLE'));
      empty.push(plain.volume?.id ?? '');
      clones.push(clone.volume?.id ?? '');
    }
    await trapped.set(system, []);
    const { images } = await whole(system);
    for (const id of clones)
      expect(await readRecords(system, images.get(id)?.id ?? '', writer.seed)).to.equal(writer.last);
    for (const id of empty) expect(await readRecords(system, images.get(id)?.id ?? '', id)).to.equal(0);
    await purgeAll(system);
  };

  /** Snapshots of a volume that a client writes to, until enough kills fell inside each of their calls. */
  const takeSnapshots = async (name: string): Promise<void> => {
    const system = await trapped.start(name);
    const node = await TestNode.register(system, 'nc-a');
    const { volume } = await system.client.createVolume({ poolId: 'main', sizeBytes: SIZE_BYTES });
    const volumeId = volume?.id ?? '';
    const exported = await node.export(volumeId);
    const writer = await RecordWriter.start(system, exported);
    writers.push(writer);
    const taken: { id: string; from: number; to: number }[] = [];
    while (!(await trapped.enough('snapshot', 'remove_snap'))) {
      await agentIsSteady(system);
      await trapped.set(system, ['snapshot', 'clone', 'snapshot-base', 'remove_snap']);
      const from = writer.last;
      const { snapshot } = await system.client.createSnapshot({ volumeId }, PATIENCE);
      expect(snapshot?.state).to.equal('SNAPSHOT_STATE_COMPLETED');
      expect(writer.failure).to.equal(undefined);
      // One more may have been written and not yet heard of.
      taken.push({ id: snapshot?.id ?? '', from, to: writer.last + 1 });
    }
    await trapped.set(system, []);
    const goal = writer.last + 20;
    await waitFor('the client goes on writing', () => writer.last > goal);
    await writer.stop();
    expect(writer.failure).to.equal(undefined);
    await system.client.unexport({ exportId: exported.exportId });
    const made: string[] = [];
    for (const { id } of taken.slice(-3)) {
      made.push((await system.client.createVolume({ source: { snapshotId: id } })).volume?.id ?? '');
    }
    const { images } = await whole(system);
    expect(await readRecords(system, images.get(volumeId)?.id ?? '', writer.seed)).to.equal(writer.last);
    const held: number[] = [];
    for (const { id, from, to } of taken) {
      const last = await readRecords(system, images.get(id)?.id ?? '', writer.seed, 'base');
      expect(last, `${id} holds the records as of its point in time`).to.be.within(from, to);
      held.push(last);
    }
    for (const [index, id] of made.entries()) {
      const last = await readRecords(system, images.get(id)?.id ?? '', writer.seed);
      expect(last).to.equal(held.slice(-3)[index]);
    }
    process.stdout.write(
      `      ${name}: ${taken.length} snapshots, ${writer.last} records, longest pause ${Math.round(writer.longestPause)} ms\n`,
    );
    await purgeAll(system);
  };

  it('leaves every volume and snapshot whole, no writer an error, and nothing over', async () => {
    const names = ['kill-snap-1', 'kill-snap-2', 'kill-snap-3', 'kill-snap-4'];
    const outcomes = await Promise.allSettled([makeVolumes(), ...names.map(takeSnapshots)]);
    const events = await trapped.events();
    for (const call of CALLS) {
      const count = (kind: string) => events.filter((event) => event.call === call && event.kind === kind).length;
      process.stdout.write(`      kills inside ${call}: ${count('killed')} (too late for it: ${count('missed')})\n`);
    }
    for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
    for (const call of CALLS) expect(await trapped.kills(call), call).to.be.at.least(KILLS_PER_CALL);
  });
});
