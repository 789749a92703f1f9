import { ServerInterceptingCall, type ServerInterceptor } from '@grpc/grpc-js';
import { MoorageError } from '../../core/errors.js';
import { statusOf } from '../errors.js';

/** Not counted: health checks, so that a busy controller is not taken for a dead one; watches, which have limits of their own. */
const uncounted = /^\/(grpc\.health\.v1\.|moorage\.v1\.EventService\/)/;

const RETRY_AFTER_MILLISECONDS = 200;

/** Counts the calls that run now, over all listeners. */
export interface CallLimit {
  /** How many may run at once. */
  readonly most: number;
  running: number;
}

/**
 * Refuses a call when too many run already: RESOURCE_EXHAUSTED, to be tried again.
 */
export function admit(limit: CallLimit): ServerInterceptor {
  return (method, call) => {
    if (uncounted.test(method.path)) return new ServerInterceptingCall(call);
    let counted = false;
    const leave = (): void => {
      if (counted) limit.running -= 1;
      counted = false;
    };
    return new ServerInterceptingCall(call, {
      start(next) {
        next({
          onReceiveMetadata(metadata, nextMetadata) {
            if (limit.running >= limit.most) {
              call.sendStatus(
                statusOf(
                  new MoorageError(
                    'RESOURCE_EXHAUSTED',
                    `The controller is busy with ${limit.most} calls; try again.`,
                    {
                      reason: 'TOO_MANY_CALLS',
                      retryAfterMilliseconds: RETRY_AFTER_MILLISECONDS,
                    },
                  ),
                ),
              );
              return;
            }
            limit.running += 1;
            counted = true;
            nextMetadata(metadata);
          },
          onCancel: leave,
        });
      },
      sendStatus(result, next) {
        leave();
        next(result);
      },
    });
  };
}
