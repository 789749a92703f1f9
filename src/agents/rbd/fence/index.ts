import type { FenceServiceHandlers } from '../../../generated/moorage/backend/v1/FenceService.js';
import type { AgentCluster } from '../agent-context.js';
import type { StepTable } from '../steps.js';
import { grantAccess, inspectAccess, listAccess, revokeAccess } from './access.js';
import { breakLocks, listClients } from './clients.js';
import { cutOff, liftCutOff, listCutOff } from './cut-off.js';

/** The steps of the role "fence": who may reach what, and cutting off. */
export function fenceSteps({ shared }: AgentCluster): StepTable<FenceServiceHandlers> {
  return {
    GrantAccess: {
      lane: 'steps',
      subject: (request) => request.exportId,
      run: async (request, scope) => {
        const { user, key } = await grantAccess(shared, scope.poolName, request);
        return { accessJson: Buffer.from(JSON.stringify({ mode: 'managed', user, key })) };
      },
    },
    RevokeAccess: {
      lane: 'steps',
      subject: (request) => request.exportId,
      run: async (request, scope) => {
        await revokeAccess(shared, scope.poolName, request.exportId);
        return {};
      },
    },
    ListAccess: {
      lane: 'reads',
      run: async (_request, scope) => ({ exportIds: await listAccess(shared, scope.poolName) }),
    },
    InspectAccess: {
      lane: 'reads',
      run: (request) => inspectAccess(shared, request),
    },
    ListClients: {
      lane: 'reads',
      run: async (request, scope) => ({
        addresses: await listClients(shared, scope.poolName, request.exportId, request.image),
      }),
    },
    CutOff: {
      lane: 'steps',
      run: async (request, scope) => {
        const remaining = () => scope.remainingMilliseconds();
        await cutOff(shared, scope.poolName, request.addresses, Number(request.expirySeconds), remaining);
        return {};
      },
    },
    BreakLocks: {
      lane: 'steps',
      subject: (request) => request.image?.backendId,
      run: async (request, scope) => ({
        broken: await breakLocks(shared, scope.poolName, request.image, request.ownerAddresses),
      }),
    },
    LiftCutOff: {
      lane: 'steps',
      run: async (request) => {
        await liftCutOff(shared, request.addresses);
        return {};
      },
    },
    ListCutOff: {
      lane: 'reads',
      run: async () => ({
        entries: (await listCutOff(shared)).map(({ address, expireTime }) => ({
          address,
          expireTime: { seconds: String(Math.floor(expireTime / 1000)), nanos: (expireTime % 1000) * 1_000_000 },
        })),
      }),
    },
  };
}
