import type { Services } from '../../core/services/types.js';
import type { AdminServiceHandlers } from '../../generated/moorage/v1/AdminService.js';
import { fromClasses, toFinding, toRepaired } from '../mapping/findings.js';
import { fromPage } from '../mapping/requests.js';
import { toTimestamp } from '../mapping/scalars.js';
import { type CallEnvironment, unary } from '../unary.js';

/** Whether store, catalogue and storage agree. */
export function adminHandlers(services: Services, environment: CallEnvironment): AdminServiceHandlers {
  return {
    Check: unary(environment, async (request, caller) => {
      const answer = await services.admin.check({ ...fromPage(request), poolId: request.poolId }, caller);
      return { ...answer, findings: answer.findings.map(toFinding) };
    }),

    Repair: unary(environment, async (request, caller) => {
      const answer = await services.admin.repair(
        {
          ...fromPage(request),
          poolId: request.poolId,
          classes: fromClasses(request.classes),
          resourceIds: request.resourceIds,
          validateOnly: request.validateOnly,
        },
        caller,
      );
      return { ...answer, repaired: answer.repaired.map(toRepaired) };
    }),

    Rebuild: unary(environment, async (request, caller) => {
      const { validateOnly, pageToken } = request;
      const answer = await services.admin.rebuild({ validateOnly, pageToken }, caller);
      return { ...answer, repaired: answer.repaired.map(toRepaired), unknown: [...answer.unknown] };
    }),

    BackupStore: unary(environment, async (_request, caller) => {
      const { path, sizeBytes, time } = await services.admin.backupStore(caller);
      return { path, sizeBytes, time: toTimestamp(time) };
    }),
  };
}
