import { forgetGone, indexes, keys, putFeed, sortableTime } from '../journal/documents.js';
import type { FeedRecord, Tombstone } from '../model/resources.js';
import type { StoredDocument } from '../ports/store.js';
import type { CoreContext } from '../services/context.js';

/** How many a pass forgets at most; the next pass goes on. */
const PASS_LIMIT = 2_000;

/**
 * To be called before documents are taken out of the changes: whoever watches and stands before them must begin anew.
 * @returns false when this controller is no longer live
 */
export async function raiseHorizon(core: CoreContext, documents: readonly StoredDocument[]): Promise<boolean> {
  const horizon = Math.max(0, ...documents.map(({ rev }) => rev));
  for (;;) {
    const known = await core.store.get<FeedRecord>(keys.feed);
    // Without a record nobody ever watched.
    if (known === undefined || known.value.horizon >= horizon) return true;
    const outcome = await core.store.commit([putFeed({ ...known.value, horizon }, known.rev), core.liveCheck()]);
    if (outcome.ok) return true;
    if (!(await core.refreshMembership())) return false;
  }
}

/** Takes what is left of what is gone out of the changes, when it has been there for as long as it is to be. */
export async function forgetLongGone(core: CoreContext): Promise<number> {
  const before = sortableTime(core.clock.now() - core.settings.eventRetentionMilliseconds);
  let forgotten = 0;
  while (forgotten < PASS_LIMIT) {
    const { documents } = await core.store.list<Tombstone>(indexes.gone, { limit: 100, before });
    if (documents.length === 0 || !(await raiseHorizon(core, documents))) return forgotten;
    for (const { key, rev, value } of documents) {
      const outcome = await core.store.commit([forgetGone(key, value, rev), core.liveCheck()]);
      if (!outcome.ok && !(await core.refreshMembership())) return forgotten;
      forgotten += 1;
    }
  }
  return forgotten;
}
