import type { FenceBackend } from '../core/ports/backend.js';
import type { Step } from '../generated/moorage/backend/v1/Step.js';
import { milliseconds, wireImage } from './mapping.js';
import { fenceService } from './protocol.js';
import type { StepCaller } from './step-caller.js';

/** The port's role "fence", asked of the cluster's fence agent. Each method throws BackendError. */
export function fenceClient(steps: StepCaller): FenceBackend {
  return {
    async grantAccess(pool, request, context) {
      if (pool.settings.access === 'keyring') {
        // The site hands out the key itself: nothing is made, and there is nothing secret to tell.
        return Buffer.from(JSON.stringify({ mode: 'keyring', user: pool.settings.keyringUser }));
      }
      const { answer } = await steps.call(
        pool,
        'fence',
        fenceService.GrantAccess,
        (step) => ({
          step,
          exportId: request.exportId,
          image: wireImage(request.image),
          ancestors: request.ancestors.map(wireImage),
          readOnly: request.readOnly,
        }),
        context,
      );
      return answer.accessJson;
    },

    async revokeAccess(pool, exportId, context) {
      if (pool.settings.access === 'keyring') return;
      await steps.call(pool, 'fence', fenceService.RevokeAccess, (step) => ({ step, exportId }), context);
    },

    async listAccess(pool, context) {
      if (pool.settings.access === 'keyring') return [];
      const { answer } = await steps.call(pool, 'fence', fenceService.ListAccess, (step) => ({ step }), context);
      return answer.exportIds;
    },

    async inspectAccess(pool, request, context) {
      // Nothing of it is ours: it is as the site made it.
      if (pool.settings.access === 'keyring') return { exists: true, rightsMatch: true, accessMatches: true };
      const { answer } = await steps.call(
        pool,
        'fence',
        fenceService.InspectAccess,
        (step) => ({
          step,
          exportId: request.exportId,
          image: request.image === undefined ? null : wireImage(request.image),
          ancestors: request.ancestors.map(wireImage),
          readOnly: request.readOnly,
          accessJson: Buffer.from(request.access),
        }),
        context,
      );
      return { exists: answer.exists, rightsMatch: answer.rightsMatch, accessMatches: answer.accessMatches };
    },

    async listClients(pool, request, context) {
      // With access "keyring" an export has no user of its own: its node's user has other images open too.
      const exportId = pool.settings.access === 'keyring' ? '' : request.exportId;
      const { answer } = await steps.call(
        pool,
        'fence',
        fenceService.ListClients,
        (step) => ({ step, exportId, image: request.image === undefined ? null : wireImage(request.image) }),
        context,
      );
      return answer.addresses;
    },

    async cutOff(pool, request, context) {
      await steps.call(
        pool,
        'fence',
        fenceService.CutOff,
        (step) => ({
          step,
          addresses: [...request.addresses],
          expirySeconds: String(Math.ceil(request.expirySeconds)),
        }),
        context,
      );
    },

    async breakLocks(pool, request, context) {
      const { answer } = await steps.call(
        pool,
        'fence',
        fenceService.BreakLocks,
        (step) => ({ step, image: wireImage(request.image), ownerAddresses: [...request.ownerAddresses] }),
        context,
      );
      return answer.broken;
    },

    async liftCutOff(pool, addresses, context) {
      const request = (step: Step) => ({ step, addresses: [...addresses] });
      await steps.call(pool, 'fence', fenceService.LiftCutOff, request, context);
    },

    async listCutOff(pool, context) {
      const { answer } = await steps.call(pool, 'fence', fenceService.ListCutOff, (step) => ({ step }), context);
      return new Map(answer.entries.map(({ address, expireTime }) => [address, milliseconds(expireTime)]));
    },
  };
}
