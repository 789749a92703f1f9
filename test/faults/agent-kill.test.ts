import { expect } from 'chai';
import { RbdImage } from '../../src/agents/rbd/librbd/image.js';
import { AgentTraps, agentIsSteady, type TrappedCall, type WantedKills } from '../helpers/agent-traps.js';
import { startCluster } from '../helpers/cluster.js';
import { type Guest, type RecordsReport, startGuest, type WriterStatus } from '../helpers/guest.js';
import { lastGuestRecord } from '../helpers/guest-records.js';
import { startLibvirtHost } from '../helpers/libvirt-host.js';
import { HypervisorNode, type NodeExport } from '../helpers/node.js';
import { type Audit, auditPool, trimAtOnce } from '../helpers/pool-audit.js';
import { endAtFirstFailure } from '../helpers/steps.js';
import type { System } from '../helpers/system.js';
import { openAsAdministrator } from '../helpers/test-node.js';
import { waitFor } from '../helpers/wait.js';

/*
 * The data agent is ended with SIGKILL inside calls of librbd, while one guest writes to all the volumes that snapshots are
 * taken of. Several systems side by side, each with a pool and an agent of its own, and one guest with disks of all of them:
 * so the kills, most of whose time is waiting for the next agent, take the time of one system's share.
 */

/** What a snapshot consists of, as librbd sees it. The flush, which only takes the guest's lock, is hit by the way. */
const SNAPSHOT_KILLS = { snapshot: 30, 'snapshot-clone': 30, 'snapshot-base': 30, remove_snap: 30, flush: 10 };
/** What volumes are made by. */
const VOLUME_KILLS = { create: 30, clone: 30 };

const HOST = 'kill-a';
const SYSTEMS = 5;
/** Dealt out to the systems: some have two, whose snapshots are taken at once by one agent. */
const DISKS = 8;

const MEBIBYTE = 2 ** 20;
const SIZE_BYTES = 16 * MEBIBYTE;
/** A disk's records lie on both sides of an object's end, the other one's of its system at another: it has none there. */
const OBJECT_BYTES = 4 * MEBIBYTE;
const AREA_BYTES = MEBIBYTE / 4;
/** Between two records, in milliseconds: what two cores bear of this many disks. */
const WRITE_INTERVAL = 10;

/** How long a call may take in all: its agent is killed several times meanwhile. */
const PATIENCE = { deadlineMilliseconds: 240_000 };
const COMING_TO_REST = { timeoutMilliseconds: 240_000, intervalMilliseconds: 500 };

/** A volume that the guest writes to. */
interface Disk {
  readonly system: System;
  readonly volumeId: string;
  readonly exported: NodeExport;
  readonly diskXml: string;
  /** Where its records lie, in bytes. */
  readonly offset: number;
  /** As the guest calls it. */
  readonly name: string;
}

/** A snapshot, and the writer's last record just before and just after it was asked for. */
interface Point {
  readonly disk: Disk;
  readonly snapshotId: string;
  readonly before: number;
  readonly after: number;
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
    COMING_TO_REST,
  );
}

/** Last record of a volume, or of what volumes are made from a snapshot as. @throws Error when it is as after no record */
async function readLast(system: System, { images }: Audit, owner: string, offset: number): Promise<number> {
  const { cluster, pool } = await openAsAdministrator(system);
  const options = { readOnly: true, ...(owner.startsWith('snap-') && { snapshot: 'base' }) };
  try {
    const area = await RbdImage.with(pool, { id: images.get(owner)?.id ?? '' }, options, (image) =>
      image.read(BigInt(offset), AREA_BYTES),
    );
    return lastGuestRecord(area);
  } catch (error) {
    throw new Error(`${owner} is not as its volume was after some record`, { cause: error });
  } finally {
    pool.close();
    await cluster.close();
  }
}

describe('the data agent is killed inside calls of librbd, while a guest writes to the volumes', function () {
  this.timeout(900_000);
  endAtFirstFailure();
  const traps = new AgentTraps();
  const nodes: HypervisorNode[] = [];
  let guest: Guest;
  const disks: Disk[] = [];
  const points: Point[] = [];
  /** Volumes that were made while the agent was killed: empty ones, and clones of a point. */
  const volumes: { readonly system: System; readonly id: string; readonly source?: Point }[] = [];
  /** Last record of each disk, by its name in the guest. */
  const written = new Map<string, number>();
  /** Longest pause in the guest's writing to a disk during each of the snapshots, in milliseconds. */
  const pauses: number[] = [];

  before(async () => {
    await trimAtOnce(await startCluster());
    const host = await startLibvirtHost(HOST);
    const outcomes = await Promise.allSettled(
      Array.from({ length: SYSTEMS }, async (_, index) => {
        const system = await traps.start(`kill-${index + 1}`);
        const node = await HypervisorNode.enrol(system, HOST);
        nodes.push(node);
        const numbers = Array.from({ length: DISKS }, (_, number) => number).filter(
          (number) => number % SYSTEMS === index,
        );
        return Promise.all(numbers.map((number) => makeDisk(system, node, number)));
      }),
    );
    const all = outcomes.flatMap((outcome) => {
      if (outcome.status === 'rejected') throw outcome.reason;
      return outcome.value;
    });
    guest = await startGuest({ host, name: 'db1', disksXml: all.map((disk) => disk.diskXml) });
    for (const disk of all) {
      const { name } = await guest.waitForDisk(disk.volumeId);
      disks.push({ ...disk, name });
      const started = await guest.command(`start-writer ${name} ${WRITE_INTERVAL} ${disk.offset} ${AREA_BYTES}`);
      expect(started).to.include({ ok: true });
    }
    await Promise.all(disks.map((disk) => wroteMore(disk, 100)));
  });
  after(async () => {
    await Promise.all(nodes.map((node) => node.remove()));
    await Promise.all(traps.systems.map((system) => system.remove()));
  });

  const makeDisk = async (system: System, node: HypervisorNode, number: number): Promise<Omit<Disk, 'name'>> => {
    const { volume } = await system.client.createVolume({ poolId: 'main', sizeBytes: SIZE_BYTES });
    const volumeId = volume?.id ?? '';
    const exported = await node.export(volumeId);
    const { diskXml } = await node.connect(exported, `vd${'abcdefghijklmnop'[number]}`);
    return {
      system,
      volumeId,
      exported,
      diskXml,
      offset: (1 + Math.floor(number / SYSTEMS)) * OBJECT_BYTES - AREA_BYTES / 2,
    };
  };
  const disksOf = (system: System): readonly Disk[] => disks.filter((disk) => disk.system === system);

  /** State of the disk's writer. @throws AssertionError when the guest has seen an error */
  const status = async ({ name }: Disk): Promise<WriterStatus> => {
    const now = await guest.command<WriterStatus>(`writer-status ${name}`);
    expect(now, name).to.include({ running: true, errors: 0, first_errno: 0 });
    return now;
  };
  const wroteMore = async (disk: Disk, records: number): Promise<void> => {
    const goal = (await status(disk)).last_number + records;
    await waitFor(`${records} more records on ${disk.name}`, async () => (await status(disk)).last_number >= goal);
  };
  const takeSnapshot = async (disk: Disk): Promise<Point> => {
    const before = (await status(disk)).last_number;
    const { snapshot } = await disk.system.client.createSnapshot({ volumeId: disk.volumeId }, PATIENCE);
    expect(snapshot?.state, snapshot?.statusMessage).to.equal('SNAPSHOT_STATE_COMPLETED');
    return { disk, snapshotId: snapshot?.id ?? '', before, after: (await status(disk)).last_number };
  };

  const takeSnapshots = async (system: System): Promise<Point[]> => {
    for (const disk of disksOf(system)) await guest.command(`reset-pause ${disk.name}`);
    const taken = await Promise.all(disksOf(system).map(takeSnapshot));
    for (const disk of disksOf(system)) pauses.push((await status(disk)).longest_pause_ms);
    return taken;
  };
  const makeVolume = async (system: System, source?: Point): Promise<void> => {
    const what = source ? { source: { snapshotId: source.snapshotId } } : { poolId: 'main', sizeBytes: SIZE_BYTES };
    const { volume } = await system.client.createVolume(what, PATIENCE);
    expect(volume?.state, volume?.statusMessage).to.equal('VOLUME_STATE_AVAILABLE');
    volumes.push({ system, id: volume?.id ?? '', ...(source && { source }) });
  };

  /** In turn, until enough kills fell inside each call in all systems: snapshots of a system's disks, and two volumes. */
  const workUnderFire = async (system: System): Promise<void> => {
    const setTraps = async (wanted: WantedKills): Promise<boolean> => {
      const calls = await traps.below(wanted);
      if (calls.length > 0) await agentIsSteady(system);
      await traps.set(system, calls);
      return calls.length > 0;
    };
    for (let more = true; more; ) {
      more = await setTraps(SNAPSHOT_KILLS);
      if (more) points.push(...(await takeSnapshots(system)));
      const source = points.findLast((point) => point.disk.system === system);
      if (await setTraps(VOLUME_KILLS)) {
        await Promise.all([makeVolume(system), makeVolume(system, source)]);
        more = true;
      }
    }
  };

  it('which sees no error and goes on writing', async () => {
    const outcomes = await Promise.allSettled(traps.systems.map(workUnderFire));
    const wanted: WantedKills = { ...SNAPSHOT_KILLS, ...VOLUME_KILLS };
    for (const call of Object.keys(wanted) as TrappedCall[]) {
      const { kills, missed } = await traps.count(call);
      console.log(`      kills inside ${call}: ${kills} (too late for it: ${missed})`);
    }
    for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
    expect(await traps.below(wanted)).to.deep.equal([]);
    await Promise.all(disks.map((disk) => wroteMore(disk, 20)));
    let records = 0;
    for (const { name, offset } of disks) {
      const stopped = await guest.command<WriterStatus>(`stop-writer ${name}`);
      expect(stopped, name).to.include({ ok: true, errors: 0, first_errno: 0 });
      const found = await guest.command<RecordsReport>(`check-records ${name} ${offset} ${AREA_BYTES}`);
      expect(found, name).to.include({ ok: true, highest: stopped.last_number });
      written.set(name, stopped.last_number);
      records += stopped.records;
    }
    expect(await guest.console()).not.to.match(/I\/O error|blocked for more than/);
    pauses.sort((a, b) => a - b);
    // What a guest waits for here is mostly the next agent; without kills it is a line of test/e2e/live-volume.test.ts.
    const [median, longest] = [pauses[Math.floor(pauses.length / 2)], pauses.at(-1)].map((pause) =>
      Math.round(pause ?? 0),
    );
    console.log(
      `      ${points.length} snapshots of ${disks.length} disks, ${records} records of the guest; ` +
        `its longest pause in writing while one was taken, the agent killed: median ${median} ms, longest ${longest} ms`,
    );
  });

  it('every volume and snapshot is whole, with its parent and the data of one point in time', async () => {
    await Promise.all(
      traps.systems.map(async (system) => {
        // Every resource has its image, the parents list their children, and nothing else is there.
        const audit = await whole(system);
        for (const { volumeId, name, offset } of disksOf(system)) {
          expect(await readLast(system, audit, volumeId, offset), volumeId).to.equal(written.get(name));
        }
        const held = new Map<Point, number>();
        for (const point of points.filter(({ disk }) => disk.system === system)) {
          const last = await readLast(system, audit, point.snapshotId, point.disk.offset);
          // One record may have been on its way to the disk when the writer was asked.
          expect(last, point.snapshotId).to.be.within(point.before, point.after + 1);
          held.set(point, last);
        }
        for (const { id, source } of volumes.filter((volume) => volume.system === system)) {
          const last = await readLast(system, audit, id, source?.disk.offset ?? 0);
          expect(last, id).to.equal(source === undefined ? 0 : held.get(source));
        }
      }),
    );
  });

  it('and nothing is left over when all is deleted', async () => {
    await guest.destroy();
    for (const { system, exported } of disks) await system.client.unexport({ exportId: exported.exportId });
    await Promise.all(
      traps.systems.map(async (system) => {
        const { volumes, snapshots } = (await whole(system)).inventory;
        await Promise.all([
          ...volumes.map(({ id }) => system.client.deleteVolume({ volumeId: id })),
          ...snapshots.map(({ id }) => system.client.deleteSnapshot({ snapshotId: id })),
        ]);
        await waitFor(
          `everything in ${system.cephPool} is purged`,
          async () => {
            const { inventory, images } = await whole(system);
            return inventory.volumes.length + inventory.snapshots.length + images.size === 0;
          },
          COMING_TO_REST,
        );
      }),
    );
  });
});
