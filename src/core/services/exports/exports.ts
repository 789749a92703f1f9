import { invalidField, notFound } from '../../errors.js';
import { indexes, keys, putGrant } from '../../journal/documents.js';
import type { Journal } from '../../journal/journal.js';
import { isId, newId, requireId } from '../../model/ids.js';
import type { Export, Grant } from '../../model/resources.js';
import { requireClientToken, requireName, requireText } from '../../model/validation.js';
import { type CoreContext, findExport, getExport, getNode, getPool, getVolume, settle, versioned } from '../context.js';
import { requireImage } from '../identity.js';
import { requireNotFenced } from '../node-fence.js';
import { listPage } from '../page-tokens.js';
import type {
  Caller,
  Changed,
  Exported,
  ExportService,
  ExportVolume,
  GrantExport,
  ListExports,
  Page,
  RevokeGrant,
  Unexport,
  Versioned,
} from '../types.js';
import { requireAvailable } from '../volumes/expand-volume.js';
import { intendExport } from './create-export.js';
import { intendUnexport } from './remove-export.js';

const DEFAULT_GRANT_LIFETIME = 10 * 60 * 1000;
const LONGEST_LIFETIME = 24 * 60 * 60 * 1000;

/** The use cases of grants and exports. */
export class Exports implements ExportService {
  private readonly core: CoreContext;
  private readonly journal: Journal;

  constructor(core: CoreContext, journal: Journal) {
    this.core = core;
    this.journal = journal;
  }

  async grant(request: GrantExport, caller: Caller): Promise<Changed<Grant>> {
    requireClientToken(request.clientToken);
    requireId('vol', 'volume_id', request.volumeId);
    requireName('node_id', request.nodeId);
    requireText('instance', request.instance);
    requireLifetime('lifetime', request.lifetimeMilliseconds);
    if (request.migration && request.instance === '') {
      throw invalidField('instance', 'is required for a migration: the machine that moves');
    }
    const lifetime = request.lifetimeMilliseconds === 0 ? DEFAULT_GRANT_LIFETIME : request.lifetimeMilliseconds;
    const intend = async () => {
      const volume = await getVolume(this.core.store, request.volumeId);
      requireAvailable(volume.value);
      const node = await getNode(this.core.store, request.nodeId);
      const now = this.core.clock.now();
      const { volumeId, nodeId, instance, migration, readOnly } = request;
      const grant: Grant = {
        id: newId('grant'),
        volumeId,
        nodeId,
        instance,
        migration,
        readOnly,
        expireTime: now + lifetime,
        createTime: now,
        exportId: '',
        nodeRegistration: node.value.registration,
      };
      return {
        intent: 'immediate' as const,
        resourceId: grant.id,
        writes: [putGrant(grant, 'absent'), { kind: 'check' as const, key: node.key, expect: node.rev }],
        grant,
      };
    };
    if (request.validateOnly) return { resource: { ...(await intend()).grant, id: '' }, operationId: '' };
    const { clientToken, validateOnly: _, ...parameters } = request;
    const recorded = await this.journal.record({
      method: 'GrantExport',
      principal: caller.name,
      clientToken,
      parameters,
      intend,
    });
    const document = await this.core.store.get<Grant>(keys.grant(recorded.resourceId));
    if (document === undefined) throw notFound('grant', recorded.resourceId);
    return { resource: document.value, operationId: '' };
  }

  async revokeGrant(request: RevokeGrant, caller: Caller): Promise<Changed<Grant>> {
    requireClientToken(request.clientToken);
    requireId('grant', 'grant_id', request.grantId);
    const intend = async () => {
      const document = await this.core.store.get<Grant>(keys.grant(request.grantId));
      if (document === undefined) throw notFound('grant', request.grantId);
      const nothing = { intent: 'nothing' as const, resourceId: request.grantId, operationId: '' };
      if (document.value.revokeTime !== undefined) return { ...nothing, grant: document.value };
      const grant = { ...document.value, revokeTime: this.core.clock.now() };
      // Whoever redeems it at this moment checks its revision too.
      const writes = [putGrant(grant, document.rev)];
      return { intent: 'immediate' as const, resourceId: grant.id, writes, grant };
    };
    if (request.validateOnly) return { resource: (await intend()).grant, operationId: '' };
    const { clientToken, grantId } = request;
    const call = { method: 'RevokeGrant', principal: caller.name, clientToken, parameters: { grantId }, intend };
    await this.journal.record(call);
    const document = await this.core.store.get<Grant>(keys.grant(grantId));
    if (document === undefined) throw notFound('grant', grantId);
    return { resource: document.value, operationId: '' };
  }

  async export(request: ExportVolume, caller: Caller): Promise<Exported> {
    requireClientToken(request.clientToken);
    requireId('vol', 'volume_id', request.volumeId);
    checkAuthority(request);
    if (request.validateOnly) {
      const { item } = await intendExport(this.core, request, caller);
      const resource = { value: { ...item, id: '' }, etag: '' };
      return { resource, operationId: '', descriptor: new Uint8Array(), descriptorExpireTime: undefined };
    }
    const { clientToken, validateOnly: _, ...parameters } = request;
    const recorded = await this.journal.record({
      method: 'Export',
      principal: caller.name,
      clientToken,
      parameters,
      intend: () => intendExport(this.core, request, caller),
    });
    await settle(this.journal, this.core.clock, recorded, caller);
    // A client token is known by its caller's name alone, and an administrator may have the name of a node.
    await this.requireOwn(recorded.resourceId, caller);
    return this.answer(recorded.resourceId, recorded.operationId);
  }

  async unexport(request: Unexport, caller: Caller): Promise<Changed<Versioned<Export> | undefined>> {
    requireClientToken(request.clientToken);
    requireId('exp', 'export_id', request.exportId);
    await this.requireOwn(request.exportId, caller);
    if (request.validateOnly) {
      const { document } = await intendUnexport(this.core, request, caller);
      return { resource: document === undefined ? undefined : versioned(document), operationId: '' };
    }
    const recorded = await this.journal.record({
      method: 'Unexport',
      principal: caller.name,
      clientToken: request.clientToken,
      parameters: { exportId: request.exportId, force: request.force },
      intend: () => intendUnexport(this.core, request, caller),
    });
    await settle(this.journal, this.core.clock, recorded, caller);
    const document = await findExport(this.core.store, request.exportId);
    const resource = document.value.state === 'gone' ? undefined : await this.get(request.exportId, caller);
    return { resource, operationId: recorded.operationId };
  }

  async get(id: string, caller: Caller): Promise<Versioned<Export>> {
    requireId('exp', 'export_id', id);
    await this.requireOwn(id, caller);
    return versioned(await getExport(this.core.store, id));
  }

  /** Another node's export looks as if it never was, to a node, also once it is gone. @throws MoorageError NOT_FOUND */
  private async requireOwn(id: string, caller: Caller): Promise<void> {
    if (caller.role !== 'node') return;
    const document = await findExport(this.core.store, id);
    if (document.value.nodeId !== caller.name) throw notFound('export', id);
  }

  list(request: ListExports, caller: Caller): Promise<Page<Export>> {
    const { volumeId } = request;
    const nodeId = caller.role === 'node' ? caller.name : request.nodeId;
    if (volumeId !== '') requireId('vol', 'volume_id', volumeId);
    return listPage<Export>(this.core.store, this.core.vault, request, caller, {
      filter: ['ListExports', volumeId, nodeId],
      // A page that ends early would say how many exports of others a volume has.
      index: caller.role === 'node' ? indexes.exportsOfNode(nodeId) : exportIndex(volumeId, nodeId),
      fits: (item) => (volumeId === '' || item.volumeId === volumeId) && (nodeId === '' || item.nodeId === nodeId),
    });
  }

  /** The answer with a fresh descriptor, from what the store and the pool's facts hold: no agent is asked. */
  private async answer(exportId: string, operationId: string): Promise<Exported> {
    const document = await getExport(this.core.store, exportId);
    const item = document.value;
    const resource = versioned(document);
    if (item.state !== 'exported' || item.sealedAccess === undefined) {
      return { resource, operationId, descriptor: new Uint8Array(), descriptorExpireTime: undefined };
    }
    const node = (await getNode(this.core.store, item.nodeId)).value;
    requireNotFenced(node);
    const volume = (await getVolume(this.core.store, item.volumeId)).value;
    const pool = (await getPool(this.core.store, item.poolId)).value;
    const facts = await this.core.backend().data.connectorFacts(pool);
    const issueTime = this.core.clock.now();
    const expireTime = issueTime + item.descriptorLifetimeMilliseconds;
    const accessJson = this.core.vault.open(item.sealedAccess, `export/${item.id}`);
    try {
      const descriptor = this.core.sealer.seal(
        {
          exportId: item.id,
          volumeId: item.volumeId,
          nodeId: item.nodeId,
          sizeBytes: volume.sizeBytes,
          readOnly: item.readOnly,
          issueTime,
          expireTime,
          connector: facts.connector,
          imageName: requireImage(volume).name,
          poolJson: facts.connectorJson,
          accessJson,
        },
        node.publicKey,
      );
      return { resource, operationId, descriptor, descriptorExpireTime: expireTime };
    } finally {
      accessJson.fill(0);
    }
  }
}

function exportIndex(volumeId: string, nodeId: string): string {
  if (volumeId !== '') return indexes.exportsOfVolume(volumeId);
  return nodeId === '' ? indexes.exports : indexes.exportsOfNode(nodeId);
}

function checkAuthority(request: ExportVolume): void {
  const { direct, grantId } = request;
  if ((grantId === '') === (direct === undefined) && grantId !== '') {
    throw invalidField('authority', 'must be either grant_id or direct, not both');
  }
  if (grantId !== '' && !isId('grant', grantId)) requireId('grant', 'grant_id', grantId);
  if (direct === undefined) return;
  requireName('direct.node_id', direct.nodeId);
  requireText('direct.instance', direct.instance);
  requireLifetime('direct.descriptor_lifetime', direct.descriptorLifetimeMilliseconds);
  if (direct.migration && direct.instance === '') {
    throw invalidField('direct.instance', 'is required for a migration: the machine that moves');
  }
}

function requireLifetime(field: string, milliseconds: number): void {
  // Said this way round, so that NaN is refused too.
  if (milliseconds >= 0 && milliseconds <= LONGEST_LIFETIME) return;
  throw invalidField(field, 'must be more than 0 and at most 24 h, or unset');
}
