import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { Cluster, timeoutOverrides } from '../../src/agents/rbd/librbd/cluster.js';
import { isCephError } from '../../src/agents/rbd/librbd/errors.js';
import { RbdImage } from '../../src/agents/rbd/librbd/image.js';
import type { WriterTask } from './record-writer.js';
import { offsetOf, recordOf } from './records.js';

/*
 * The process of a RecordWriter: reads its task, says "open <address>" and then the number of each record that was
 * acknowledged; "failed <number> <errno>" ends it. When its standard input ends, it closes the image and ends with 0.
 */
const lines = createInterface({ input: process.stdin });
let ended = false;
lines.once('close', () => {
  ended = true;
});
const line = await new Promise<string>((resolve) => lines.once('line', resolve));
const task = JSON.parse(line) as WriterTask;
const { access } = task;
if (access.mode !== 'managed') throw new Error('the export brings no key');
const cluster = await Cluster.connect({
  configurationFile: task.configurationFile,
  user: access.user,
  key: access.key,
  // As QEMU has it: a request waits for as long as it takes; and what is acknowledged is on the disks.
  overrides: { ...timeoutOverrides(300), rbd_cache: 'false', rbd_blocklist_on_break_lock: 'true' },
});
const pool = await cluster.openPool(task.pool);
const image = await RbdImage.open(pool, { name: task.image });
process.stdout.write(`open ${cluster.addresses()[0]}\n`);
for (let sequence = 1; !ended; sequence += 1) {
  if (!task.idle) {
    try {
      await image.write(offsetOf(sequence), recordOf(task.seed, sequence));
    } catch (error) {
      process.stdout.write(`failed ${sequence} ${isCephError(error) ? error.errnoName : String(error)}\n`, () =>
        // It may be refused by every OSD: closing would wait for them.
        process.kill(process.pid, 'SIGKILL'),
      );
      await delay(10_000);
    }
    process.stdout.write(`${sequence}\n`);
  }
  await delay(task.pauseMilliseconds);
}
await image.close();
pool.close();
await cluster.close();
