import { listAll } from '../journal/agents.js';
import {
  expireDependents,
  indexes,
  KEPT_MILLISECONDS,
  keys,
  putSnapshot,
  putTombstone,
  putVolume,
  sortableTime,
} from '../journal/documents.js';
import { lockKeys } from '../journal/locks.js';
import type { ImageParent, ImageRecord } from '../model/image.js';
import type { LockRecord } from '../model/operation.js';
import type { Debris, PointInTime, Pool, Snapshot, Tombstone, Volume } from '../model/resources.js';
import { BackendError, type StepContext } from '../ports/backend.js';
import type { StoredDocument, Write } from '../ports/store.js';
import { type CoreContext, getPool } from '../services/context.js';
import { requireImage } from '../services/identity.js';
import { snapshotTo, volumeTo } from '../transitions.js';
import { leavePointOf, removeLeftPoint } from './left-points.js';

/*
 * THE REAPER
 *
 * It destroys what was deleted, once nobody can want it back. It is the only thing in Moorage that destroys, so what it may
 * touch is narrow:
 *
 * - only what the store records as ours; foreign images are never looked at;
 * - only what is `deleted`, its window over, with no lock of an operation, no export that pins it (QEMU goes on reading the
 *   parents that it opened), no child (a trashed one counts too), and nobody who watches it;
 * - `purging` is committed by compare-and-set before anything is destroyed: it wins or loses against an undelete, and from
 *   then on an undelete is refused, even though the backend might still say yes;
 * - what is destroyed is what our own record names, never what the backend's header says.
 *
 * Leaves go first: a pass over everything is repeated until it makes no progress. One image that fails never ends a pass.
 * Every part of a purge may be done again, so a crash anywhere leaves only a `purging` that the next pass finishes.
 */

type Reapable = Volume | Snapshot;

/** What one round, or a whole pass, came to. */
export interface ReaperResult {
  readonly purged: number;
  readonly failed: number;
  readonly waiting: number;
}

/** Destroys what nobody needs any more. */
export class Reaper {
  private readonly core: CoreContext;
  private readonly mayStep: () => boolean;
  private readonly signal: AbortSignal;

  constructor(core: CoreContext, membership: { mayStep(): boolean; readonly signal: AbortSignal }) {
    this.core = core;
    this.mayStep = () => membership.mayStep();
    this.signal = membership.signal;
  }

  /** One pass: rounds, leaf first, until one makes no progress. */
  async pass(): Promise<ReaperResult> {
    let purged = 0;
    for (;;) {
      const round = await this.round();
      purged += round.purged;
      if (round.purged === 0 || this.signal.aborted) return { ...round, purged };
    }
  }

  private async round(): Promise<ReaperResult> {
    const points = await listAll<PointInTime>(this.core.store, indexes.points);
    const left = points.filter((document) => document.value.operationIds.length === 0);
    // Before the volumes that they are on, whose records change with it, are looked at.
    const first = await this.workThrough(left.map((document) => () => this.removeLeft(document)));
    const debris = await listAll<Debris>(this.core.store, indexes.debris);
    const before = sortableTime(this.core.clock.now() + 1);
    const candidates = await listAll<Reapable>(this.core.store, indexes.reap, before);
    const second = await this.workThrough([
      ...debris.map((document) => () => this.clearDebris(document)),
      ...candidates.map((document) => () => this.reap(document)),
    ]);
    return { ...second, failed: first.failed + second.failed };
  }

  private async workThrough(work: readonly (() => Promise<boolean>)[]): Promise<ReaperResult> {
    let purged = 0;
    let failed = 0;
    let waiting = 0;
    const next = work[Symbol.iterator]();
    const worker = async (): Promise<void> => {
      for (const task of next) {
        if (this.signal.aborted || !this.mayStep()) return;
        try {
          if (await task()) purged += 1;
          else waiting += 1;
        } catch (error) {
          failed += 1;
          this.core.events.notice({
            level: 'warn',
            message: 'the reaper could not purge an image; it will come again',
            fields: {},
            error,
          });
        }
      }
    };
    await Promise.all(Array.from({ length: this.core.settings.reaperConcurrency }, worker));
    return { purged, failed, waiting };
  }

  /** Whether it was purged. */
  private async reap(document: StoredDocument<Reapable>): Promise<boolean> {
    let current = document;
    if (current.value.state === 'deleted') {
      const purging = await this.beginPurge(current);
      if (purging === undefined) return false;
      current = purging;
    }
    const resource = current.value;
    if (resource.state !== 'purging') return false;
    const pool = (await getPool(this.core.store, resource.poolId)).value;
    const image = requireImage(resource);
    try {
      await this.core
        .backend()
        .data.purgeImage(pool, { image, catalogueKey: resource.id }, this.context('purge-image', resource.id));
    } catch (error) {
      // Somebody came in between, or a half-made child is still being cleared: what is purging stays so, and comes again.
      if (error instanceof BackendError && error.code === 'FAILED_PRECONDITION') return false;
      throw error;
    }
    await this.finishPurge(current);
    return true;
  }

  /** Commits `purging` when nothing speaks against it. */
  private async beginPurge(document: StoredDocument<Reapable>): Promise<StoredDocument<Reapable> | undefined> {
    const resource = document.value;
    if (await this.isNeeded(resource.id)) return undefined;
    const pool = (await getPool(this.core.store, resource.poolId)).value;
    const image = requireImage(resource);
    const holders = await this.core.backend().data.getUsage(pool, image, this.context('get-usage', resource.id));
    if (holders.length > 0 || !(await this.isInTrash(pool, resource.id, image))) return undefined;
    const value = { ...to(resource, 'purging'), updateTime: this.core.clock.now() };
    const outcome = await this.core.store.commit([
      put(value, document.rev),
      // An operation that begins meanwhile writes the lock or the document: one of the two commits loses.
      ...lockKeys(resource.id).map((key) => ({ kind: 'check' as const, key, expect: 'absent' as const })),
      this.core.liveCheck(),
    ]);
    if (outcome.ok) return { key: document.key, rev: outcome.rev, value };
    await this.core.refreshMembership();
    return undefined;
  }

  /**
   * Whether the image lies in the trash, and the backend itself would let it go. A store that is older than the storage may
   * take for deleted what was undeleted since.
   */
  private async isInTrash(pool: Pool, id: string, image: ImageRecord): Promise<boolean> {
    const query = { name: image.name, backendId: image.backendId };
    const [facts] = await this.core.backend().data.inspectImages(pool, [query], this.context('inspect-images', id));
    if (facts === undefined || facts.backendId === '') return true;
    return facts.listedName === '' && facts.keptUntil <= this.core.clock.now();
  }

  private async isNeeded(id: string): Promise<boolean> {
    const locks = await this.core.store.getMany<LockRecord>(lockKeys(id));
    if (locks.some((lock) => lock !== undefined)) return true;
    for (const index of [indexes.childrenOf(id), indexes.pinsOf(id)]) {
      const page = await this.core.store.list(index, { limit: 1 });
      if (page.documents.length > 0) return true;
    }
    return false;
  }

  private async finishPurge(document: StoredDocument<Reapable>): Promise<void> {
    const resource = document.value;
    to(resource, 'gone');
    const now = this.core.clock.now();
    const tombstone: Tombstone = { id: resource.id, state: 'gone', goneTime: now, poolId: resource.poolId };
    const outcome = await this.core.store.commit([
      putTombstone(document.key, tombstone, document.rev),
      ...(await expireDependents(this.core.store, resource.id, now + KEPT_MILLISECONDS)),
      ...(await this.leavePoint(resource.poolId, document.key, resource.image?.parent)),
      this.core.liveCheck(),
    ]);
    // On a conflict (another clone of the same point ends at the same time) the next pass does it again.
    if (!outcome.ok) await this.core.refreshMembership();
  }

  /** The parent's point goes with its last clone. */
  private async leavePoint(poolId: string, ownKey: string, parent?: ImageParent): Promise<readonly Write[]> {
    if (parent === undefined || parent.resourceId.startsWith('snap-')) return [];
    const siblings = await listAll<Reapable | Debris>(this.core.store, indexes.childrenOf(parent.resourceId));
    const other = siblings.find(
      ({ key, value }) => key !== ownKey && value.image?.parent?.point.backendId === parent.point.backendId,
    );
    // Two that go at once must not each leave the point to the other.
    if (other !== undefined) return [{ kind: 'check', key: other.key, expect: other.rev }];
    return leavePointOf(this.core, poolId, parent);
  }

  private removeLeft(document: StoredDocument<PointInTime>): Promise<boolean> {
    return removeLeftPoint(this.core, document, (name) => this.context(name, document.value.id));
  }

  private async clearDebris(document: StoredDocument<Debris>): Promise<boolean> {
    const { image, poolId } = document.value;
    const pool: Pool = (await getPool(this.core.store, poolId)).value;
    const owner = image.name.split('.')[0] ?? image.name;
    if (await this.isImageOf(owner, image)) {
      // Whoever put it here was wrong. Nothing that a record calls its image is destroyed, but by that record's own purge.
      this.core.events.notice({
        level: 'error',
        message: 'an image that is in use was to be destroyed as left over; it is kept',
        fields: { image: image.name, reason: document.value.reason },
      });
      await this.core.store.commit([
        { kind: 'delete', key: document.key, expect: document.rev },
        this.core.liveCheck(),
      ]);
      return false;
    }
    const catalogueKey = (await this.isGone(owner)) ? owner : '';
    await this.core.backend().data.purgeImage(pool, { image, catalogueKey }, this.context('purge-debris', image.name));
    const outcome = await this.core.store.commit([
      { kind: 'delete', key: document.key, expect: document.rev },
      ...(await this.leavePoint(poolId, document.key, image.parent)),
      this.core.liveCheck(),
    ]);
    return outcome.ok;
  }

  private async isImageOf(id: string, { name, backendId }: ImageRecord): Promise<boolean> {
    const document = await this.core.store.get<Reapable | Tombstone>(resourceKey(id));
    const current = document !== undefined && 'image' in document.value ? document.value.image : undefined;
    return current !== undefined && (current.name === name || current.backendId === backendId);
  }

  /** The catalogue entry of a resource that was made at last (under another name) stays. */
  private async isGone(id: string): Promise<boolean> {
    const document = await this.core.store.get<{ readonly state: string }>(resourceKey(id));
    return document === undefined || document.value.state === 'gone';
  }

  private context(name: string, operationId: string): StepContext {
    return {
      operationId,
      name,
      timeoutMilliseconds: this.core.settings.purgeTimeoutMilliseconds,
      signal: this.signal,
    };
  }
}

function resourceKey(id: string): string {
  return id.startsWith('snap-') ? keys.snapshot(id) : keys.volume(id);
}

function isVolume(resource: Reapable): resource is Volume {
  return resource.id.startsWith('vol-');
}

function to(resource: Reapable, state: 'purging' | 'gone'): Reapable {
  return isVolume(resource) ? volumeTo(resource, state) : snapshotTo(resource, state);
}

function put(resource: Reapable, expect: number): Write {
  return isVolume(resource) ? putVolume(resource, expect) : putSnapshot(resource, expect);
}
