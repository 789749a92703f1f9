import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { Cluster, timeoutOverrides } from '../../src/agents/rbd/librbd/cluster.js';
import { isCephError } from '../../src/agents/rbd/librbd/errors.js';
import { RbdImage } from '../../src/agents/rbd/librbd/image.js';

/*
 * A node's client in a process of its own, so that it can be frozen. Reads one line of JSON, says "open <address>", then
 * writes its letter at offset 0 again and again and prints a line for each: "ok", or "failed <errno>" and ends.
 */
interface Task {
  readonly configurationFile: string;
  readonly user: string;
  readonly key: string;
  readonly pool: string;
  readonly image: string;
  readonly letter: string;
}

const [line] = (await once(createInterface({ input: process.stdin }), 'line')) as [string];
const task = JSON.parse(line) as Task;
const cluster = await Cluster.connect({
  configurationFile: task.configurationFile,
  user: task.user,
  key: task.key,
  // As QEMU has it: after a long freeze its requests are refused, and have not run out of time meanwhile.
  overrides: { ...timeoutOverrides(300), rbd_cache: 'false' },
});
const pool = await cluster.openPool(task.pool);
const image = await RbdImage.open(pool, { name: task.image });
process.stdout.write(`open ${cluster.addresses()[0]}\n`);
for (;;) {
  try {
    await image.write(0n, Buffer.alloc(4096, task.letter));
    process.stdout.write('ok\n');
  } catch (error) {
    process.stdout.write(`failed ${isCephError(error) ? error.errnoName : String(error)}\n`);
    // Its connection is refused by every OSD: closing would wait for them.
    process.kill(process.pid, 'SIGKILL');
  }
}
