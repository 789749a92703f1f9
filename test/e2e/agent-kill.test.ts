import { expect } from 'chai';
import type { Volume } from '../../src/client/index.js';
import { type Guest, type RecordsReport, startGuest, type WriterStatus } from '../helpers/guest.js';
import { HypervisorNode, moorageJson } from '../helpers/node.js';
import { auditPool } from '../helpers/pool-audit.js';
import { type System, startSystem } from '../helpers/system.js';
import { waitFor } from '../helpers/wait.js';

const KILLS = process.env.MOORAGE_TEST_FULL === '1' ? 12 : 5;
/** So many volumes a reading guest is given at once. */
const READERS_DISKS = 12;

interface Disk {
  readonly volumeId: string;
  /** Its name in the guest. */
  readonly name: string;
}

/** A snapshot, and the writer's last record just before and just after it was asked for. */
interface Point {
  readonly snapshotId: string;
  readonly before: number;
  readonly after: number;
}

describe('the data agent is killed while snapshots are taken of two disks that a guest writes to', function () {
  this.timeout(300_000);
  let system: System;
  let node: HypervisorNode;
  let guest: Guest;
  const disks: Disk[] = [];

  before(async () => {
    system = await startSystem({ name: 'guest-kill' });
    node = await HypervisorNode.enrol(system, 'kill-a');
    guest = await startGuest({ host: node.host, name: 'db1' });
    for (const name of ['one', 'two']) {
      const { id } = await moorageJson<Volume>(system, 'volume', 'create', '--size', '64MiB', '--name', name);
      await node.attach(await node.export(id), 'db1');
      const disk = await guest.waitForDisk(id);
      expect(await guest.command(`start-writer ${disk.name} 0`)).to.include({ ok: true });
      disks.push({ volumeId: id, name: disk.name });
    }
  });
  after(async () => {
    await node?.remove();
    await system?.remove();
  });

  const status = ({ name }: Disk): Promise<WriterStatus> => guest.command<WriterStatus>(`writer-status ${name}`);

  const takeSnapshot = async (disk: Disk): Promise<Point> => {
    const before = (await status(disk)).last_number;
    const { snapshot } = await system.client.createSnapshot(
      { volumeId: disk.volumeId },
      { deadlineMilliseconds: 120_000 },
    );
    expect(snapshot?.state, snapshot?.statusMessage).to.equal('SNAPSHOT_STATE_COMPLETED');
    return { snapshotId: snapshot?.id ?? '', before, after: (await status(disk)).last_number };
  };

  it('the guest sees no error, and every snapshot is as its volume was at one point in time', async () => {
    const began = performance.now();
    const points = await Promise.all(disks.map(takeSnapshot));
    // So long it takes undisturbed; each kill falls on another part of it.
    const usual = performance.now() - began;
    const pauses: number[] = [];
    let kills = 0;
    while (kills < KILLS) {
      for (const disk of disks) await guest.command(`reset-pause ${disk.name}`);
      const pid = await system.agentPid('data');
      const taking = Promise.all(disks.map(takeSnapshot));
      // Where in the snapshot it falls is what this is about, so it goes by the clock.
      const timer = setTimeout(
        () => {
          process.kill(pid, 'SIGKILL');
          kills += 1;
        },
        ((kills + Math.random()) / KILLS) * usual,
      );
      try {
        points.push(...(await taking));
      } finally {
        clearTimeout(timer);
      }
      for (const disk of disks) {
        const now = await status(disk);
        expect(now).to.include({ running: true, errors: 0, first_errno: 0 });
        pauses.push(now.longest_pause_ms);
        await waitFor('it goes on writing', async () => (await status(disk)).last_number > now.last_number + 20);
      }
    }
    console.log(
      `      ${kills} kills, ${points.length} snapshots, longest pauses in the guest's writing: ${pauses.map(Math.round).join(', ')} ms`,
    );
    for (const { name } of disks) {
      const stopped = await guest.command<WriterStatus>(`stop-writer ${name}`);
      expect(stopped).to.include({ ok: true, errors: 0 });
      const records = await guest.command<RecordsReport>(`check-records ${name}`);
      expect(records).to.include({ ok: true, highest: stopped.last_number });
    }

    const copies = await Promise.all(
      points.map(async (point, index) => {
        const { volume } = await system.client.createVolume({ source: { snapshotId: point.snapshotId } });
        const copy = await node.export(volume?.id ?? '');
        const { diskXml } = await node.connect(copy, `vd${String.fromCharCode(97 + (index % READERS_DISKS))}`);
        return { ...point, copy, diskXml };
      }),
    );
    for (let begin = 0; begin < copies.length; begin += READERS_DISKS) {
      const some = copies.slice(begin, begin + READERS_DISKS);
      const reader = await startGuest({
        host: node.host,
        name: 'reader',
        disksXml: some.map((each) => each.diskXml),
      });
      for (const { copy, before, after } of some) {
        const { name } = await reader.waitForDisk(copy.volumeId);
        const records = await reader.command<RecordsReport>(`check-records ${name}`);
        expect(records, copy.volumeId).to.include({ ok: true, corrupt: 0, out_of_order: 0 });
        expect(records.highest, copy.volumeId).to.be.within(before, after + 1);
      }
      await reader.destroy();
    }
    await waitFor('store and pool agree, and nothing is left over', async () => {
      const { problems } = await auditPool(system);
      if (problems.length > 0) throw new Error(problems.join('\n'));
      return true;
    });
  });
});
