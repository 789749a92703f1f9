import type { Services } from '../../core/services/types.js';
import type { OperationServiceHandlers } from '../../generated/moorage/v1/OperationService.js';
import { fromPage } from '../mapping/requests.js';
import { toOperation } from '../mapping/resources.js';
import { fromDuration } from '../mapping/scalars.js';
import { fromStates, operationStates } from '../mapping/states.js';
import { type CallEnvironment, unary } from '../unary.js';

/** Journaled changes. */
export function operationHandlers(services: Services, environment: CallEnvironment): OperationServiceHandlers {
  return {
    GetOperation: unary(environment, async (request, caller) => ({
      operation: toOperation(await services.operations.get(request.operationId, caller)),
    })),

    ListOperations: unary(environment, async (request, caller) => {
      const page = await services.operations.list(
        {
          ...fromPage(request),
          resourceId: request.resourceId,
          states: fromStates('states', operationStates, request.states),
        },
        caller,
      );
      return { operations: page.items.map(toOperation), nextPageToken: page.nextPageToken };
    }),

    WaitOperation: unary(environment, async (request, caller) => {
      const timeout = fromDuration('timeout', request.timeout);
      return { operation: toOperation(await services.operations.wait(request.operationId, timeout, caller)) };
    }),

    CancelOperation: unary(environment, async (request, caller) => ({
      operation: toOperation(await services.operations.cancel(request.operationId, caller)),
    })),
  };
}
