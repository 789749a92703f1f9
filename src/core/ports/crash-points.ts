import { type Channel, channel } from 'node:diagnostics_channel';
import type { CommitOutcome, Store, Write } from './store.js';

/*
 * CRASH POINTS
 *
 * Every commit to the store and every step that is asked of an agent passes a point, before it and after it. Tests of faults
 * listen there (Node's diagnostics channels, from a module that they preload), learn what a call consists of, and end
 * processes at exactly that point. In production nobody listens: a point then costs the look at one field. Nothing that a
 * user can set makes anybody listen.
 */

/** Commits to the store: {@link CommitPoint}. */
export const commitPoints = channel('moorage:commit');
/** Copies of the store: only their moments. */
export const backupPoints = channel('moorage:backup');
/** Steps asked of agents: {@link StepPoint}. */
export const stepPoints = channel('moorage:step');

/** What is published before a commit, and after it with what it came to. One that fails with an error has no "after". */
export interface CommitPoint {
  readonly moment: 'before' | 'after';
  readonly writes: readonly Write[];
  readonly outcome?: CommitOutcome;
}

/** What is published before a step is sent, and after its answer. A step that fails has no "after". */
export interface StepPoint {
  readonly moment: 'before' | 'after';
  readonly cluster: string;
  readonly role: 'data' | 'fence';
  /** Method of the backend protocol, as "CreateImage". */
  readonly method: string;
  /** Empty for what is done for no operation. */
  readonly operationId: string;
  /** Name of the step, as "create-image". */
  readonly name: string;
}

/** Does something between two points. @throws what it throws; then there is no second point */
export function betweenPoints<Result>(
  points: Channel,
  what: Readonly<Record<string, unknown>>,
  act: () => Promise<Result>,
  describe: (result: Result) => Readonly<Record<string, unknown>> = () => ({}),
): Promise<Result> {
  if (!points.hasSubscribers) return act();
  points.publish({ ...what, moment: 'before' });
  return act().then((result) => {
    points.publish({ ...what, ...describe(result), moment: 'after' });
    return result;
  });
}

/** The store, with points around its commits. */
export function withCommitPoints(store: Store): Store {
  return {
    get: (key) => store.get(key),
    getMany: (keys) => store.getMany(keys),
    list: (index, range) => store.list(index, range),
    count: (index) => store.count(index),
    commit: (writes) =>
      betweenPoints(
        commitPoints,
        { writes },
        () => store.commit(writes),
        (outcome) => ({ outcome }),
      ),
    backup: (path, writes) => betweenPoints(backupPoints, {}, () => store.backup(path, writes)),
    close: () => store.close(),
  };
}
