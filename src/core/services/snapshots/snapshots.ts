import { MoorageError } from '../../errors.js';
import { indexes, putSnapshot } from '../../journal/documents.js';
import type { Journal } from '../../journal/journal.js';
import { requireId } from '../../model/ids.js';
import type { Snapshot } from '../../model/resources.js';
import { requireClientToken } from '../../model/validation.js';
import { snapshotTo } from '../../transitions.js';
import { awaitEnd, type CoreContext, findSnapshot, getSnapshot, requireEtag, settle, versioned } from '../context.js';
import { snapshotIdentityOf } from '../identity.js';
import { listPage } from '../page-tokens.js';
import { intendRelabel, type LabelKind } from '../relabel.js';
import { intendDelete, intendUndelete, type TrashKind } from '../trash.js';
import type {
  Caller,
  Changed,
  CreateSnapshot,
  ListSnapshots,
  Page,
  ResourceMutation,
  SnapshotService,
  UpdateLabels,
  Versioned,
} from '../types.js';
import { checkCreateSnapshot, intendCreateSnapshot } from './create-snapshot.js';

/** Trash as it is for snapshots. */
export function snapshotTrash(core: CoreContext): TrashKind<Snapshot> {
  return {
    deleteKind: 'snapshot.delete',
    undeleteKind: 'snapshot.undelete',
    usable: 'completed',
    find: (id) => findSnapshot(core.store, id),
    get: (id) => getSnapshot(core.store, id),
    put: putSnapshot,
    to: (snapshot, state) => snapshotTo(snapshot, state === 'available' ? 'completed' : state),
    identity: snapshotIdentityOf,
    requireDeletable: async (snapshot) => {
      if (snapshot.state !== 'pending') return;
      throw new MoorageError(
        'ABORTED',
        `The snapshot ${snapshot.id} is being made by ${snapshot.operationId}. Delete it after that.`,
        {
          reason: 'OPERATION_IN_PROGRESS',
          metadata: { snapshot_id: snapshot.id, operation_id: snapshot.operationId ?? '' },
          retryAfterMilliseconds: 500,
        },
      );
    },
  };
}

/** Name and tags as they are for snapshots. */
export function snapshotLabels(core: CoreContext): LabelKind<Snapshot> {
  return {
    operationKind: 'snapshot.update',
    noun: 'snapshot',
    usable: 'completed',
    get: (id) => getSnapshot(core.store, id),
    put: putSnapshot,
    identity: snapshotIdentityOf,
  };
}

/** The use cases of snapshots. */
export class Snapshots implements SnapshotService {
  private readonly core: CoreContext;
  private readonly journal: Journal;
  private readonly trash: TrashKind<Snapshot>;
  private readonly labels: LabelKind<Snapshot>;

  constructor(core: CoreContext, journal: Journal) {
    this.core = core;
    this.journal = journal;
    this.trash = snapshotTrash(core);
    this.labels = snapshotLabels(core);
  }

  async create(request: CreateSnapshot, caller: Caller): Promise<Changed<Versioned<Snapshot>>> {
    requireClientToken(request.clientToken);
    checkCreateSnapshot(request);
    if (request.validateOnly) {
      const { snapshot } = await intendCreateSnapshot(this.core, request);
      return { resource: { value: { ...snapshot, id: '' }, etag: '' }, operationId: '' };
    }
    return this.change('CreateSnapshot', request, caller, () => intendCreateSnapshot(this.core, request));
  }

  async get(id: string, _caller: Caller): Promise<Versioned<Snapshot>> {
    requireId('snap', 'snapshot_id', id);
    return versioned(await getSnapshot(this.core.store, id));
  }

  list(request: ListSnapshots, caller: Caller): Promise<Page<Snapshot>> {
    const { poolId, volumeId, states, tags } = request;
    if (volumeId !== '') requireId('vol', 'volume_id', volumeId);
    const wanted = new Set(states);
    const wantedTags = Object.entries(tags);
    return listPage<Snapshot>(this.core.store, this.core.vault, request, caller, {
      filter: ['ListSnapshots', poolId, volumeId, [...states].sort(), wantedTags.sort()],
      index: snapshotIndex(request),
      fits: (snapshot) =>
        (wanted.size === 0
          ? snapshot.state !== 'deleted' && snapshot.state !== 'purging'
          : wanted.has(snapshot.state)) &&
        (poolId === '' || snapshot.poolId === poolId) &&
        wantedTags.every(([name, value]) => snapshot.tags[name] === value),
    });
  }

  async update(request: UpdateLabels, caller: Caller): Promise<Changed<Versioned<Snapshot>>> {
    requireClientToken(request.clientToken);
    requireId('snap', 'snapshot_id', request.id);
    if (request.validateOnly) {
      const { changed } = await intendRelabel(this.core, this.labels, request);
      return { resource: { value: changed, etag: '' }, operationId: '' };
    }
    return this.change('UpdateSnapshot', request, caller, () => intendRelabel(this.core, this.labels, request));
  }

  async delete(request: ResourceMutation, caller: Caller): Promise<Changed<Versioned<Snapshot> | undefined>> {
    requireClientToken(request.clientToken);
    requireId('snap', 'snapshot_id', request.id);
    if (request.validateOnly) {
      const { document } = await intendDelete(this.core, this.trash, request);
      return { resource: document === undefined ? undefined : versioned(document), operationId: '' };
    }
    const etag = await this.endFlattening(request, caller);
    const recorded = await this.journal.record({
      method: 'DeleteSnapshot',
      principal: caller.name,
      clientToken: request.clientToken,
      parameters: { id: request.id, etag: request.etag },
      intend: () => intendDelete(this.core, this.trash, { ...request, etag }),
    });
    await settle(this.journal, this.core.clock, recorded, caller);
    const document = await findSnapshot(this.core.store, request.id);
    const resource = document.value.state === 'gone' ? undefined : await this.get(request.id, caller);
    return { resource, operationId: recorded.operationId };
  }

  async undelete(request: ResourceMutation, caller: Caller): Promise<Changed<Versioned<Snapshot>>> {
    requireClientToken(request.clientToken);
    requireId('snap', 'snapshot_id', request.id);
    if (request.validateOnly) {
      const { document } = await intendUndelete(this.core, this.trash, request);
      return { resource: versioned(document), operationId: '' };
    }
    return this.change('UndeleteSnapshot', request, caller, () => intendUndelete(this.core, this.trash, request));
  }

  /**
   * One that is being flattened is not worth that any more: it is completed as it is, and then deleted.
   * @returns the etag that it must still have
   */
  private async endFlattening(request: ResourceMutation, caller: Caller): Promise<string> {
    const found = await findSnapshot(this.core.store, request.id);
    if (found.value.state !== 'pending') return request.etag;
    const { operationId } = found.value;
    requireEtag(found, request.etag);
    if (operationId === undefined || (await this.journal.cancel(operationId)) === 'refused') return request.etag;
    await awaitEnd(this.journal, this.core.clock, operationId, caller);
    return '';
  }

  private async change(
    method: string,
    request: CreateSnapshot | ResourceMutation,
    caller: Caller,
    intend: Parameters<Journal['record']>[0]['intend'],
  ): Promise<Changed<Versioned<Snapshot>>> {
    const { clientToken, validateOnly: _, ...parameters } = request;
    const recorded = await this.journal.record({ method, principal: caller.name, clientToken, parameters, intend });
    await settle(this.journal, this.core.clock, recorded, caller);
    return {
      resource: versioned(await getSnapshot(this.core.store, recorded.resourceId)),
      operationId: recorded.operationId,
    };
  }
}

/** The narrowest index that holds all that fits. */
function snapshotIndex(request: ListSnapshots): string {
  if (request.volumeId !== '') return indexes.snapshotsOfVolume(request.volumeId);
  if (request.poolId !== '') return indexes.snapshotsOfPool(request.poolId);
  return request.states.length === 0 ? indexes.snapshots : indexes.snapshotsAll;
}
