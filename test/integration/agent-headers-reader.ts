import { once } from 'node:events';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { Cluster, timeoutOverrides } from '../../src/agents/rbd/librbd/cluster.js';
import { enterEmptyRoot } from '../../src/agents/rbd/librbd/empty-root.js';
import { isCephError } from '../../src/agents/rbd/librbd/errors.js';
import { RbdImage } from '../../src/agents/rbd/librbd/image.js';

/*
 * Opens an image with the controller's rights, as nothing of the controller does without a look at its header first, and
 * prints what it reads, or why it could not. In its own root or in an empty one.
 */
interface Task {
  readonly configurationFile: string;
  readonly user: string;
  readonly keyringFile: string;
  readonly pool: string;
  readonly imageId: string;
  readonly emptyRoot: boolean;
}

const [line] = (await once(createInterface({ input: process.stdin }), 'line')) as [string];
const task = JSON.parse(line) as Task;
const { configurationFile, user, keyringFile } = task;
const cluster = await Cluster.connect({ configurationFile, user, keyringFile, overrides: timeoutOverrides(30) });
if (task.emptyRoot && !enterEmptyRoot(mkdtempSync(join(tmpdir(), 'moorage-root-')))) {
  throw new Error('the root cannot be left');
}
let outcome: string;
try {
  const pool = await cluster.openPool(task.pool);
  const image = await RbdImage.open(pool, { id: task.imageId }, { readOnly: true });
  outcome = (await image.read(0n, 64)).toString('latin1').replaceAll('\0', '');
} catch (error) {
  outcome = isCephError(error) ? error.errnoName : String(error);
}
process.stdout.write(JSON.stringify({ outcome }), () => process.kill(process.pid, 'SIGKILL'));
