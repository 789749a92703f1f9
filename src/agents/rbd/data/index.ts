import { status } from '@grpc/grpc-js';
import type { DataServiceHandlers } from '../../../generated/moorage/backend/v1/DataService.js';
import type { AgentCluster } from '../agent-context.js';
import type { PoolContext } from '../librbd/pool-context.js';
import { invalidField, StepError } from '../step-error.js';
import type { StepScope, StepTable } from '../steps.js';
import { getCatalogueEntries, listCatalogueEntries, putCatalogueEntry, removeCatalogueEntry } from './catalogue.js';
import { OwnConnections } from './connections.js';
import { createImageStep } from './create.js';
import { inspectImages, setChild } from './facts.js';
import { Flattenings } from './flatten.js';
import { listImages } from './listing.js';
import { CompletePoints, expandImage, removePoint, takePoint } from './points.js';
import { readPoolFacts } from './pool-facts.js';
import { purgeImage } from './purge.js';
import {
  checkId,
  checkKey,
  checkLimit,
  checkName,
  checkSize,
  readCatalogueEntry,
  readImage,
  readKnownImage,
  readParent,
  readPoint,
} from './record.js';
import { SingleFlight } from './single-flight.js';
import { restoreImage, trashImage } from './trash.js';
import { findHolders } from './usage.js';

/** What is worked on: steps on the same image do not overlap. Its name names it from before it has an id. */
const byImage = (request: { readonly image: { readonly name: string } | null }): string | undefined =>
  request.image?.name;

/**
 * The steps of the role "data".
 * @param ending aborts when the agent is to end
 */
export function dataSteps(cluster: AgentCluster, ending: AbortSignal): StepTable<DataServiceHandlers> {
  const connections = new OwnConnections(cluster);
  const purges = new SingleFlight();
  const points = new CompletePoints();
  const { shared } = cluster;
  const flattenings = new Flattenings((poolName, use) => shared.withPool(poolName, use), ending);
  const inPool = <Result>(scope: StepScope, use: (pool: PoolContext) => Promise<Result>): Promise<Result> =>
    shared.withPool(scope.poolName, use);

  return {
    GetPool: { lane: 'reads', run: (_request, scope) => readPoolFacts(shared, scope.poolName) },
    OpenConnection: {
      lane: 'steps',
      run: async (_request, scope) => {
        const { connectionId, addresses } = await connections.open();
        if (scope.remainingMilliseconds() <= 0) {
          // Nobody waits for the answer any more: nobody would ever close it, and there are only so many.
          await connections.close(connectionId);
          throw new StepError(status.DEADLINE_EXCEEDED, 'NOT_BEGUN', 'the connection came too late and was closed');
        }
        return { connectionId, addresses: [...addresses] };
      },
    },
    CloseConnection: {
      lane: 'steps',
      run: async (request) => {
        await connections.close(request.connectionId);
        return {};
      },
    },
    CreateImage: {
      lane: 'steps',
      subject: (request) => request.name,
      run: (request, scope) => inPool(scope, (pool) => createImageStep(pool, request)),
    },
    TakePoint: {
      lane: 'steps',
      subject: byImage,
      run: async (request, scope) => {
        const image = readKnownImage('image', request.image);
        const name = checkName('point_name', request.pointName);
        const taken = await connections.withPool(request.connectionId, scope.poolName, (pool) =>
          takePoint(pool, image, name, scope, points),
        );
        return {
          point: { name, backendId: taken.snapshotId.toString() },
          sizeBytes: taken.sizeBytes.toString(),
          time: { seconds: Math.floor(taken.time / 1000).toString(), nanos: (taken.time % 1000) * 1e6 },
        };
      },
    },
    RemovePoint: {
      lane: 'steps',
      subject: byImage,
      run: async (request, scope) => {
        const image = readKnownImage('image', request.image);
        const point = readPoint('point', request.point);
        await connections.withPool(request.connectionId, scope.poolName, (pool) =>
          removePoint(pool, image, point, scope, points),
        );
        return {};
      },
    },
    ExpandImage: {
      lane: 'steps',
      subject: byImage,
      run: async (request, scope) => {
        const image = readKnownImage('image', request.image);
        const wanted = checkSize('size_bytes', request.sizeBytes);
        const size = await connections.withPool(request.connectionId, scope.poolName, (pool) =>
          expandImage(pool, image, wanted, scope),
        );
        return { sizeBytes: size.toString() };
      },
    },
    FlattenImage: {
      lane: 'polls',
      run: async (request, scope) => flattenings.flatten(readKnownImage('image', request.image), scope),
    },
    StopFlatten: {
      lane: 'polls',
      run: async (request, scope) => ({
        flattened: await flattenings.stop(readKnownImage('image', request.image), scope),
      }),
    },
    GetUsage: {
      lane: 'reads',
      run: async (request, scope) => {
        const image = readKnownImage('image', request.image);
        return { holders: await inPool(scope, (pool) => findHolders(pool, image, connections.addresses())) };
      },
    },
    TrashImage: {
      lane: 'steps',
      subject: byImage,
      run: async (request, scope) => {
        const image = readKnownImage('image', request.image);
        const deferSeconds =
          request.defermentSeconds === '0' ? 0n : checkSize('deferment_seconds', request.defermentSeconds);
        const harmless = new Set([...connections.addresses(), ...request.cutOffAddresses]);
        await inPool(scope, (pool) => trashImage(pool, image, deferSeconds, harmless));
        return { holders: [] };
      },
    },
    RestoreImage: {
      lane: 'steps',
      subject: byImage,
      run: async (request, scope) => {
        const entry = readCatalogueEntry('catalogue_entry', request.catalogueEntry);
        const image = readKnownImage('image', request.image);
        const newName = checkName('new_name', request.newName);
        await inPool(scope, (pool) => restoreImage(pool, entry, image, newName));
        return {};
      },
    },
    PurgeImage: {
      lane: 'steps',
      unhurried: true,
      run: async (request, scope) => {
        const image = readImage('image', request.image);
        const names = request.formerNames.map((name, index) => checkName(`former_names[${index}]`, name));
        const catalogueKey = request.catalogueKey === '' ? '' : checkKey('catalogue_key', request.catalogueKey);
        const purge = { image, names, catalogueKey };
        const harmless = new Set([...connections.addresses(), ...request.cutOffAddresses]);
        await purges.run(`${scope.poolName}/${JSON.stringify(request.image)}/${names}/${catalogueKey}`, () =>
          inPool(scope, (pool) => purgeImage(pool, purge, harmless, scope.background)),
        );
        return {};
      },
    },
    PutCatalogueEntry: {
      lane: 'steps',
      run: async (request, scope) => {
        const entry = readCatalogueEntry('entry', request.entry);
        await inPool(scope, (pool) => putCatalogueEntry(pool, entry));
        return {};
      },
    },
    RemoveCatalogueEntry: {
      lane: 'steps',
      run: async (request, scope) => {
        const key = checkKey('key', request.key);
        await inPool(scope, (pool) => removeCatalogueEntry(pool, key));
        return {};
      },
    },
    ListCatalogueEntries: {
      lane: 'reads',
      run: async (request, scope) => {
        const limit = checkLimit(request.limit);
        const page = await inPool(scope, (pool) => listCatalogueEntries(pool, request.cursor, limit));
        return { entries: [...page.entries], nextCursor: page.nextCursor };
      },
    },
    ListImages: {
      lane: 'reads',
      run: async (request, scope) => {
        const limit = checkLimit(request.limit);
        const page = await inPool(scope, (pool) => listImages(pool, request.cursor, limit));
        return { images: [...page.images], nextCursor: page.nextCursor };
      },
    },
    GetCatalogueEntries: {
      lane: 'reads',
      run: async (request, scope) => {
        checkCount('keys', request.keys.length);
        const keys = request.keys.map((key, index) => checkKey(`keys[${index}]`, key));
        return { entries: [...(await inPool(scope, (pool) => getCatalogueEntries(pool, keys)))] };
      },
    },
    InspectImages: {
      lane: 'reads',
      run: async (request, scope) => {
        checkCount('images', request.images.length);
        const images = request.images.map((image, index) =>
          readImage(`images[${index}]`, image.name === '' ? { ...image, name: image.backendId } : image),
        );
        return { images: await inPool(scope, (pool) => inspectImages(pool, images)) };
      },
    },
    SetChild: {
      lane: 'steps',
      run: async (request, scope) => {
        if (request.parent === null) throw invalidField('parent', 'must be there');
        const parent = readParent('parent', request.parent);
        const child = checkId('child_backend_id', request.childBackendId);
        await inPool(scope, (pool) => setChild(pool, parent, child, request.listed));
        return {};
      },
    },
  };
}

/** Most things that one call may ask for. */
const MOST_AT_ONCE = 1000;

function checkCount(field: string, count: number): void {
  if (count > MOST_AT_ONCE) throw invalidField(field, `must be at most ${MOST_AT_ONCE}`);
}
