import type { Services } from '../../core/services/types.js';
import type { StorageControllerServiceHandlers } from '../../generated/moorage/v1/StorageControllerService.js';
import {
  fromCreateVolume,
  fromExport,
  fromGrantExport,
  fromPage,
  fromResourceMutation,
  fromUpdate,
} from '../mapping/requests.js';
import { toExport, toGrant, toSnapshot, toVolume } from '../mapping/resources.js';
import { fromInt64, toTimestamp } from '../mapping/scalars.js';
import { fromStates, snapshotStates, volumeStates } from '../mapping/states.js';
import { type CallEnvironment, unary } from '../unary.js';

/** Volumes, snapshots, grants and exports: messages in, the core's use cases, messages out. */
export function storageControllerHandlers(
  services: Services,
  environment: CallEnvironment,
): StorageControllerServiceHandlers {
  return {
    CreateVolume: unary(environment, async (request, caller) => {
      const { resource, operationId } = await services.volumes.create(fromCreateVolume(request), caller);
      return { volume: toVolume(resource), operationId };
    }),

    GetVolume: unary(environment, async (request, caller) => ({
      volume: toVolume(await services.volumes.get(request.volumeId, caller)),
    })),

    ListVolumes: unary(environment, async (request, caller) => {
      const page = await services.volumes.list(
        {
          ...fromPage(request),
          poolId: request.poolId,
          sourceSnapshotId: request.sourceSnapshotId,
          states: fromStates('states', volumeStates, request.states),
          tags: request.tags,
        },
        caller,
      );
      return { volumes: page.items.map(toVolume), nextPageToken: page.nextPageToken };
    }),

    UpdateVolume: unary(environment, async (request, caller) => {
      const { displayName } = request;
      const update = { ...fromUpdate(request.volumeId, request), displayName };
      const { resource, operationId } = await services.volumes.update(update, caller);
      return { volume: toVolume(resource), operationId };
    }),

    ExpandVolume: unary(environment, async (request, caller) => {
      const sizeBytes = fromInt64('size_bytes', request.sizeBytes);
      const { resource, operationId } = await services.volumes.expand(
        { ...fromResourceMutation(request.volumeId, request), sizeBytes },
        caller,
      );
      return { volume: toVolume(resource), operationId };
    }),

    DeleteVolume: unary(environment, async (request, caller) => {
      const { resource, operationId } = await services.volumes.delete(
        fromResourceMutation(request.volumeId, request),
        caller,
      );
      return { volume: resource === undefined ? null : toVolume(resource), operationId };
    }),

    UndeleteVolume: unary(environment, async (request, caller) => {
      const { resource, operationId } = await services.volumes.undelete(
        fromResourceMutation(request.volumeId, request),
        caller,
      );
      return { volume: toVolume(resource), operationId };
    }),

    CreateSnapshot: unary(environment, async (request, caller) => {
      const { clientToken, validateOnly, volumeId, etag, displayName, tags } = request;
      const { resource, operationId } = await services.snapshots.create(
        { clientToken, validateOnly, volumeId, etag, displayName, tags },
        caller,
      );
      return { snapshot: toSnapshot(resource), operationId };
    }),

    GetSnapshot: unary(environment, async (request, caller) => ({
      snapshot: toSnapshot(await services.snapshots.get(request.snapshotId, caller)),
    })),

    ListSnapshots: unary(environment, async (request, caller) => {
      const page = await services.snapshots.list(
        {
          ...fromPage(request),
          poolId: request.poolId,
          volumeId: request.volumeId,
          states: fromStates('states', snapshotStates, request.states),
          tags: request.tags,
        },
        caller,
      );
      return { snapshots: page.items.map(toSnapshot), nextPageToken: page.nextPageToken };
    }),

    UpdateSnapshot: unary(environment, async (request, caller) => {
      const { displayName } = request;
      const update = { ...fromUpdate(request.snapshotId, request), displayName };
      const { resource, operationId } = await services.snapshots.update(update, caller);
      return { snapshot: toSnapshot(resource), operationId };
    }),

    DeleteSnapshot: unary(environment, async (request, caller) => {
      const mutation = fromResourceMutation(request.snapshotId, request);
      const { resource, operationId } = await services.snapshots.delete(mutation, caller);
      return { snapshot: resource === undefined ? null : toSnapshot(resource), operationId };
    }),

    UndeleteSnapshot: unary(environment, async (request, caller) => {
      const mutation = fromResourceMutation(request.snapshotId, request);
      const { resource, operationId } = await services.snapshots.undelete(mutation, caller);
      return { snapshot: toSnapshot(resource), operationId };
    }),

    GrantExport: unary(environment, async (request, caller) => {
      const { resource, operationId } = await services.exports.grant(fromGrantExport(request), caller);
      return { grant: toGrant(resource), operationId };
    }),

    RevokeGrant: unary(environment, async (request, caller) => {
      const { clientToken, validateOnly, grantId } = request;
      const { resource, operationId } = await services.exports.revokeGrant(
        { clientToken, validateOnly, grantId },
        caller,
      );
      return { grant: toGrant(resource), operationId };
    }),

    Export: unary(environment, async (request, caller) => {
      const exported = await services.exports.export(fromExport(request), caller);
      return {
        export: toExport(exported.resource),
        descriptor: Buffer.from(exported.descriptor),
        operationId: exported.operationId,
        descriptorExpireTime: toTimestamp(exported.descriptorExpireTime),
      };
    }),

    Unexport: unary(environment, async (request, caller) => {
      const { clientToken, exportId, force, validateOnly } = request;
      const { resource, operationId } = await services.exports.unexport(
        { clientToken, exportId, force, validateOnly },
        caller,
      );
      return { export: resource === undefined ? null : toExport(resource), operationId };
    }),

    GetExport: unary(environment, async (request, caller) => ({
      export: toExport(await services.exports.get(request.exportId, caller)),
    })),

    ListExports: unary(environment, async (request, caller) => {
      const { volumeId, nodeId } = request;
      const page = await services.exports.list({ ...fromPage(request), volumeId, nodeId }, caller);
      return { exports: page.items.map(toExport), nextPageToken: page.nextPageToken };
    }),
  };
}
