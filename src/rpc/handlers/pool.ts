import type { Services } from '../../core/services/types.js';
import type { PoolServiceHandlers } from '../../generated/moorage/v1/PoolService.js';
import { fromCreatePool, fromPage, fromResourceMutation, fromUpdate } from '../mapping/requests.js';
import { toPool } from '../mapping/resources.js';
import { fromInt64 } from '../mapping/scalars.js';
import { type CallEnvironment, unary } from '../unary.js';

/** Places where volumes live. */
export function poolHandlers(services: Services, environment: CallEnvironment): PoolServiceHandlers {
  return {
    CreatePool: unary(environment, async (request, caller) => {
      const { resource, operationId } = await services.pools.create(fromCreatePool(request), caller);
      return { pool: toPool(resource), operationId };
    }),

    GetPool: unary(environment, async (request, caller) => ({
      pool: toPool(await services.pools.get(request.poolId, caller)),
    })),

    ListPools: unary(environment, async (request, caller) => {
      const page = await services.pools.list(fromPage(request), caller);
      return { pools: page.items.map(toPool), nextPageToken: page.nextPageToken };
    }),

    UpdatePool: unary(environment, async (request, caller) => {
      const undeleteWindowSeconds = fromInt64('undelete_window_seconds', request.undeleteWindowSeconds);
      const update = { ...fromUpdate(request.poolId, request), undeleteWindowSeconds };
      const { resource, operationId } = await services.pools.update(update, caller);
      return { pool: toPool(resource), operationId };
    }),

    DeletePool: unary(environment, (request, caller) =>
      services.pools.delete(fromResourceMutation(request.poolId, request), caller),
    ),
  };
}
