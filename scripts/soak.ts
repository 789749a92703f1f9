/**
 * Two controllers on one Redis and one Ceph, sixteen clients, and every few seconds something that is killed, frozen or cut
 * off; then a checker that shares no code with the controller says whether everything that the clients were told is so.
 *
 *   node --import tsx scripts/soak.ts [--seconds 600] [--seed NUMBER] [--keep]
 *
 * Ends with 0 only without a violation. --keep: histories and logs stay, and their folder is named.
 */
import { spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { PrivateNetwork } from '../test/helpers/private-network.js';

const { values: flags } = parseArgs({
  options: {
    seconds: { type: 'string', default: '600' },
    seed: { type: 'string', default: String(randomInt(2 ** 31)) },
    keep: { type: 'boolean', default: false },
  },
});
for (const name of ['seconds', 'seed'] as const) {
  if (!/^[0-9]{1,10}$/.test(flags[name])) throw new Error(`--${name} must be a whole number; it is ${flags[name]}`);
}
console.log(`soak: ${flags.seconds} s, seed ${flags.seed}`);

const network = await PrivateNetwork.make('soak', 2);
const program = fileURLToPath(new URL('soak/run.ts', import.meta.url));
const child = spawn(
  'ip',
  [
    ...['netns', 'exec', network.hub.namespace, process.execPath, '--import', 'tsx', program],
    ...['--seconds', flags.seconds, '--seed', flags.seed, ...(flags.keep ? ['--keep'] : [])],
  ],
  { stdio: 'inherit' },
);
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => child.kill(signal));
const code = await new Promise<number | null>((resolve) => child.once('close', (result) => resolve(result)));
await network.remove();
process.exitCode = code ?? 1;
