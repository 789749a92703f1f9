import type { PhaseContext } from '../../journal/definition.js';
import { keys, putOperation, putPoint, putSnapshot, putVolume } from '../../journal/documents.js';
import { newId } from '../../model/ids.js';
import type { Operation } from '../../model/operation.js';
import type { PointInTime, Pool } from '../../model/resources.js';
import { BackendError } from '../../ports/backend.js';
import type { StoredDocument, Write } from '../../ports/store.js';
import { type CoreContext, getPool, getSnapshot, getVolume } from '../context.js';
import { requireImage } from '../identity.js';
import { closeConnection, isLostConnection } from '../images.js';
import type { CreateSnapshotPlan } from './create-snapshot.js';

/*
 * POINTS IN TIME
 *
 * Taking a point waits for a monitor of the backend (up to a second), and each one makes a guest wait for its lock. So the
 * snapshot operations of a volume that wait at the same time share the next point: one of them leads.
 *
 * What stays true:
 * - `point/<id>` is committed together with the plans of all its members before anything is sent. Whoever resumes finds the
 *   same group, and its name on the backend (the id) is never used twice.
 * - The addresses of the connection are committed to the point before it works on the image.
 * - The point's id on the backend comes into the volume's record in the same commit in which the members go on: what a purge
 *   of the volume destroys is complete before a clone can depend on it.
 * - A member leaves the point in the commit that ends it. The last one removes the point first.
 */

/** How long the first of a burst of calls waits for the others, in milliseconds; little beside what a point costs. */
const GATHER_MILLISECONDS = 10;

type Member = PhaseContext<CreateSnapshotPlan>;

interface Waiting {
  readonly member: Member;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** Gathers the snapshot operations of a volume and takes one point for all that wait. */
export class PointsInTime {
  private readonly core: CoreContext;
  private readonly waiting = new Map<string, Waiting[]>();
  private readonly leading = new Set<string>();

  constructor(core: CoreContext) {
    this.core = core;
  }

  /**
   * Resolves once the operation's next phase is committed (read it again). Rejects with what went wrong for the whole group;
   * it is then asked for again.
   */
  take(member: Member): Promise<void> {
    // Members of a point that was recorded before a crash find each other by it; new ones by their volume.
    const group = member.plan.pointId ?? `volume/${member.plan.volumeId}`;
    return new Promise((resolve, reject) => {
      const waiting = this.waiting.get(group) ?? [];
      waiting.push({ member, resolve, reject });
      this.waiting.set(group, waiting);
      if (!this.leading.has(group)) void this.lead(group);
    });
  }

  private async lead(group: string): Promise<void> {
    this.leading.add(group);
    try {
      await this.core.clock.sleep(GATHER_MILLISECONDS);
      for (;;) {
        const members = this.waiting.get(group) ?? [];
        this.waiting.delete(group);
        if (members.length === 0) return;
        try {
          await this.takeFor(members.map((waiting) => waiting.member));
          for (const { resolve } of members) resolve();
        } catch (error) {
          for (const { reject } of members) reject(error);
        }
      }
    } finally {
      this.leading.delete(group);
    }
  }

  private async takeFor(members: readonly Member[]): Promise<void> {
    const [leader] = members;
    if (leader === undefined) return;
    const pool = (await getPool(this.core.store, leader.operation.poolId)).value;
    const recorded = leader.plan.pointId === undefined ? await this.record(members) : leader.plan.pointId;
    const point = await this.read(recorded);
    if (point.value.point !== undefined) return this.release(point, members);
    const connected = await this.connect(leader, pool, point);
    const taken = await this.takePoint(leader, pool, connected);
    await this.release(taken, members);
  }

  /** Commits the point with the plans of its members; their phase stays the same. */
  private async record(members: readonly Member[]): Promise<string> {
    const id = newId('pt');
    const [first] = members;
    if (first === undefined) return id;
    const point: PointInTime = {
      id,
      poolId: first.operation.poolId,
      volumeId: first.plan.volumeId,
      operationIds: members.map((member) => member.operation.id),
    };
    const writes: Write[] = [putPoint(point, 'absent')];
    for (const document of await this.operationsOf(members)) {
      const plan: CreateSnapshotPlan = { ...document.value.plan, pointId: id };
      writes.push(putOperation({ ...document.value, plan }, document.rev));
    }
    await this.commit(writes);
    return id;
  }

  private async connect(
    leader: Member,
    pool: Pool,
    point: StoredDocument<PointInTime>,
  ): Promise<StoredDocument<PointInTime>> {
    if (point.value.connection !== undefined) return point;
    const connection = await leader.step('open-connection', (step) =>
      this.core.backend().data.openConnection(pool, step),
    );
    const value = { ...point.value, connection };
    try {
      const rev = await this.commit([putPoint(value, point.rev)]);
      return { key: point.key, rev, value };
    } catch (error) {
      // Nobody will know of it: an agent has only so many.
      await closeConnection(this.core, leader, pool, connection);
      throw error;
    }
  }

  private async takePoint(
    leader: Member,
    pool: Pool,
    point: StoredDocument<PointInTime>,
  ): Promise<StoredDocument<PointInTime>> {
    const { connection, volumeId, id } = point.value;
    if (connection === undefined) throw new Error(`The point ${id} has no connection.`);
    const image = requireImage((await getVolume(this.core.store, volumeId)).value);
    try {
      const taken = await leader.step('take-point', (step) =>
        this.core.backend().data.takePoint(pool, { connection, image, pointName: id }, step),
      );
      const value = { ...point.value, point: taken.point, sizeBytes: taken.sizeBytes, time: taken.time };
      return { ...point, value };
    } catch (error) {
      if (!isLostConnection(error)) throw error;
      await closeConnection(this.core, leader, pool, connection);
      await this.forgetConnection(point);
      throw new BackendError('not-begun', 'UNAVAILABLE', 'The connection of its own is gone; another one is opened.');
    }
  }

  /** The agent that had the connection is dead, or a node cut it off: the next try opens another one. */
  private async forgetConnection(point: StoredDocument<PointInTime>): Promise<void> {
    const { connection: _, ...value } = point.value;
    await this.commit([putPoint(value, point.rev)]);
  }

  /** Commits the point, the volume's record of it, the snapshots' point in time, and the members' next phase: all at once. */
  private async release(point: StoredDocument<PointInTime>, members: readonly Member[]): Promise<void> {
    const { value } = point;
    if (value.point === undefined || value.sizeBytes === undefined || value.time === undefined) {
      throw new Error(`The point ${value.id} is not taken.`);
    }
    const volume = await getVolume(this.core.store, value.volumeId);
    const image = requireImage(volume.value);
    const known = image.points.some((one) => one.name === value.id);
    const writes: Write[] = [putPoint(value, point.rev)];
    if (!known) {
      const points = [...image.points, value.point];
      writes.push(putVolume({ ...volume.value, image: { ...image, points } }, volume.rev));
    }
    for (const operation of await this.operationsOf(members)) {
      const snapshot = await getSnapshot(this.core.store, operation.value.resourceId);
      const plan: CreateSnapshotPlan = {
        ...operation.value.plan,
        parent: { name: image.name, backendId: image.backendId, point: value.point, resourceId: value.volumeId },
        sizeBytes: value.sizeBytes,
      };
      writes.push(putOperation({ ...operation.value, phase: 'create-image', plan }, operation.rev));
      const taken = { ...snapshot.value, pointTime: value.time, sizeBytes: value.sizeBytes };
      writes.push(putSnapshot(taken, snapshot.rev));
    }
    await this.commit(writes);
  }

  private async read(id: string): Promise<StoredDocument<PointInTime>> {
    const document = await this.core.store.get<PointInTime>(keys.point(id));
    if (document === undefined) throw new Error(`There is no point ${id}.`);
    return document;
  }

  private async operationsOf(
    members: readonly Member[],
  ): Promise<readonly StoredDocument<Operation<CreateSnapshotPlan>>[]> {
    const documents = await this.core.store.getMany<Operation<CreateSnapshotPlan>>(
      members.map((member) => keys.operation(member.operation.id)),
    );
    return documents.filter((document) => document !== undefined);
  }

  /** A conflict here means that something else of ours wrote meanwhile: the whole group asks again. */
  private async commit(writes: readonly Write[]): Promise<number> {
    const outcome = await this.core.store.commit([...writes, this.core.liveCheck()]);
    if (outcome.ok) return outcome.rev;
    await this.core.refreshMembership();
    throw new BackendError('not-begun', 'ABORTED', 'The store changed while a point in time was being recorded.');
  }
}
