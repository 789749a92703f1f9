import { MoorageError } from '../errors.js';
import { listAll } from '../journal/agents.js';
import type { Intent, OperationDefinition } from '../journal/definition.js';
import {
  expireDependents,
  indexes,
  KEPT_MILLISECONDS,
  keys,
  putChangedPool,
  removePool,
} from '../journal/documents.js';
import { newId } from '../model/ids.js';
import type { Debris, Export, PointInTime, Pool } from '../model/resources.js';
import type { Write } from '../ports/store.js';
import { type CoreContext, getPool, requireEtag } from './context.js';
import type { ResourceMutation } from './types.js';

/*
 * DeletePool: only an empty one, and nothing on its storage is touched.
 *
 * A volume that begins meanwhile checks the pool's revision, and does not write it. So a look into the pool and its removal
 * in one go would miss a volume that is committed between the two. Therefore it is marked first, by which every creation
 * that has read it before fails, and looked into once more after that: what is in it then is all that there will be.
 */

/** How many of each kind are named to the caller. */
const NAMED = 3;

/** What the call comes to, from what the store holds now. */
export async function intendDeletePool(core: CoreContext, request: ResourceMutation): Promise<Intent> {
  const document = await core.store.get<Pool>(keys.pool(request.id));
  if (document === undefined) return { intent: 'nothing', resourceId: request.id, operationId: '' };
  const pool = document.value;
  if (pool.operationId !== undefined) {
    return { intent: 'nothing', resourceId: pool.id, operationId: pool.operationId };
  }
  requireEtag(document, request.etag);
  const contents = await contentsOf(core, pool.id);
  if (contents.length > 0) throw notEmpty(pool, contents);
  const operationId = newId('op');
  return {
    intent: 'operation',
    kind: 'pool.delete',
    operationId,
    resourceId: pool.id,
    poolId: pool.id,
    firstPhase: 'check-empty',
    plan: {},
    locks: [{ resourceId: pool.id, mode: 'exclusive' }],
    writes: [putChangedPool({ ...pool, operationId, updateTime: core.clock.now() }, document.rev)],
  };
}

/** How the operation is carried out. */
export function deletePoolDefinition(core: CoreContext): OperationDefinition<Record<string, never>> {
  return {
    kind: 'pool.delete',
    phases: {
      'check-empty': async ({ operation }) => {
        const contents = await contentsOf(core, operation.resourceId);
        if (contents.length > 0) {
          const { value } = await getPool(core.store, operation.resourceId);
          return {
            kind: 'failed',
            failure: notEmpty(value, contents),
            writes: () => unmark(core, operation.resourceId),
          };
        }
        return {
          kind: 'succeeded',
          writes: async () => {
            const document = await getPool(core.store, operation.resourceId);
            const now = core.clock.now();
            return [
              ...removePool(document.value, document.rev, now),
              ...(await expireDependents(core.store, operation.resourceId, now + KEPT_MILLISECONDS)),
            ];
          },
        };
      },
    },
    onRefused: async (_context, error) => {
      // It takes no step that could be refused.
      throw error;
    },
    images: async () => [],
  };
}

/** The writes that take the mark off a pool that stays. */
export async function unmark(core: CoreContext, poolId: string): Promise<readonly Write[]> {
  const document = await getPool(core.store, poolId);
  const { operationId: _, ...pool } = document.value;
  return [putChangedPool({ ...pool, updateTime: core.clock.now() }, document.rev)];
}

/** What is in a pool, in words; empty when nothing is. */
async function contentsOf(core: CoreContext, poolId: string): Promise<readonly string[]> {
  const { store } = core;
  const found: string[] = [];
  const add = (count: number, noun: string, ids: readonly string[]): void => {
    if (count === 0) return;
    const more = count > ids.length ? ', …' : '';
    found.push(`${count} ${noun}${count === 1 ? '' : 's'} (${ids.join(', ')}${more})`);
  };
  for (const [index, noun] of [
    [indexes.volumesOfPool(poolId), 'volume'],
    [indexes.snapshotsOfPool(poolId), 'snapshot'],
  ] as const) {
    const page = await store.list<{ readonly id: string; readonly state: string }>(index, { limit: NAMED });
    const ids = page.documents.map(({ value }) => (isDeleted(value.state) ? `${value.id}, ${value.state}` : value.id));
    add(page.cursor === undefined ? ids.length : await store.count(index), noun, ids);
  }
  const inPool = async <T extends { readonly poolId: string }>(index: string) =>
    (await listAll<T>(store, index)).map(({ value }) => value).filter((value) => value.poolId === poolId);
  const exports = (await inPool<Export>(indexes.exports)).map(({ id }) => id);
  add(exports.length, 'export', exports.slice(0, NAMED));
  const debris = (await inPool<Debris>(indexes.debris)).map(({ name }) => name);
  add(debris.length, 'half-made image', debris.slice(0, NAMED));
  const points = (await inPool<PointInTime>(indexes.points)).map(({ id }) => id);
  add(points.length, 'point in time', points.slice(0, NAMED));
  return found;
}

function isDeleted(state: string): boolean {
  return state === 'deleted' || state === 'purging';
}

function notEmpty(pool: Pool, contents: readonly string[]): MoorageError {
  return new MoorageError(
    'FAILED_PRECONDITION',
    `The pool ${pool.id} is not empty: ${contents.join('; ')}. What is deleted is in it until it is purged.`,
    { reason: 'POOL_NOT_EMPTY', metadata: { pool_id: pool.id, contents: contents.join('; ') } },
  );
}
