import { invalidField, MoorageError, notFound } from '../../errors.js';
import { keys } from '../../journal/documents.js';
import type { Export, Grant, Node } from '../../model/resources.js';
import type { StoredDocument } from '../../ports/store.js';
import type { CoreContext } from '../context.js';
import type { Caller, ExportVolume } from '../types.js';
import type { Wish } from './rules.js';

/* By what right a volume is exported: a grant, redeemed by the node that it names, or an administrator's own word. */

/** How long a descriptor can be connected with when nothing is said, in milliseconds. */
export const DEFAULT_DESCRIPTOR_LIFETIME = 60 * 60 * 1000;

/** By what right an export is made, and what that says of it. */
export interface Authority {
  readonly wish: Wish;
  readonly grant: StoredDocument<Grant> | undefined;
  readonly descriptorLifetimeMilliseconds: number;
}

/** By what right the caller exports. @throws MoorageError when he has none */
export async function authorise(core: CoreContext, request: ExportVolume, caller: Caller): Promise<Authority> {
  if (request.grantId !== '') {
    const grant = await findGrant(core, request, caller);
    const { nodeId, instance, migration, readOnly } = grant.value;
    return {
      wish: { nodeId, instance, migration, readOnly },
      grant,
      descriptorLifetimeMilliseconds: DEFAULT_DESCRIPTOR_LIFETIME,
    };
  }
  const { direct } = request;
  if (caller.role === 'admin' && direct === undefined) {
    throw invalidField('authority', 'is required: grant_id, or direct for an administrator');
  }
  if (caller.role !== 'admin' || direct === undefined) {
    throw new MoorageError('PERMISSION_DENIED', 'grant_id: a node exports by a grant; ask for one with GrantExport.', {
      reason: 'GRANT_REQUIRED',
    });
  }
  const lifetime = direct.descriptorLifetimeMilliseconds;
  return {
    wish: direct,
    grant: undefined,
    descriptorLifetimeMilliseconds: lifetime === 0 ? DEFAULT_DESCRIPTOR_LIFETIME : lifetime,
  };
}

/** The grant, when this caller may redeem it for this volume. Someone else's looks like none at all. */
async function findGrant(core: CoreContext, request: ExportVolume, caller: Caller): Promise<StoredDocument<Grant>> {
  const document = await core.store.get<Grant>(keys.grant(request.grantId));
  if (document === undefined && caller.role === 'admin') throw notFound('grant', request.grantId);
  const mine = caller.role === 'admin' || document?.value.nodeId === caller.name;
  if (document === undefined || !mine || document.value.volumeId !== request.volumeId) {
    throw new MoorageError(
      'PERMISSION_DENIED',
      `grant_id: ${request.grantId} is no grant of this node for this volume.`,
      {
        reason: 'GRANT_NOT_YOURS',
      },
    );
  }
  if (document.value.exportId === '' && document.value.revokeTime !== undefined) {
    const when = new Date(document.value.revokeTime).toISOString();
    throw new MoorageError(
      'FAILED_PRECONDITION',
      `The grant ${request.grantId} was taken back at ${when}. Ask for another one.`,
      {
        reason: 'GRANT_REVOKED',
        metadata: { grant_id: request.grantId },
      },
    );
  }
  if (document.value.exportId === '' && document.value.expireTime <= core.clock.now()) {
    const when = new Date(document.value.expireTime).toISOString();
    throw new MoorageError(
      'FAILED_PRECONDITION',
      `The grant ${request.grantId} expired at ${when}. Ask for another one.`,
      {
        reason: 'GRANT_EXPIRED',
        metadata: { grant_id: request.grantId },
      },
    );
  }
  return document;
}

/** Who has a node's name now may be another machine, with another key. @throws MoorageError FAILED_PRECONDITION */
export function requireGrantedTo(node: Node, grant: Grant | undefined): void {
  if (grant === undefined || grant.nodeRegistration === node.registration) return;
  throw new MoorageError(
    'FAILED_PRECONDITION',
    `The grant ${grant.id} is from before the node ${grant.nodeId} was registered as it is now. Ask for another one.`,
    { reason: 'NODE_REPLACED', metadata: { grant_id: grant.id, node_id: grant.nodeId } },
  );
}

/** The export that redeemed the grant, while it lives. @throws MoorageError FAILED_PRECONDITION when it has ended */
export async function redeemedExport(
  core: CoreContext,
  grant: StoredDocument<Grant> | undefined,
): Promise<Export | undefined> {
  if (grant === undefined || grant.value.exportId === '') return undefined;
  const document = await core.store.get<Export>(keys.export(grant.value.exportId));
  if (document !== undefined && (document.value.state === 'exported' || document.value.state === 'exporting')) {
    return document.value;
  }
  throw new MoorageError(
    'FAILED_PRECONDITION',
    `The grant ${grant.value.id} was redeemed by ${grant.value.exportId}, which has ended. Ask for another one.`,
    { reason: 'GRANT_REDEEMED', metadata: { grant_id: grant.value.id, export_id: grant.value.exportId } },
  );
}
