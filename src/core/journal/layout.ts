import type { ControllerRecord, OperationKind } from '../model/operation.js';
import type { CoreEvents } from '../ports/metrics.js';
import { type Store, StoreError, type Write } from '../ports/store.js';
import { listAll } from './agents.js';
import { indexes, keys, putLayout } from './documents.js';
import { type LayoutStep, layoutSteps } from './layout-steps.js';

/*
 * VERSIONS SIDE BY SIDE (docs/decisions/0016-layout-in-use.md)
 *
 * What documents look like (documents.ts, the model, the phases of operations) is a layout, and layouts are numbered. The
 * store says which one is in use: what every controller on it must understand. A controller's record says what it
 * understands. What came with a layout is used only once that layout is in use, and a layout comes into use only when every
 * controller that lives understands it; so none meets what it does not know, and none that does not know it can start.
 *
 * Who starts writes the layout's record again, as it was, together with its own record. So a controller that starts and
 * another one that raises the layout write the same document, and one of them has to look again.
 */

/** The layout that this version of Moorage understands and, once all do, uses. */
export const LAYOUT = layoutSteps.length + 1;

/** Kinds of operations by the layout that brought them; the others were there from the first. */
const KINDS_SINCE: Partial<Record<OperationKind, number>> = {
  'volume.update': 2,
  'snapshot.update': 2,
  'pool.delete': 2,
  'admin.repair': 2,
  'node.fence': 2,
  'node.unfence': 2,
};

/** `store/layout`. */
export interface LayoutRecord {
  /** The layout in use. */
  readonly version: number;
  /** The layout that every document has been brought to, where it had to be: less than `version` while that goes on. */
  readonly migrated: number;
}

/** A store from before layouts were recorded, and an empty one. */
const FIRST: LayoutRecord = { version: 1, migrated: 1 };

/** What is asked of the controller's place among the others (Membership). */
interface Live {
  liveCheck(): Write;
  refresh(): Promise<boolean>;
}

/** Knows the layout in use, refuses one that is newer than this version, and raises it. */
export class Layout {
  /** The newest one that this version understands. */
  readonly understood: number;
  private readonly store: Store;
  private readonly events: CoreEvents;
  private readonly steps: readonly LayoutStep[];
  private known: LayoutRecord = FIRST;

  /** @param options.steps from each layout to the next one, from the first */
  constructor(options: { store: Store; events: CoreEvents; steps?: readonly LayoutStep[] }) {
    this.store = options.store;
    this.events = options.events;
    this.steps = options.steps ?? layoutSteps;
    this.understood = this.steps.length + 1;
  }

  /** Whether operations of that kind may be begun: every controller that lives knows them. */
  allows(kind: OperationKind): boolean {
    return (KINDS_SINCE[kind] ?? 1) <= this.known.version;
  }

  /**
   * The write that goes into the commit with which a controller registers.
   * @throws StoreError `newer-version` when this version does not understand the layout in use
   */
  async enter(): Promise<Write> {
    const { record, rev } = await this.read();
    return putLayout(record, rev);
  }

  /**
   * Brings the newest layout into use that all controllers that live understand, and the documents to it. To be called only
   * when those that are dead have been fenced; does nothing when there is nothing to raise.
   * @returns whether nothing is left to be raised
   * @throws StoreError; Error when this controller is no longer live
   */
  async raise(live: Live): Promise<boolean> {
    for (;;) {
      const { record, rev } = await this.read();
      if (record.migrated === this.understood) return true;
      const common = await this.commonLayout();
      if (record.version < common) {
        const next: LayoutRecord = { ...record, version: common };
        if (!(await this.commit([putLayout(next, rev)], live))) continue;
        this.known = next;
        const fields = { from: record.version, to: common };
        this.events.notice({ level: 'info', message: 'a newer layout of the store is in use', fields });
      } else if (record.migrated < record.version) {
        const step = this.steps[record.migrated - 1];
        if (step === undefined) throw new StoreError('corrupt', `There is no layout ${record.migrated} of the store.`);
        await step({ store: this.store, commit: (writes) => this.commit(writes, live) });
        await this.noteMigrated(record.migrated, live);
      } else return record.version === this.understood;
    }
  }

  /** Notes that every document has been brought to the next layout, unless another controller has done so. */
  private async noteMigrated(from: number, live: Live): Promise<void> {
    for (;;) {
      const { record, rev } = await this.read();
      if (record.migrated !== from) return;
      if (await this.commit([putLayout({ ...record, migrated: from + 1 }, rev)], live)) return;
    }
  }

  private async read(): Promise<{ readonly record: LayoutRecord; readonly rev: number | 'absent' }> {
    const document = await this.store.get<LayoutRecord>(keys.layout);
    const record = document?.value ?? FIRST;
    if (record.version > this.understood) {
      throw new StoreError(
        'newer-version',
        `the store is in use by a newer Moorage (layout ${record.version}; this one understands ${this.understood}): run ` +
          'that version, or restore a copy of the store from before the upgrade (docs/operations/upgrade.md); nothing was changed',
      );
    }
    this.known = record;
    return { record, rev: document?.rev ?? 'absent' };
  }

  /** The newest layout that all understand who may still write. */
  private async commonLayout(): Promise<number> {
    const controllers = await listAll<ControllerRecord>(this.store, indexes.controllers);
    const understood = controllers.map(({ value }) => (value.state === 'live' ? (value.layout ?? 1) : this.understood));
    return Math.min(this.understood, ...understood);
  }

  /** @returns false after a conflict */
  private async commit(writes: readonly Write[], live: Live): Promise<boolean> {
    const outcome = await this.store.commit([...writes, live.liveCheck()]);
    if (!outcome.ok && !(await live.refresh())) throw new Error('This controller is no longer live.');
    return outcome.ok;
  }
}
