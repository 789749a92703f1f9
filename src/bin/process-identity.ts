import { readFile, readlink } from 'node:fs/promises';
import type { ProcessIdentity } from '../core/ports/process.js';

/**
 * Names this process so that another controller can tell whether it still runs: the machine's boot, the namespace of its
 * process id, the process id, and when it started (proc(5): boot_id, ns/pid, field 22 of stat).
 */
export async function processIdentity(): Promise<ProcessIdentity> {
  const place = `${(await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim()} ${await readlink('/proc/self/ns/pid')}`;
  const startTime = await startTimeOf(process.pid);
  if (startTime === undefined) throw new Error('This process is not in /proc.');
  return {
    own: `${place} ${process.pid} ${startTime}`,
    hasEnded: async (identity) => {
      const [boot, namespace, processId = '', started] = identity.split(' ');
      if (`${boot} ${namespace}` !== place || !/^[0-9]+$/.test(processId)) return false;
      return (await startTimeOf(Number(processId))) !== started;
    },
  };
}

/** Undefined for a process that has ended, reaped by its parent or not. */
async function startTimeOf(processId: number): Promise<string | undefined> {
  let stat: string;
  try {
    stat = await readFile(`/proc/${processId}/stat`, 'utf8');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ESRCH') return undefined;
    throw error;
  }
  // The name in parentheses may hold blanks; the fields after it are counted from the third.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return fields[0] === 'Z' || fields[0] === 'X' ? undefined : fields[19];
}
