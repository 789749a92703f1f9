import { type Channel, channel } from 'node:diagnostics_channel';

/*
 * Points that every step, and every call of librados and librbd that waits, passes before and after: where tests of faults
 * learn what a step consists of and end this process (docs/decisions/0011-crash-points.md). In production nobody listens, and a point costs the
 * look at one field. What the calls are given is not published: keys are among it.
 */

/** Steps: {moment, method, operationId, name}. */
export const stepPoints = channel('moorage:agent-step');
/** Calls of the libraries: {moment, functionName}. */
export const nativePoints = channel('moorage:agent-native');

/** Does something between two points. @throws what it throws; then there is no second point */
export function betweenPoints<Result>(
  points: Channel,
  what: Readonly<Record<string, unknown>>,
  act: () => Promise<Result>,
): Promise<Result> {
  if (!points.hasSubscribers) return act();
  points.publish({ ...what, moment: 'before' });
  return act().then((result) => {
    points.publish({ ...what, moment: 'after' });
    return result;
  });
}
