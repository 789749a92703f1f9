import type { Operation } from '../../model/operation.js';
import type { StoredDocument, Write } from '../../ports/store.js';
import type { RepairPlan } from './repair-operation.js';

/** What differs; the API's FindingClass says each in words. */
export type FindingClass =
  | 'pool-not-checked'
  | 'image-missing'
  | 'image-trashed'
  | 'image-not-trashed'
  | 'image-renamed'
  | 'image-size'
  | 'image-header'
  | 'child-unlisted'
  | 'child-stale'
  | 'point-unknown'
  | 'point-left'
  | 'base-missing'
  | 'parent-unknown'
  | 'entry-missing'
  | 'entry-differs'
  | 'entry-forged'
  | 'entry-stale'
  | 'not-in-store'
  | 'image-orphaned'
  | 'image-unknown'
  | 'export-not-in-store'
  | 'export-ended'
  | 'access-missing'
  | 'access-differs'
  | 'access-orphaned'
  | 'export-list'
  | 'operation-abandoned'
  | 'lock-stale'
  | 'state-stale'
  | 'cut-off-missing'
  | 'cut-off-left';

/** Whether Repair mends it: by itself, only when it is asked for by its class, or not at all. */
export type Remedy = 'automatic' | 'on-request' | 'none';

/** One difference, as callers see it. */
export interface Finding {
  readonly class: FindingClass;
  readonly poolId: string;
  /** Volume, snapshot, export or operation; empty where nothing of ours is concerned. */
  readonly resourceId: string;
  readonly imageName: string;
  readonly imageBackendId: string;
  readonly description: string;
  readonly remedy: Remedy;
  readonly remedyDescription: string;
}

/**
 * How a difference is mended. `commit`: one commit of writes that hold on to every revision on which the judgement rests
 * (undefined: it is not so any more). `operation`: a journaled one, because the backend is to be changed too.
 * `adopt-operation`: the controller that mends goes on with an operation.
 */
export type Mend =
  | { readonly kind: 'commit'; readonly writes: () => Promise<readonly Write[] | undefined> }
  | { readonly kind: 'operation'; readonly plan: RepairPlan }
  | {
      readonly kind: 'adopt-operation';
      readonly operation: StoredDocument<Operation>;
      /** @param inc of the controller that takes it over */
      readonly writes: (inc: string) => Promise<readonly Write[]>;
    };

/** A difference with the way to mend it. */
export interface Difference {
  readonly finding: Finding;
  /** Unset with the remedy "none". */
  readonly mend?: Mend;
}

/** What is said of a difference. */
export interface Said {
  readonly class: FindingClass;
  readonly says: string;
  /** How it is mended, or why it is not. */
  readonly remedy: string;
  readonly image?: { readonly name: string; readonly backendId: string };
}

/** Builds differences of one thing in one pool. */
export class Report {
  readonly differences: Difference[] = [];
  readonly #poolId: string;
  readonly #resourceId: string;

  constructor(poolId: string, resourceId: string) {
    this.#poolId = poolId;
    this.#resourceId = resourceId;
  }

  /** Repair mends it. */
  automatic(said: Said, mend: Mend): void {
    this.differences.push({ finding: this.#finding(said, 'automatic'), mend });
  }

  /** Repair mends it when its class is named. */
  onRequest(said: Said, mend: Mend): void {
    this.differences.push({ finding: this.#finding(said, 'on-request'), mend });
  }

  /** Repair leaves it alone. */
  none(said: Said): void {
    this.differences.push({ finding: this.#finding(said, 'none') });
  }

  #finding({ class: what, says, remedy, image }: Said, kind: Remedy): Finding {
    return {
      class: what,
      poolId: this.#poolId,
      resourceId: this.#resourceId,
      imageName: image?.name ?? '',
      imageBackendId: image?.backendId ?? '',
      description: says,
      remedy: kind,
      remedyDescription: remedy,
    };
  }
}
