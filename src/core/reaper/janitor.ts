import { indexes, sortableTime } from '../journal/documents.js';
import type { CoreContext } from '../services/context.js';

/** How many documents a pass removes at most; the next pass goes on. */
const PASS_LIMIT = 2_000;

/** Removes from the store what was kept for a while only: ended operations, tokens of what is gone, grants that expired. */
export async function removeExpired(core: CoreContext): Promise<number> {
  const before = sortableTime(core.clock.now());
  let removed = 0;
  while (removed < PASS_LIMIT) {
    const page = await core.store.list(indexes.expiry, { limit: 100, before });
    if (page.documents.length === 0) return removed;
    for (const document of page.documents) {
      const outcome = await core.store.commit([
        { kind: 'delete', key: document.key, expect: document.rev },
        core.liveCheck(),
      ]);
      if (!outcome.ok && !(await core.refreshMembership())) return removed;
      removed += 1;
    }
  }
  return removed;
}
