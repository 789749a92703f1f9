import { listAll } from '../journal/agents.js';
import { indexes, KEPT_MILLISECONDS } from '../journal/documents.js';
import type { CutOff, Pool } from '../model/resources.js';
import { BackendError } from '../ports/backend.js';
import type { StoredDocument } from '../ports/store.js';
import type { CoreContext } from '../services/context.js';

/*
 * Whom Moorage cut off stays cut off: what the store wants is held against each backend's list, and what is missing there,
 * or has less than half of its time left, is cut off again. Nobody is taken off the backend's list here: that is done under
 * the lock of the node (services/node-fence.ts, and Repair).
 */

/** What is to be done about one of them. */
export type CutOffVerdict = 'renew' | 'forget' | 'left-behind' | 'as-it-should-be';

/**
 * Judges one.
 * @param until until when the backend refuses it, in milliseconds since the epoch; undefined: it does not
 * @param now milliseconds since the epoch
 */
export function judgeCutOff(
  cutOff: CutOff,
  until: number | undefined,
  now: number,
  expirySeconds: number,
): CutOffVerdict {
  const age = now - cutOff.updateTime;
  if (cutOff.lifted) {
    if (until !== undefined) return 'left-behind';
    return age > KEPT_MILLISECONDS ? 'forget' : 'as-it-should-be';
  }
  const lifetime = expirySeconds * 1000;
  if (cutOff.provenDead) return until === undefined && age > lifetime ? 'forget' : 'as-it-should-be';
  return until === undefined || until - now < lifetime / 2 ? 'renew' : 'as-it-should-be';
}

/** One pass over all that are to stay cut off. A backend that does not answer keeps no other from being looked at. */
export async function keepCutOffs(core: CoreContext): Promise<void> {
  const documents = await listAll<CutOff>(core.store, indexes.cutOffs);
  if (documents.length === 0) return;
  const pools = (await listAll<Pool>(core.store, indexes.pools)).map(({ value }) => value);
  for (const cluster of new Set(documents.map(({ value }) => value.cluster))) {
    // The list is the cluster's; any of its pools will do.
    const pool = pools.find(({ settings }) => settings.cluster === cluster);
    if (pool === undefined) continue;
    try {
      const mine = documents.filter(({ value }) => value.cluster === cluster);
      await keepOnCluster(core, pool, mine);
    } catch (error) {
      if (!(error instanceof BackendError)) throw error;
      const message = 'whether everybody is still cut off could not be looked up; the next pass does';
      core.events.notice({ level: 'warn', message, fields: { cluster }, error });
    }
  }
}

async function keepOnCluster(
  core: CoreContext,
  pool: Pool,
  documents: readonly StoredDocument<CutOff>[],
): Promise<void> {
  const { fence } = core.backend();
  const { cutOffExpirySeconds: expirySeconds, stepTimeoutMilliseconds: timeoutMilliseconds } = core.settings;
  const context = (name: string) => ({ operationId: '', name, timeoutMilliseconds });
  const listed = await fence.listCutOff(pool, context('list-cut-off'));
  const now = core.clock.now();
  const judged = documents.map((document) => ({
    document,
    verdict: judgeCutOff(document.value, listed.get(document.value.address), now, expirySeconds),
  }));
  const renewed = judged.filter(({ verdict }) => verdict === 'renew').map(({ document }) => document.value.address);
  if (renewed.length > 0) await fence.cutOff(pool, { addresses: renewed, expirySeconds }, context('renew-cut-off'));
  const missing = renewed.filter((address) => !listed.has(address));
  if (missing.length > 0) {
    core.events.notice({
      level: 'warn',
      message: 'clients that are to stay cut off were not on the list of the storage, and are again',
      fields: { cluster: pool.settings.cluster, addresses: missing.join(' ') },
    });
  }
  for (const { document, verdict } of judged) {
    if (verdict !== 'forget') continue;
    const outcome = await core.store.commit([
      { kind: 'delete', key: document.key, expect: document.rev },
      core.liveCheck(),
    ]);
    if (!outcome.ok && !(await core.refreshMembership())) return;
  }
}
