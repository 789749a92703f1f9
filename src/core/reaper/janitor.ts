import { indexes, sortableTime } from '../journal/documents.js';
import type { Write } from '../ports/store.js';
import type { CoreContext } from '../services/context.js';
import { raiseHorizon } from './feed-horizon.js';

/** How many documents a pass removes at most; the next pass goes on. */
const PASS_LIMIT = 2_000;

/** Removes from the store what was kept for a while only: ended operations, tokens of what is gone, grants that expired. */
export async function removeExpired(core: CoreContext): Promise<number> {
  const before = sortableTime(core.clock.now());
  let removed = 0;
  while (removed < PASS_LIMIT) {
    const page = await core.store.list(indexes.expiry, { limit: 100, before });
    if (page.documents.length === 0) return removed;
    // Of all that goes here only operations are watched.
    const watched = page.documents.filter(({ key }) => key.startsWith('op/'));
    if (watched.length > 0 && !(await raiseHorizon(core, watched))) return removed;
    for (const document of page.documents) {
      const outcome = await core.store.commit([
        { kind: 'delete', key: document.key, expect: document.rev },
        ...(await tokensOf(core, document.key)),
        core.liveCheck(),
      ]);
      if (!outcome.ok && !(await core.refreshMembership())) return removed;
      removed += 1;
    }
  }
  return removed;
}

/** A grant takes the token that made it along; whatever else goes here has none, or they go by themselves. */
async function tokensOf(core: CoreContext, key: string): Promise<readonly Write[]> {
  if (!key.startsWith('grant/')) return [];
  const page = await core.store.list(indexes.tokensOf(key.slice('grant/'.length)), { limit: 100 });
  return page.documents.map(({ key: token, rev }) => ({ kind: 'delete', key: token, expect: rev }));
}
