import { MoorageError } from '../../errors.js';
import { indexes, keys, putVolume } from '../../journal/documents.js';
import type { Journal } from '../../journal/journal.js';
import { requireId } from '../../model/ids.js';
import type { Export, Volume } from '../../model/resources.js';
import { requireClientToken } from '../../model/validation.js';
import { volumeTo } from '../../transitions.js';
import { type CoreContext, findVolume, getVolume, settle, versioned } from '../context.js';
import { identityOf } from '../identity.js';
import { listPage } from '../page-tokens.js';
import { intendRelabel, type LabelKind } from '../relabel.js';
import { intendDelete, intendUndelete, type TrashKind } from '../trash.js';
import type {
  Caller,
  Changed,
  CreateVolume,
  ExpandVolume,
  ListVolumes,
  Page,
  ResourceMutation,
  UpdateLabels,
  Versioned,
  VolumeService,
} from '../types.js';
import { checkCreateVolume, intendCreateVolume } from './create-volume.js';
import { intendExpandVolume } from './expand-volume.js';

/** Trash as it is for volumes. */
export function volumeTrash(core: CoreContext): TrashKind<Volume> {
  return {
    deleteKind: 'volume.delete',
    undeleteKind: 'volume.undelete',
    usable: 'available',
    find: (id) => findVolume(core.store, id),
    get: (id) => getVolume(core.store, id),
    put: putVolume,
    to: (volume, state) => volumeTo(volume, state === 'completed' ? 'available' : state),
    identity: identityOf,
    requireDeletable: (volume) => requireDeletable(core, volume),
  };
}

/** Name and tags as they are for volumes. */
export function volumeLabels(core: CoreContext): LabelKind<Volume> {
  return {
    operationKind: 'volume.update',
    noun: 'volume',
    usable: 'available',
    get: (id) => getVolume(core.store, id),
    put: putVolume,
    identity: identityOf,
  };
}

async function requireDeletable(core: CoreContext, volume: Volume): Promise<void> {
  if (volume.exportIds.length > 0) {
    const documents = await core.store.getMany<Export>(volume.exportIds.map(keys.export));
    // One that ended between the two reads names nobody.
    const holders = documents.flatMap((document) =>
      document === undefined || document.value.state === 'gone' ? [] : [document.value],
    );
    const nodes = holders.map((item) => item.nodeId);
    throw new MoorageError(
      'FAILED_PRECONDITION',
      `The volume ${volume.id} is exported to ${nodes.join(' and ')} (${volume.exportIds.join(', ')}). Unexport it first.`,
      {
        reason: 'VOLUME_IN_USE',
        metadata: { volume_id: volume.id, node_ids: nodes.join(','), export_ids: volume.exportIds.join(',') },
      },
    );
  }
  if (volume.state === 'creating') {
    throw new MoorageError(
      'ABORTED',
      `The volume ${volume.id} is being made by ${volume.operationId}. Delete it after that.`,
      {
        reason: 'OPERATION_IN_PROGRESS',
        metadata: { volume_id: volume.id, operation_id: volume.operationId ?? '' },
        retryAfterMilliseconds: 500,
      },
    );
  }
}

/** The use cases of volumes. */
export class Volumes implements VolumeService {
  private readonly core: CoreContext;
  private readonly journal: Journal;
  private readonly trash: TrashKind<Volume>;
  private readonly labels: LabelKind<Volume>;

  constructor(core: CoreContext, journal: Journal) {
    this.core = core;
    this.journal = journal;
    this.trash = volumeTrash(core);
    this.labels = volumeLabels(core);
  }

  async create(request: CreateVolume, caller: Caller): Promise<Changed<Versioned<Volume>>> {
    requireClientToken(request.clientToken);
    checkCreateVolume(request);
    if (request.validateOnly) {
      const { volume } = await intendCreateVolume(this.core, request);
      return { resource: { value: { ...volume, id: '' }, etag: '' }, operationId: '' };
    }
    return this.change('CreateVolume', request, caller, () => intendCreateVolume(this.core, request));
  }

  async get(id: string, _caller: Caller): Promise<Versioned<Volume>> {
    requireId('vol', 'volume_id', id);
    return versioned(await getVolume(this.core.store, id));
  }

  list(request: ListVolumes, caller: Caller): Promise<Page<Volume>> {
    const { poolId, sourceSnapshotId, states, tags } = request;
    if (sourceSnapshotId !== '') requireId('snap', 'source_snapshot_id', sourceSnapshotId);
    const wanted = new Set(states);
    const wantedTags = Object.entries(tags);
    return listPage<Volume>(this.core.store, this.core.vault, request, caller, {
      filter: ['ListVolumes', poolId, sourceSnapshotId, [...states].sort(), wantedTags.sort()],
      index: volumeIndex(request),
      fits: (volume) =>
        (wanted.size === 0 ? volume.state !== 'deleted' && volume.state !== 'purging' : wanted.has(volume.state)) &&
        (poolId === '' || volume.poolId === poolId) &&
        wantedTags.every(([name, value]) => volume.tags[name] === value),
    });
  }

  async update(request: UpdateLabels, caller: Caller): Promise<Changed<Versioned<Volume>>> {
    requireClientToken(request.clientToken);
    requireId('vol', 'volume_id', request.id);
    if (request.validateOnly) {
      const { changed } = await intendRelabel(this.core, this.labels, request);
      return { resource: { value: changed, etag: '' }, operationId: '' };
    }
    return this.change('UpdateVolume', request, caller, () => intendRelabel(this.core, this.labels, request));
  }

  async expand(request: ExpandVolume, caller: Caller): Promise<Changed<Versioned<Volume>>> {
    requireClientToken(request.clientToken);
    requireId('vol', 'volume_id', request.id);
    if (request.validateOnly) {
      const { document } = await intendExpandVolume(this.core, request);
      return { resource: versioned(document), operationId: '' };
    }
    return this.change('ExpandVolume', request, caller, () => intendExpandVolume(this.core, request));
  }

  async delete(request: ResourceMutation, caller: Caller): Promise<Changed<Versioned<Volume> | undefined>> {
    requireClientToken(request.clientToken);
    requireId('vol', 'volume_id', request.id);
    if (request.validateOnly) {
      const { document } = await intendDelete(this.core, this.trash, request);
      return { resource: document === undefined ? undefined : versioned(document), operationId: '' };
    }
    const recorded = await this.journal.record({
      method: 'DeleteVolume',
      principal: caller.name,
      clientToken: request.clientToken,
      parameters: { id: request.id, etag: request.etag },
      intend: () => intendDelete(this.core, this.trash, request),
    });
    await settle(this.journal, this.core.clock, recorded, caller);
    const document = await findVolume(this.core.store, request.id);
    const resource = document.value.state === 'gone' ? undefined : await this.get(request.id, caller);
    return { resource, operationId: recorded.operationId };
  }

  async undelete(request: ResourceMutation, caller: Caller): Promise<Changed<Versioned<Volume>>> {
    requireClientToken(request.clientToken);
    requireId('vol', 'volume_id', request.id);
    if (request.validateOnly) {
      const { document } = await intendUndelete(this.core, this.trash, request);
      return { resource: versioned(document), operationId: '' };
    }
    return this.change('UndeleteVolume', request, caller, () => intendUndelete(this.core, this.trash, request));
  }

  private async change(
    method: string,
    request: CreateVolume | ResourceMutation,
    caller: Caller,
    intend: Parameters<Journal['record']>[0]['intend'],
  ): Promise<Changed<Versioned<Volume>>> {
    const { clientToken, validateOnly: _, ...parameters } = request;
    const recorded = await this.journal.record({ method, principal: caller.name, clientToken, parameters, intend });
    await settle(this.journal, this.core.clock, recorded, caller);
    return {
      resource: versioned(await getVolume(this.core.store, recorded.resourceId)),
      operationId: recorded.operationId,
    };
  }
}

/** The narrowest index that holds all that fits. */
function volumeIndex(request: ListVolumes): string {
  if (request.sourceSnapshotId !== '') return indexes.volumesOfSnapshot(request.sourceSnapshotId);
  if (request.poolId !== '') return indexes.volumesOfPool(request.poolId);
  return request.states.length === 0 ? indexes.volumes : indexes.volumesAll;
}
