import { invalidField, MoorageError } from '../errors.js';
import { listAll } from '../journal/agents.js';
import { indexes, keys, putChangedPool, putPool } from '../journal/documents.js';
import type { Journal } from '../journal/journal.js';
import type { Pool } from '../model/resources.js';
import { requireClientToken, requireName, requireTags } from '../model/validation.js';
import { BackendError } from '../ports/backend.js';
import { type CoreContext, getPool, requireEtag, settle, versioned } from './context.js';
import { intendDeletePool } from './delete-pool.js';
import { listPage } from './page-tokens.js';
import type {
  Caller,
  Changed,
  CreatePool,
  Page,
  PageRequest,
  PoolService,
  PoolWithStatus,
  ResourceMutation,
  UpdatePool,
  Versioned,
} from './types.js';
import { readUpdateMask, sameTags } from './update-mask.js';

const DEFAULT_UNDELETE_WINDOW_SECONDS = 7 * 24 * 60 * 60;
const LONGEST_UNDELETE_WINDOW_SECONDS = 90 * 24 * 60 * 60;

/** The use cases of pools. */
export class Pools implements PoolService {
  private readonly core: CoreContext;
  private readonly journal: Journal;

  constructor(core: CoreContext, journal: Journal) {
    this.core = core;
    this.journal = journal;
  }

  async create(request: CreatePool, caller: Caller): Promise<Changed<Versioned<PoolWithStatus>>> {
    requireClientToken(request.clientToken);
    const wanted = this.poolOf(request);
    const known = await this.core.store.get<Pool>(keys.pool(wanted.id));
    if (known === undefined) await this.requireUsable(wanted, caller);
    const intend = async () => {
      const found = await this.core.store.get<Pool>(keys.pool(wanted.id));
      if (found !== undefined) {
        if (isSame(found.value, wanted)) return { intent: 'nothing' as const, resourceId: wanted.id, operationId: '' };
        throw new MoorageError(
          'ALREADY_EXISTS',
          `pool_id: there is a pool ${wanted.id} already, with other settings.`,
          {
            reason: 'POOL_EXISTS',
            metadata: { pool_id: wanted.id },
          },
        );
      }
      await this.requireOwnPlace(wanted);
      return { intent: 'immediate' as const, resourceId: wanted.id, writes: putPool(wanted, 'absent') };
    };
    if (request.validateOnly) {
      await intend();
      return { resource: { value: this.withStatus(wanted), etag: '' }, operationId: '' };
    }
    const { clientToken, validateOnly: _, ...parameters } = request;
    await this.journal.record({ method: 'CreatePool', principal: caller.name, clientToken, parameters, intend });
    return { resource: await this.get(wanted.id, caller), operationId: '' };
  }

  async get(id: string, _caller: Caller): Promise<Versioned<PoolWithStatus>> {
    requireName('pool_id', id);
    const document = versioned(await getPool(this.core.store, id));
    return { ...document, value: this.withStatus(document.value) };
  }

  async list(request: PageRequest, caller: Caller): Promise<Page<PoolWithStatus>> {
    const page = await listPage<Pool>(this.core.store, this.core.vault, request, caller, {
      filter: ['ListPools'],
      index: indexes.pools,
      fits: () => true,
    });
    return { ...page, items: page.items.map((item) => ({ ...item, value: this.withStatus(item.value) })) };
  }

  async update(request: UpdatePool, caller: Caller): Promise<Changed<Versioned<PoolWithStatus>>> {
    requireClientToken(request.clientToken);
    requireName('pool_id', request.id);
    const mask = readUpdateMask(request.updateMask, ['undelete_window_seconds']);
    if (mask.has('undelete_window_seconds')) requireWindow(request.undeleteWindowSeconds);
    const intend = async () => {
      const document = await getPool(this.core.store, request.id);
      requireEtag(document, request.etag);
      const pool = document.value;
      if (pool.operationId !== undefined) throw beingDeleted(pool);
      const tags = mask.tags(pool.tags, request.tags);
      const undeleteWindowSeconds = mask.has('undelete_window_seconds')
        ? request.undeleteWindowSeconds
        : pool.undeleteWindowSeconds;
      const same = sameTags(tags, pool.tags) && undeleteWindowSeconds === pool.undeleteWindowSeconds;
      const changed = same ? pool : { ...pool, tags, undeleteWindowSeconds, updateTime: this.core.clock.now() };
      const write = same
        ? { kind: 'check' as const, key: document.key, expect: document.rev }
        : putChangedPool(changed, document.rev);
      return { intent: 'immediate' as const, resourceId: pool.id, writes: [write], changed };
    };
    if (request.validateOnly) {
      return { resource: { value: this.withStatus((await intend()).changed), etag: '' }, operationId: '' };
    }
    const { clientToken, validateOnly: _, ...parameters } = request;
    await this.journal.record({ method: 'UpdatePool', principal: caller.name, clientToken, parameters, intend });
    return { resource: await this.get(request.id, caller), operationId: '' };
  }

  async delete(request: ResourceMutation, caller: Caller): Promise<{ readonly operationId: string }> {
    requireClientToken(request.clientToken);
    requireName('pool_id', request.id);
    const intend = () => intendDeletePool(this.core, request);
    if (request.validateOnly) {
      await intend();
      return { operationId: '' };
    }
    const recorded = await this.journal.record({
      method: 'DeletePool',
      principal: caller.name,
      clientToken: request.clientToken,
      parameters: { id: request.id, etag: request.etag },
      intend,
    });
    await settle(this.journal, this.core.clock, recorded, caller);
    return { operationId: recorded.operationId };
  }

  private withStatus(pool: Pool): PoolWithStatus {
    return { pool, status: this.core.backend().data.poolStatus(pool) };
  }

  private poolOf(request: CreatePool): Pool {
    requireName('pool_id', request.poolId);
    const { settings } = request;
    if (settings.cluster === '')
      throw invalidField('rbd.cluster', 'is required: a name under "clusters" in the configuration');
    if (!/^[A-Za-z0-9_.-]{1,128}$/.test(settings.cephPool)) {
      throw invalidField(
        'rbd.ceph_pool',
        'must be the name of a Ceph pool: 1 to 128 letters, digits, "_", "-" and "."',
      );
    }
    if (settings.access === 'keyring' && !/^[A-Za-z0-9_.-]{1,128}$/.test(settings.keyringUser)) {
      throw invalidField('rbd.keyring_user', 'is required with keyring access: the Ceph user without "client."');
    }
    if (settings.access === 'managed' && settings.keyringUser !== '') {
      throw invalidField('rbd.keyring_user', 'goes only with keyring access');
    }
    if (settings.access === 'keyring' && settings.isolate === true) {
      throw invalidField('rbd.isolate', 'goes only with managed access: with a keyring a node reads the whole pool');
    }
    const window = request.undeleteWindowSeconds ?? DEFAULT_UNDELETE_WINDOW_SECONDS;
    requireWindow(window);
    requireTags(request.tags);
    const now = this.core.clock.now();
    return {
      id: request.poolId,
      settings,
      undeleteWindowSeconds: window,
      tags: request.tags,
      createTime: now,
      updateTime: now,
    };
  }

  /** A pool is made known only when its backend answers for it, so that a misspelt name is found at once. */
  private async requireUsable(pool: Pool, caller: Caller): Promise<void> {
    const left = Math.max(1, (caller.deadline - this.core.clock.monotonic()) * 0.8);
    try {
      await this.core
        .backend()
        .data.probePool(pool, { operationId: '', name: 'probe-pool', timeoutMilliseconds: left });
    } catch (error) {
      if (!(error instanceof BackendError)) throw error;
      if (error.failure === 'permanent') {
        throw new MoorageError(
          'FAILED_PRECONDITION',
          `The Ceph pool ${pool.settings.cephPool} cannot be used: ${error.message}`,
          {
            reason: error.reason,
            metadata: error.metadata,
            cause: error,
          },
        );
      }
      throw new MoorageError(
        'UNAVAILABLE',
        `Whether the Ceph pool ${pool.settings.cephPool} of the cluster ${pool.settings.cluster} can be used is not known yet: ${error.message}`,
        { reason: 'BACKEND_UNAVAILABLE', retryAfterMilliseconds: 2_000, cause: error },
      );
    }
  }

  /** Two pools in one place would take each other's images for foreign ones. */
  private async requireOwnPlace(wanted: Pool): Promise<void> {
    for (const { value } of await listAll<Pool>(this.core.store, indexes.pools)) {
      const same =
        value.settings.cluster === wanted.settings.cluster && value.settings.cephPool === wanted.settings.cephPool;
      if (same) {
        throw new MoorageError(
          'ALREADY_EXISTS',
          `rbd.ceph_pool: ${value.settings.cephPool} is the pool ${value.id} already.`,
          {
            reason: 'PLACE_TAKEN',
            metadata: { pool_id: value.id },
          },
        );
      }
    }
  }
}

function requireWindow(seconds: number): void {
  if (!Number.isInteger(seconds) || seconds < 0 || seconds > LONGEST_UNDELETE_WINDOW_SECONDS) {
    throw invalidField('undelete_window_seconds', `must be 0 to ${LONGEST_UNDELETE_WINDOW_SECONDS} (90 days)`);
  }
}

function beingDeleted(pool: Pool): MoorageError {
  return new MoorageError('ABORTED', `The pool ${pool.id} is being deleted by ${pool.operationId}.`, {
    reason: 'OPERATION_IN_PROGRESS',
    metadata: { pool_id: pool.id, operation_id: pool.operationId ?? '' },
    retryAfterMilliseconds: 500,
  });
}

function isSame(a: Pool, b: Pool): boolean {
  const essence = ({ settings, undeleteWindowSeconds, tags }: Pool) => {
    const { backend, cluster, cephPool, access, keyringUser, isolate = false } = settings;
    return JSON.stringify([
      backend,
      cluster,
      cephPool,
      access,
      keyringUser,
      isolate,
      undeleteWindowSeconds,
      Object.entries(tags).sort(),
    ]);
  };
  return essence(a) === essence(b);
}
