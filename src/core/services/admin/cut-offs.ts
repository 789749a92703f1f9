import { listAll } from '../../journal/agents.js';
import type { Next, PhaseContext } from '../../journal/definition.js';
import { indexes, keys } from '../../journal/documents.js';
import type { CutOff, Pool } from '../../model/resources.js';
import { judgeCutOff } from '../../reaper/cut-offs.js';
import type { CoreContext } from '../context.js';
import { Report } from './findings.js';
import { type Batch, type Look, type Progress, settle } from './looking.js';
import { done } from './repair-exports.js';
import type { RepairPlan } from './repair-operation.js';
import type { Examined } from './resources.js';
import type { Survey } from './survey.js';

/*
 * Who is to be cut off by the store, held against the backend's list. Entries there that the store does not know of are
 * somebody else's: Ceph puts clients there by itself.
 */

/** Looks at a cluster's cut-offs, with the first of its pools. */
export async function examineCutOffs(survey: Survey, progress: Progress): Promise<Batch> {
  const { core, pool } = survey;
  const { cluster } = pool.settings;
  const pools = (await listAll<Pool>(core.store, indexes.pools)).map(({ value }) => value);
  const isFirst = pools.find(({ settings }) => settings.cluster === cluster)?.id === pool.id;
  const look: Look = async () => {
    const results = new Map<string, Examined>();
    const documents = (await listAll<CutOff>(core.store, indexes.cutOffs)).filter(
      ({ value }) => value.cluster === cluster,
    );
    if (!isFirst || documents.length === 0) return results;
    const listed = await core.backend().fence.listCutOff(pool, survey.context('list-cut-off'));
    for (const { value } of documents) {
      const lockId = value.nodeId === '' ? value.subjectId : value.nodeId;
      const { differences } = examineOne(survey, value, lockId, listed.get(value.address));
      const locks = await survey.locks(lockId);
      results.set(value.address, { differences, busy: locks.running });
    }
    return results;
  };
  const batch = await settle(core, look, [], progress, undefined);
  progress.resources += batch.found.size;
  return batch;
}

function examineOne(survey: Survey, cutOff: CutOff, lockId: string, until: number | undefined): Report {
  const { clock, settings } = survey.core;
  const { address, reason, subjectId } = cutOff;
  const report = new Report(survey.pool.id, lockId);
  const plan = { action: 'keep-cut-off', address } as const;
  const verdict = judgeCutOff(cutOff, until, clock.now(), settings.cutOffExpirySeconds);
  if (verdict === 'renew' && until === undefined) {
    report.automatic(
      {
        class: 'cut-off-missing',
        says: `${address}, which was cut off for ${reason} ${subjectId}, is not cut off on the storage.`,
        remedy: 'It is cut off again. If it was frozen and has gone on since, it may have written meanwhile.',
      },
      { kind: 'operation', plan },
    );
  }
  if (verdict === 'left-behind') {
    report.automatic(
      {
        class: 'cut-off-left',
        says: `${address} is cut off on the storage, which was taken back.`,
        remedy: 'It is let in again.',
      },
      { kind: 'operation', plan },
    );
  }
  return report;
}

/** See RepairPlan. Under the lock of the node, so that no fencing of it is under way. */
export async function keepCutOff(
  core: CoreContext,
  context: PhaseContext<RepairPlan>,
  pool: Pool,
  address: string,
): Promise<Next<RepairPlan>> {
  const { fence } = core.backend();
  const document = await core.store.get<CutOff>(keys.cutOff(pool.settings.cluster, address));
  if (document === undefined) return done();
  const listed = await context.step('list-cut-off', (step) => fence.listCutOff(pool, step));
  const { cutOffExpirySeconds: expirySeconds } = core.settings;
  const verdict = judgeCutOff(document.value, listed.get(address), core.clock.now(), expirySeconds);
  if (verdict === 'left-behind') {
    await context.step('lift-cut-off', (step) => fence.liftCutOff(pool, [address], step));
  }
  if (verdict === 'renew') {
    await context.step('cut-off', (step) => fence.cutOff(pool, { addresses: [address], expirySeconds }, step));
  }
  return done();
}
