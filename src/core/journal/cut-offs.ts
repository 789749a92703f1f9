import type { CutOff } from '../model/resources.js';
import type { Clock } from '../ports/clock.js';
import type { Store, Write } from '../ports/store.js';
import { putCutOff } from './documents.js';

/*
 * WHO IS TO STAY CUT OFF
 *
 * The backend's list of clients that are cut off forgets: an entry expires, and somebody may clear it. A client that was
 * frozen meanwhile writes again when it wakes, with the session that it had. So whom Moorage cuts off is desired state: it is
 * committed here before the backend is told, held against the backend's list all the time and renewed (reaper/cut-offs.ts),
 * and goes only when the client is known to be dead.
 */

/** Why somebody is cut off. */
export type CutOffCause = Pick<CutOff, 'reason' | 'subjectId' | 'nodeId' | 'provenDead'>;

/** The writes that record clients, or whole hosts, that are about to be cut off. */
export function cutOffWrites(
  clock: Clock,
  cluster: string,
  addresses: readonly string[],
  cause: CutOffCause,
): readonly Write[] {
  const now = clock.now();
  return addresses.map((address) =>
    putCutOff({ ...cause, cluster, address, lifted: false, createTime: now, updateTime: now }, 'any'),
  );
}

/**
 * Records them in a commit of its own.
 * @param live the write that every commit carries, made anew for each try
 * @param refresh what to call when a commit met a conflict; false: this controller is no longer live
 */
export async function recordCutOffs(
  store: Store,
  writes: readonly Write[],
  live: () => Write,
  refresh: () => Promise<boolean>,
): Promise<void> {
  if (writes.length === 0) return;
  for (;;) {
    const outcome = await store.commit([...writes, live()]);
    if (outcome.ok) return;
    if (!(await refresh())) throw new Error('This controller is no longer live.');
  }
}
