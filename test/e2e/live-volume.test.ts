import { expect } from 'chai';
import type { Snapshot, Volume } from '../../src/client/index.js';
import { cleanUp } from '../helpers/clean-up.js';
import { type Guest, type GuestDisk, type RecordsReport, startGuest, type WriterStatus } from '../helpers/guest.js';
import { HypervisorNode, moorageJson, type NodeExport } from '../helpers/node.js';
import { auditPool } from '../helpers/pool-audit.js';
import { endAtFirstFailure } from '../helpers/steps.js';
import { type System, startSystem } from '../helpers/system.js';
import { waitFor } from '../helpers/wait.js';

const MEBIBYTE = 2 ** 20;
const SIZE_MEBIBYTES = 64;
const LARGER_MEBIBYTES = 96;

/** librbd takes the owner of a lock for dead after 30 s; nothing here may come near it. How short it is stands in the output. */
const FREEZE_MILLISECONDS = 15_000;

/** A snapshot, and the writer's last record just before and just after it was asked for. */
interface Point {
  readonly snapshotId: string;
  readonly before: number;
  readonly after: number;
}

describe('a volume that a guest writes to all the time', function () {
  this.timeout(300_000);
  endAtFirstFailure();
  let system: System;
  let node: HypervisorNode;
  let guest: Guest;
  let disk: GuestDisk;
  let volumeId: string;
  let exported: NodeExport;
  const points: Point[] = [];
  const pauses: string[] = [];

  before(async () => {
    system = await startSystem({ name: 'live-volume' });
    node = await HypervisorNode.enrol(system, 'live-a');
    guest = await startGuest({ host: node.host, name: 'db1' });
    volumeId = (await moorageJson<Volume>(system, 'volume', 'create', '--size', `${SIZE_MEBIBYTES}MiB`)).id;
    exported = await node.export(volumeId);
    await node.attach(exported, 'db1');
    disk = await guest.waitForDisk(volumeId);
    // Behind the records: what each snapshot's volume has besides them.
    expect(await guest.command(`write-pattern ${disk.name} 1 ${8 * MEBIBYTE} ${4 * MEBIBYTE}`)).to.include({
      ok: true,
    });
    expect(await guest.command(`start-writer ${disk.name} 0`)).to.include({ ok: true });
    await wroteMore(100);
  });
  after(async () => {
    await cleanUp(
      () => node?.remove(),
      () => system?.remove(),
    );
  });

  const status = (): Promise<WriterStatus> => guest.command<WriterStatus>(`writer-status ${disk.name}`);
  /** Waits for so many more records, without an error. */
  const wroteMore = async (records: number): Promise<void> => {
    const since = await status();
    await waitFor(`${records} more records`, async () => {
      const now = await status();
      expect(now).to.include({ running: true, errors: 0 });
      return now.last_number >= since.last_number + records;
    });
  };
  /** Does something while the guest writes, and notes the longest pause in its writing. */
  const whileWriting = async <Value>(what: string, act: () => Promise<Value>): Promise<Value> => {
    await guest.command(`reset-pause ${disk.name}`);
    const value = await act();
    await wroteMore(50);
    const pause = Math.round((await status()).longest_pause_ms);
    pauses.push(`${what} ${pause} ms`);
    expect(pause, `${what}: the guest must not wait until a lock is taken for abandoned`).to.be.below(
      FREEZE_MILLISECONDS,
    );
    return value;
  };
  const takeSnapshot = async (): Promise<Point> => {
    const before = (await status()).last_number;
    const snapshot = await moorageJson<Snapshot>(system, 'snapshot', 'create', volumeId);
    expect(snapshot.state).to.equal('SNAPSHOT_STATE_COMPLETED');
    return { snapshotId: snapshot.id, before, after: (await status()).last_number };
  };

  it('is snapshotted', async () => {
    points.push(await whileWriting('snapshot', takeSnapshot));
  });

  it('is expanded, and the guest sees the new size', async () => {
    const size = LARGER_MEBIBYTES * MEBIBYTE;
    await whileWriting('expand', async () => {
      const larger = await moorageJson<Volume>(
        system,
        'volume',
        'expand',
        volumeId,
        '--size',
        `${LARGER_MEBIBYTES}MiB`,
      );
      expect(larger.sizeBytes).to.equal(size);
      await node.storageUtils(
        ...(['extend', '--descriptor', exported.file, '--domain', 'db1'] as const),
        ...['--size', `${LARGER_MEBIBYTES}MiB`],
      );
      await waitFor('the guest sees the new size', async () => {
        const seen = (await guest.disks()).find((each) => each.name === disk.name);
        return seen?.size_bytes === size;
      });
    });
    const end = `2 ${(LARGER_MEBIBYTES - 4) * MEBIBYTE} ${4 * MEBIBYTE}`;
    expect(await guest.command(`write-pattern ${disk.name} ${end}`)).to.include({ ok: true });
  });

  it('is snapshotted again, and then by eight at once', async () => {
    points.push(await whileWriting('second snapshot', takeSnapshot));
    const eight = await whileWriting('eight snapshots at once', () =>
      Promise.all(
        Array.from({ length: 8 }, async () => {
          const before = (await status()).last_number;
          const { snapshot } = await system.client.createSnapshot({ volumeId });
          expect(snapshot?.state).to.equal('SNAPSHOT_STATE_COMPLETED');
          return { snapshotId: snapshot?.id ?? '', before, after: (await status()).last_number };
        }),
      ),
    );
    points.push(...eight);
    // Printed here and no figure of `make bench`, which runs no guest; and not asserted, since it depends on the machine's other
    // load. Wanted on a machine of its own: eight snapshots at once stop the guest's writing for at most 3 s.
    console.log(`      longest pauses in the guest's writing: ${pauses.join(', ')} (eight at once: wanted ≤ 3000 ms)`);
  });

  it('never gave the guest an error, and holds every record', async () => {
    const stopped = await guest.command<WriterStatus>(`stop-writer ${disk.name}`);
    expect(stopped).to.include({ ok: true, errors: 0, first_errno: 0 });
    const records = await guest.command<RecordsReport>(`check-records ${disk.name}`);
    expect(records).to.include({ ok: true, highest: stopped.last_number });
  });

  it('and each snapshot’s volume is as the volume was at its point in time', async () => {
    const copies = await Promise.all(
      points.map(async (point, index) => {
        const { volume } = await system.client.createVolume({ source: { snapshotId: point.snapshotId } });
        const copy = await node.export(volume?.id ?? '');
        const { diskXml } = await node.connect(copy, `vd${'abcdefghijklmnop'[index]}`);
        return { ...point, copy, diskXml, size: Number(volume?.sizeBytes) };
      }),
    );
    const reader = await startGuest({ host: node.host, name: 'reader', disksXml: copies.map((each) => each.diskXml) });
    for (const [index, { copy, before, after, size }] of copies.entries()) {
      const found = await reader.waitForDisk(copy.volumeId);
      expect(found.size_bytes).to.equal(size);
      expect(size).to.equal((index === 0 ? SIZE_MEBIBYTES : LARGER_MEBIBYTES) * MEBIBYTE);
      const records = await reader.command<RecordsReport>(`check-records ${found.name}`);
      expect(records, copy.volumeId).to.include({ ok: true, corrupt: 0, out_of_order: 0 });
      // One record may have been on its way to the disk when the writer was asked.
      expect(records.highest, copy.volumeId).to.be.within(before, after + 1);
      const patterns = [`1 ${8 * MEBIBYTE} ${4 * MEBIBYTE}`];
      if (index > 0) patterns.push(`2 ${(LARGER_MEBIBYTES - 4) * MEBIBYTE} ${4 * MEBIBYTE}`);
      for (const pattern of patterns) {
        expect(await reader.command(`read-pattern ${found.name} ${pattern}`)).to.include({ ok: true });
      }
    }
    await reader.destroy();
    await Promise.all(
      copies.map(async ({ copy }) => {
        await node.storageUtils('disconnect', '--descriptor', copy.file);
        await system.client.unexport({ exportId: copy.exportId });
      }),
    );
    await waitFor('store and pool agree', async () => {
      const { problems } = await auditPool(system);
      if (problems.length > 0) throw new Error(problems.join('\n'));
      return true;
    });
  });
});
