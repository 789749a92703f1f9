import { MoorageError } from '../../errors.js';
import { keys } from '../../journal/documents.js';
import type { Journal } from '../../journal/journal.js';
import type { Operation } from '../../model/operation.js';
import { BackendError } from '../../ports/backend.js';
import { StoreError } from '../../ports/store.js';
import { type CoreContext, settle } from '../context.js';
import type { Caller, Repaired } from '../types.js';
import type { Difference, FindingClass, Mend } from './findings.js';
import { beginRepair } from './repair-operation.js';

/** Mends differences. */
export class Mender {
  readonly #core: CoreContext;
  readonly #journal: Journal;
  readonly #caller: Caller;
  readonly #classes: ReadonlySet<FindingClass>;
  readonly #validateOnly: boolean;
  readonly #inc: string;

  constructor(
    core: CoreContext,
    journal: Journal,
    options: {
      readonly caller: Caller;
      /** Those asked for; empty: all that are mended by themselves. */
      readonly classes: readonly FindingClass[];
      readonly validateOnly: boolean;
      /** Of this controller. */
      readonly inc: string;
    },
  ) {
    this.#core = core;
    this.#journal = journal;
    this.#caller = options.caller;
    this.#classes = new Set(options.classes);
    this.#validateOnly = options.validateOnly;
    this.#inc = options.inc;
  }

  /**
   * Mends what differs of one thing, one after the other; what is left is looked at again after each, because it may have
   * gone with it, and because the thing has changed.
   */
  async mendAll(
    differences: readonly Difference[],
    again: () => Promise<readonly Difference[]>,
  ): Promise<readonly Repaired[]> {
    const outcomes: Repaired[] = [];
    const tried = new Set<string>();
    for (let left = differences; ; ) {
      const next = left.find((difference) => !tried.has(essence(difference)));
      if (next === undefined) return outcomes;
      tried.add(essence(next));
      if (this.#classes.size > 0 && !this.#classes.has(next.finding.class)) continue;
      const outcome = await this.#mend(next);
      outcomes.push(outcome);
      if (outcome.outcome === 'mended' && left.some((difference) => !tried.has(essence(difference)))) {
        left = await again();
      }
    }
  }

  async #mend({ finding, mend }: Difference): Promise<Repaired> {
    const asked = finding.remedy === 'automatic' || this.#classes.has(finding.class);
    if (mend === undefined || finding.remedy === 'none' || !asked) return { finding, outcome: 'left', message: '' };
    if (this.#validateOnly) return { finding, outcome: 'would-mend', message: '' };
    try {
      const message = await this.#carryOut(finding.resourceId, finding.poolId, mend);
      return { finding, outcome: message === '' ? 'mended' : 'failed', message };
    } catch (error) {
      // One that cannot be mended keeps no other from it.
      const told = error instanceof MoorageError || error instanceof BackendError || error instanceof StoreError;
      if (!told) throw error;
      return { finding, outcome: 'failed', message: error.message };
    }
  }

  /** Why it could not be done; empty when it was. */
  async #carryOut(resourceId: string, poolId: string, mend: Mend): Promise<string> {
    const { store } = this.#core;
    if (mend.kind === 'operation') {
      const { name } = this.#caller;
      const recorded = await beginRepair(this.#journal, { resourceId, poolId, principal: name }, mend.plan);
      await settle(this.#journal, this.#core.clock, recorded, this.#caller);
      const operation = await store.get<Operation>(keys.operation(recorded.operationId));
      return operation?.value.state === 'running' ? `${recorded.operationId} goes on and is not done yet.` : '';
    }
    const writes = await (mend.kind === 'commit' ? mend.writes() : mend.writes(this.#inc));
    if (writes === undefined) return 'Something still uses it, or it is no longer so. Check again.';
    const outcome = await store.commit([...writes, this.#core.liveCheck()]);
    if (!outcome.ok) {
      await this.#core.refreshMembership();
      return 'It changed meanwhile. Check again.';
    }
    if (mend.kind === 'adopt-operation') {
      const { key, value } = mend.operation;
      this.#journal.resume([{ key, rev: outcome.rev, value: { ...value, owner: this.#inc } }]);
    }
    return '';
  }
}

function essence({ finding }: Difference): string {
  return JSON.stringify([finding.class, finding.resourceId, finding.imageBackendId, finding.description]);
}
