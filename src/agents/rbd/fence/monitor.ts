import type { Cluster } from '../librbd/cluster.js';
import { CephError } from '../librbd/errors.js';

const EBADMSG = 74;

/** Sends a command to the monitors and reads its JSON answer. @throws CephError; EBADMSG when it is no JSON */
export async function monitorJson<Answer>(
  cluster: Cluster,
  command: Readonly<Record<string, unknown>>,
  monitor?: string,
): Promise<Answer> {
  const { output } = await cluster.monCommand({ ...command, format: 'json' }, monitor);
  try {
    return JSON.parse(output.toString('utf8')) as Answer;
  } catch {
    // Without its cause: that quotes the answer, and the answer may be a key.
    throw new CephError('rados_mon_command', EBADMSG, `"${String(command.prefix)}", whose answer is no JSON`);
  }
}

/** Runs work on each, at most so many at once; goes on past failures and throws the first of them at the end. */
export async function forEachBounded<Item>(
  items: readonly Item[],
  atOnce: number,
  work: (item: Item) => Promise<void>,
): Promise<void> {
  const failures: unknown[] = [];
  const queue = [...items];
  const worker = async (): Promise<void> => {
    for (let item = queue.shift(); item !== undefined; item = queue.shift()) {
      await work(item).catch((error: unknown) => failures.push(error));
    }
  };
  await Promise.all(Array.from({ length: Math.min(atOnce, items.length) }, worker));
  if (failures.length === 1) throw failures[0];
  if (failures.length > 1) throw new AggregateError(failures, `${failures.length} of ${items.length} failed`);
}
