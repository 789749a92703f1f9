import type { Services } from '../../core/services/types.js';
import type { EventServiceHandlers } from '../../generated/moorage/v1/EventService.js';
import { toWatchResponse } from '../mapping/events.js';
import { fromResourceTypes } from '../mapping/states.js';
import { type StreamEnvironment, serverStream } from '../server-stream.js';

/** What changes, as it does. */
export function eventHandlers(services: Services, environment: StreamEnvironment): EventServiceHandlers {
  return {
    Watch: serverStream(environment, (request, caller, stopping) => {
      const { resumeToken, poolId } = request;
      const types = fromResourceTypes('types', request.types);
      return mapped(services.events.watch({ resumeToken, types, poolId }, caller, stopping), toWatchResponse);
    }),
  };
}

async function* mapped<From, To>(
  events: AsyncGenerator<From, void>,
  map: (event: From) => To,
): AsyncGenerator<To, void> {
  for await (const event of events) yield map(event);
}
