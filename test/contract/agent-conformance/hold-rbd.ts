import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { Cluster, timeoutOverrides } from '../../../src/agents/rbd/librbd/cluster.js';
import { RbdImage } from '../../../src/agents/rbd/librbd/image.js';
import type { HoldTask } from './holder.js';

/*
 * Holds an RBD image open as a node would, with the key that the task brings. Argument: the path of ceph.conf, then the pool.
 */
const [configurationFile = '', poolName = ''] = process.argv.slice(2);
const lines = createInterface({ input: process.stdin });
const [line] = (await once(lines, 'line')) as [string];
const closed = once(lines, 'close');
const { image: name, access } = JSON.parse(line) as HoldTask & { access: { user: string; key: string } };
const cluster = await Cluster.connect({
  configurationFile,
  user: access.user,
  key: access.key,
  overrides: { ...timeoutOverrides(30), rbd_cache: 'false' },
});
const pool = await cluster.openPool(poolName);
const image = await RbdImage.open(pool, { name });
// The first write takes the lock.
await image.write(0n, Buffer.alloc(4096, 'h'));
process.stdout.write('open\n');
await closed;
await image.close();
pool.close();
await cluster.close();
