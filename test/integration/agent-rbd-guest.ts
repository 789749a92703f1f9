import { Cluster, timeoutOverrides } from '../../src/agents/rbd/librbd/cluster.js';
import { RbdImage } from '../../src/agents/rbd/librbd/image.js';

/*
 * Stands for QEMU on a node: a client of its own, with the narrow rights of an export, that keeps writing. Its parent hands
 * it one JSON object on standard input: {configuration, user, key, pool, image}. It prints one line per state:
 * {"ready": address}, then, once asked with a line "stop", {"writes", "errors", "longestPauseMilliseconds"}.
 */

const input = process.stdin.setEncoding('utf8')[Symbol.asyncIterator]() as AsyncIterator<string>;
const settings = JSON.parse((await input.next()).value as string) as Readonly<Record<string, string>>;
const { configuration = '', user = '', key = '', pool: poolName = '', image: name = '' } = settings;

const cluster = await Cluster.connect({
  configurationFile: configuration,
  user,
  key,
  overrides: { ...timeoutOverrides(60), rbd_cache: 'false' },
});
const pool = await cluster.openPool(poolName);
const image = await RbdImage.open(pool, { name });
const block = Buffer.alloc(4096);
let [stopped, writes, longest] = [false, 0, 0];
const errors: string[] = [];
void input.next().then(() => {
  stopped = true;
});
for (let last = performance.now(); !stopped; ) {
  block.writeUInt32LE(writes, 0);
  try {
    await image.write(BigInt(writes % 64) * 4096n, block);
  } catch (error) {
    errors.push(error instanceof Error ? error.message : String(error));
  }
  if (writes === 0) process.stdout.write(`${JSON.stringify({ ready: cluster.addresses()[0] })}\n`);
  writes += 1;
  longest = Math.max(longest, performance.now() - last);
  last = performance.now();
  await new Promise((resolve) => setTimeout(resolve, 5));
}
await image.close();
pool.close();
await cluster.close();
process.stdout.write(`${JSON.stringify({ writes, errors, longestPauseMilliseconds: Math.round(longest) })}\n`);
process.exit(0);
