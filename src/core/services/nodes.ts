import { randomUUID } from 'node:crypto';
import { MoorageError } from '../errors.js';
import type { Intent } from '../journal/definition.js';
import {
  expireDependents,
  forgetEnrollment,
  indexes,
  KEPT_MILLISECONDS,
  keys,
  putNode,
  removeNode,
} from '../journal/documents.js';
import type { Journal } from '../journal/journal.js';
import type { Node } from '../model/resources.js';
import { requireClientToken, requireName, requireText } from '../model/validation.js';
import { type CoreContext, getNode, requireEtag, settle, versioned } from './context.js';
import { intendFence, intendUnfence } from './node-fence.js';
import { requireInitiatorName, requireNodeSettings, requirePublicKey } from './node-settings.js';
import { listPage } from './page-tokens.js';
import type {
  Caller,
  Changed,
  FenceNode,
  NodeService,
  Page,
  PageRequest,
  RegisterNode,
  ResourceMutation,
  UnfenceNode,
  UpdateNode,
  Versioned,
} from './types.js';
import { readUpdateMask, sameTags } from './update-mask.js';

/** The use cases of nodes. */
export class Nodes implements NodeService {
  private readonly core: CoreContext;
  private readonly journal: Journal;

  constructor(core: CoreContext, journal: Journal) {
    this.core = core;
    this.journal = journal;
  }

  async register(request: RegisterNode, caller: Caller): Promise<Changed<Versioned<Node>>> {
    requireClientToken(request.clientToken);
    const wanted = this.nodeOf(request);
    const intend = async () => {
      const known = await this.core.store.get<Node>(keys.node(wanted.id));
      if (known === undefined) {
        return { intent: 'immediate' as const, resourceId: wanted.id, writes: [putNode(wanted, 'absent')] };
      }
      if (isSame(known.value, wanted)) return { intent: 'nothing' as const, resourceId: wanted.id, operationId: '' };
      throw new MoorageError(
        'ALREADY_EXISTS',
        `node_id: there is a node ${wanted.id} already, with another key (${known.value.publicKeyId}) or other settings.`,
        { reason: 'NODE_EXISTS', metadata: { node_id: wanted.id, public_key_id: known.value.publicKeyId } },
      );
    };
    if (request.validateOnly) {
      await intend();
      return { resource: { value: wanted, etag: '' }, operationId: '' };
    }
    const { clientToken, validateOnly: _, publicKey: __, ...parameters } = request;
    await this.journal.record({
      method: 'RegisterNode',
      principal: caller.name,
      clientToken,
      parameters: { ...parameters, publicKey: wanted.publicKey },
      intend,
    });
    return { resource: versioned(await getNode(this.core.store, wanted.id)), operationId: '' };
  }

  async get(id: string, _caller: Caller): Promise<Versioned<Node>> {
    requireName('node_id', id);
    return versioned(await getNode(this.core.store, id));
  }

  list(request: PageRequest, caller: Caller): Promise<Page<Node>> {
    return listPage<Node>(this.core.store, this.core.vault, request, caller, {
      filter: ['ListNodes'],
      index: indexes.nodes,
      fits: () => true,
    });
  }

  async update(request: UpdateNode, caller: Caller): Promise<Changed<Versioned<Node>>> {
    requireClientToken(request.clientToken);
    requireName('node_id', request.id);
    const mask = readUpdateMask(request.updateMask, ['initiator_name']);
    if (mask.has('initiator_name')) requireInitiatorName(request.initiatorName);
    const intend = async () => {
      const document = await getNode(this.core.store, request.id);
      requireEtag(document, request.etag);
      const node = document.value;
      const tags = mask.tags(node.tags, request.tags);
      const initiatorName = mask.has('initiator_name') ? request.initiatorName : node.initiatorName;
      const same = sameTags(tags, node.tags) && initiatorName === node.initiatorName;
      const changed = same ? node : { ...node, tags, initiatorName, updateTime: this.core.clock.now() };
      const write = same
        ? { kind: 'check' as const, key: document.key, expect: document.rev }
        : putNode(changed, document.rev);
      return { intent: 'immediate' as const, resourceId: node.id, writes: [write], changed };
    };
    if (request.validateOnly) return { resource: { value: (await intend()).changed, etag: '' }, operationId: '' };
    const { clientToken, validateOnly: _, ...parameters } = request;
    await this.journal.record({ method: 'UpdateNode', principal: caller.name, clientToken, parameters, intend });
    return { resource: versioned(await getNode(this.core.store, request.id)), operationId: '' };
  }

  async remove(request: ResourceMutation, caller: Caller): Promise<void> {
    requireClientToken(request.clientToken);
    requireName('node_id', request.id);
    const intend = async () => {
      // Before the look at the exports: the removal passes only if none began since.
      const begun = await this.core.store.get(keys.nodeExports(request.id));
      const document = await this.core.store.get<Node>(keys.node(request.id));
      if (document === undefined) return { intent: 'nothing' as const, resourceId: request.id, operationId: '' };
      requireEtag(document, request.etag);
      const { fence } = document.value;
      if (fence !== undefined && fence.state !== 'fenced') {
        throw new MoorageError(
          'ABORTED',
          `The node ${request.id} is being fenced or let in again by ${fence.operationId}. Remove it after that.`,
          {
            reason: 'OPERATION_IN_PROGRESS',
            metadata: { node_id: request.id, operation_id: fence.operationId },
            retryAfterMilliseconds: 500,
          },
        );
      }
      const exports = await this.core.store.list<{ readonly id: string }>(indexes.exportsOfNode(request.id), {
        limit: 10,
      });
      if (exports.documents.length > 0) {
        const ids = exports.documents.map((item) => item.value.id).join(', ');
        throw new MoorageError(
          'FAILED_PRECONDITION',
          `The node ${request.id} has exports (${ids}). Unexport them first.`,
          {
            reason: 'NODE_IN_USE',
            metadata: { node_id: request.id, export_ids: ids },
          },
        );
      }
      const now = this.core.clock.now();
      const tokenExpireTime = now + KEPT_MILLISECONDS;
      const tokens = await expireDependents(this.core.store, request.id, tokenExpireTime);
      const enrollment = await this.core.store.get(keys.enrollment(request.id));
      return {
        intent: 'immediate' as const,
        resourceId: request.id,
        writes: [...removeNode(document, begun, now), ...tokens, ...forgetEnrollment(enrollment)],
        tokenExpireTime,
      };
    };
    if (request.validateOnly) {
      await intend();
      return;
    }
    await this.journal.record({
      method: 'RemoveNode',
      principal: caller.name,
      clientToken: request.clientToken,
      parameters: { id: request.id, etag: request.etag },
      intend,
    });
  }

  async fence(request: FenceNode, caller: Caller): Promise<Changed<Versioned<Node>>> {
    requireText('reason', request.reason);
    const { id, etag, reason } = request;
    const intend = () => intendFence(this.core, request);
    return this.change('FenceNode', request, { id, etag, reason }, intend, caller);
  }

  async unfence(request: UnfenceNode, caller: Caller): Promise<Changed<Versioned<Node>>> {
    const { id, etag, clientsAreDead } = request;
    const intend = () => intendUnfence(this.core, request);
    return this.change('UnfenceNode', request, { id, etag, clientsAreDead }, intend, caller);
  }

  private async change(
    method: string,
    request: ResourceMutation,
    parameters: unknown,
    intend: () => Promise<Intent>,
    caller: Caller,
  ): Promise<Changed<Versioned<Node>>> {
    const { id, clientToken } = request;
    requireClientToken(clientToken);
    requireName('node_id', id);
    if (request.validateOnly) {
      await intend();
      return { resource: await this.get(id, caller), operationId: '' };
    }
    const recorded = await this.journal.record({
      method,
      principal: caller.name,
      clientToken,
      parameters,
      intend,
    });
    await settle(this.journal, this.core.clock, recorded, caller);
    return { resource: versioned(await getNode(this.core.store, id)), operationId: recorded.operationId };
  }

  private nodeOf(request: RegisterNode): Node {
    requireName('node_id', request.nodeId);
    requirePublicKey(request.publicKey);
    requireNodeSettings(request);
    const now = this.core.clock.now();
    return {
      id: request.nodeId,
      registration: randomUUID(),
      publicKey: Buffer.from(request.publicKey).toString('base64'),
      publicKeyId: this.core.sealer.publicKeyId(request.publicKey),
      storageAddresses: request.storageAddresses,
      initiatorName: request.initiatorName,
      tags: request.tags,
      createTime: now,
      updateTime: now,
    };
  }
}

function isSame(a: Node, b: Node): boolean {
  const essence = ({ publicKey, storageAddresses, initiatorName, tags }: Node) =>
    JSON.stringify([publicKey, storageAddresses, initiatorName, Object.entries(tags).sort()]);
  return essence(a) === essence(b);
}
