import type { Pool } from '../core/model/resources.js';
import { BackendError, type DataBackend, type StepContext } from '../core/ports/backend.js';
import { coreImageFacts, corePoints, coreSize, required, wireImage, wireParent } from './mapping.js';
import type { PoolFacts } from './pool-facts.js';
import { dataService, fenceService } from './protocol.js';
import type { PoolRights } from './rights.js';
import type { StepCaller } from './step-caller.js';

/*
 * A watch can outlive its client, and the backend may keep it for good: an agent that was killed while it opened an image has
 * been seen to be listed long after it was cut off. Whoever is cut off can no longer do anything to the image, so such a watch
 * must not keep it from being deleted or purged.
 */

/** Addresses of the clients that are cut off now. */
async function cutOffAddresses(steps: StepCaller, pool: Pool, context: StepContext): Promise<readonly string[]> {
  const { answer } = await steps.call(pool, 'fence', fenceService.ListCutOff, (step) => ({ step }), context);
  return answer.entries.map((entry) => entry.address);
}

/** Takes a step, and takes it again without counting clients that are cut off when it was refused because of a holder. */
async function unlessHeldByTheDead(
  steps: StepCaller,
  pool: Pool,
  context: StepContext,
  take: (cutOff: readonly string[]) => Promise<unknown>,
): Promise<void> {
  try {
    await take([]);
  } catch (error) {
    if (!(error instanceof BackendError) || error.reason !== 'IN_USE') throw error;
    const cutOff = await cutOffAddresses(steps, pool, context);
    if (cutOff.length === 0) throw error;
    await take(cutOff);
  }
}

/** The port's role "data", asked of the cluster's data agent. Each method throws {@link BackendError}. */
export function dataClient(steps: StepCaller, pools: PoolFacts, rights: PoolRights): DataBackend {
  return {
    connectorFacts: (pool) => pools.facts(pool),
    poolStatus: (pool) => pools.status(pool),

    async probePool(pool, context) {
      // First what tells a pool that is not there from one that may not be used.
      const status = await pools.probe(pool, context);
      await rights.ensure(pool, context);
      return status;
    },

    async openConnection(pool, context) {
      const { answer, agentId } = await steps.call(
        pool,
        'data',
        dataService.OpenConnection,
        (step) => ({ step }),
        context,
      );
      return { connectionId: answer.connectionId, agentId, addresses: answer.addresses };
    },

    async closeConnection(pool, connection, context) {
      try {
        const request = { connectionId: connection.connectionId };
        await steps.call(
          pool,
          'data',
          dataService.CloseConnection,
          (step) => ({ step, ...request }),
          context,
          connection.agentId,
        );
      } catch (error) {
        // It went with its agent, and closing what is gone is OK.
        if ((error as Partial<BackendError>).reason !== 'UNKNOWN_CONNECTION') throw error;
      }
    },

    async createImage(pool, request, context) {
      const { answer } = await steps.call(
        pool,
        'data',
        dataService.CreateImage,
        (step) => ({
          step,
          catalogueEntry: { key: request.catalogueEntry.key, value: Buffer.from(request.catalogueEntry.value) },
          name: request.name,
          sizeBytes: String(request.sizeBytes),
          parent: request.parent === undefined ? null : wireParent(request.parent),
          pointName: request.pointName,
        }),
        context,
      );
      if (answer.outcome === 'unusable') {
        const unusable = required('CreateImage', 'what is unusable', answer.unusable);
        return {
          kind: 'unusable',
          backendId: unusable.image?.backendId ?? '',
          points: corePoints(unusable.image?.points ?? []),
          reason: unusable.reason,
        };
      }
      const image = required('CreateImage', 'the image', answer.image);
      return {
        kind: 'made',
        backendId: image.backendId,
        sizeBytes: coreSize('CreateImage', image.sizeBytes),
        points: corePoints(image.points),
      };
    },

    async takePoint(pool, request, context) {
      const { answer } = await steps.call(
        pool,
        'data',
        dataService.TakePoint,
        (step) => ({
          step,
          connectionId: request.connection.connectionId,
          image: wireImage(request.image),
          pointName: request.pointName,
        }),
        context,
        request.connection.agentId,
      );
      const point = required('TakePoint', 'the point', answer.point);
      const time = required('TakePoint', 'its time', answer.time);
      return {
        point: { name: point.name, backendId: point.backendId },
        sizeBytes: coreSize('TakePoint', answer.sizeBytes),
        time: Number(time.seconds) * 1000 + Math.floor(time.nanos / 1_000_000),
      };
    },

    async removePoint(pool, request, context) {
      await steps.call(
        pool,
        'data',
        dataService.RemovePoint,
        (step) => ({
          step,
          connectionId: request.connection.connectionId,
          image: wireImage(request.image),
          point: request.point,
        }),
        context,
        request.connection.agentId,
      );
    },

    async expandImage(pool, request, context) {
      const { answer } = await steps.call(
        pool,
        'data',
        dataService.ExpandImage,
        (step) => ({
          step,
          connectionId: request.connection.connectionId,
          image: wireImage(request.image),
          sizeBytes: String(request.sizeBytes),
        }),
        context,
        request.connection.agentId,
      );
      return { sizeBytes: coreSize('ExpandImage', answer.sizeBytes) };
    },

    async flattenImage(pool, image, context) {
      const { answer } = await steps.call(
        pool,
        'data',
        dataService.FlattenImage,
        (step) => ({ step, image: wireImage(image) }),
        context,
      );
      return { flattened: answer.flattened, progressPercent: Math.max(0, Math.min(100, answer.progressPercent)) };
    },

    async stopFlatten(pool, image, context) {
      const { answer } = await steps.call(
        pool,
        'data',
        dataService.StopFlatten,
        (step) => ({ step, image: wireImage(image) }),
        context,
      );
      return answer.flattened;
    },

    async getUsage(pool, image, context) {
      const { answer } = await steps.call(
        pool,
        'data',
        dataService.GetUsage,
        (step) => ({ step, image: wireImage(image) }),
        context,
      );
      const holders = answer.holders.map(({ address, watches, locks, client }) => ({
        address,
        watches,
        locks,
        client,
      }));
      if (!holders.some((holder) => !holder.locks)) return holders;
      const cutOff = await cutOffAddresses(steps, pool, context);
      return holders.filter((holder) => holder.locks || !cutOff.includes(holder.address));
    },

    async trashImage(pool, request, context) {
      await unlessHeldByTheDead(steps, pool, context, (cutOff) =>
        steps.call(
          pool,
          'data',
          dataService.TrashImage,
          (step) => ({
            step,
            image: wireImage(request.image),
            defermentSeconds: String(Math.ceil(request.defermentSeconds)),
            cutOffAddresses: [...cutOff],
          }),
          context,
        ),
      );
    },

    async restoreImage(pool, request, context) {
      await steps.call(
        pool,
        'data',
        dataService.RestoreImage,
        (step) => ({
          step,
          catalogueEntry: { key: request.catalogueEntry.key, value: Buffer.from(request.catalogueEntry.value) },
          image: wireImage(request.image),
          newName: request.newName,
        }),
        context,
      );
    },

    async purgeImage(pool, request, context) {
      await unlessHeldByTheDead(steps, pool, context, (cutOff) =>
        steps.call(
          pool,
          'data',
          dataService.PurgeImage,
          (step) => ({
            step,
            image: wireImage(request.image),
            formerNames: [...request.image.formerNames],
            catalogueKey: request.catalogueKey,
            cutOffAddresses: [...cutOff],
          }),
          context,
        ),
      );
    },

    async putCatalogueEntry(pool, entry, context) {
      const wire = { key: entry.key, value: Buffer.from(entry.value) };
      await steps.call(pool, 'data', dataService.PutCatalogueEntry, (step) => ({ step, entry: wire }), context);
    },

    async removeCatalogueEntry(pool, key, context) {
      await steps.call(pool, 'data', dataService.RemoveCatalogueEntry, (step) => ({ step, key }), context);
    },

    async listCatalogueEntries(pool, range, context) {
      const { answer } = await steps.call(
        pool,
        'data',
        dataService.ListCatalogueEntries,
        (step) => ({ step, cursor: range.cursor, limit: range.limit }),
        context,
      );
      return {
        entries: answer.entries.map(({ key, value }) => ({ key, value })),
        nextCursor: answer.nextCursor,
      };
    },

    async listImages(pool, range, context) {
      const { answer } = await steps.call(
        pool,
        'data',
        dataService.ListImages,
        (step) => ({ step, cursor: range.cursor, limit: range.limit }),
        context,
      );
      return {
        images: answer.images.map(({ name, backendId, trashed }) => ({ name, backendId, trashed })),
        nextCursor: answer.nextCursor,
      };
    },

    async getCatalogueEntries(pool, keys, context) {
      if (keys.length === 0) return new Map();
      const { answer } = await steps.call(
        pool,
        'data',
        dataService.GetCatalogueEntries,
        (step) => ({ step, keys: [...keys] }),
        context,
      );
      return new Map(answer.entries.map(({ key, value }) => [key, value]));
    },

    async inspectImages(pool, images, context) {
      if (images.length === 0) return [];
      const { answer } = await steps.call(
        pool,
        'data',
        dataService.InspectImages,
        (step) => ({
          step,
          images: images.map(({ name, backendId, parent }) => ({
            name,
            backendId,
            parent: parent === undefined ? null : wireParent(parent),
          })),
        }),
        context,
      );
      return images.map((_image, position) =>
        coreImageFacts(required('InspectImages', 'one of the images', answer.images[position])),
      );
    },

    async setChild(pool, request, context) {
      await steps.call(
        pool,
        'data',
        dataService.SetChild,
        (step) => ({
          step,
          parent: wireParent(request.parent),
          childBackendId: request.childBackendId,
          listed: request.listed,
        }),
        context,
      );
    },
  } satisfies DataBackend;
}
