import { createHash } from 'node:crypto';
import { invalidField, MoorageError, notFound } from '../../errors.js';
import type { Intent } from '../../journal/definition.js';
import { putNode } from '../../journal/documents.js';
import type { Journal } from '../../journal/journal.js';
import type { Node } from '../../model/resources.js';
import { requireClientToken, requireName } from '../../model/validation.js';
import { type CoreContext, getNode, requireEtag, versioned } from '../context.js';
import { requirePublicKey } from '../node-settings.js';
import type { Caller, RotatedNodeKey, RotateNodeKey } from '../types.js';

/*
 * ROTATION
 *
 * Descriptors are sealed afresh for each answer, so that with the commit here every Export that follows is for the new key and
 * nothing that is attached notices. A node that rotates its own proves that it has the key of before: with its certificate
 * alone, stolen, nobody gets descriptors that he can open. An administrator needs no proof: the key may be lost.
 */

/** How long a node's former certificate is taken beside the new one, which may have been lost on its way: an hour. */
const FORMER_CERTIFICATE_MILLISECONDS = 60 * 60 * 1000;

/** Former keys of a node that are kept in mind, so that none comes back. */
const MOST_FORMER_KEYS = 16;

const MOST_PROOFS = 16;

/** Gives a node another key, another certificate, or both. */
export async function rotateNodeKey(
  core: CoreContext,
  journal: Journal,
  request: RotateNodeKey,
  caller: Caller,
): Promise<RotatedNodeKey> {
  requireClientToken(request.clientToken);
  requireName('node_id', request.nodeId);
  // Another node looks as if it were none.
  if (caller.role === 'node' && caller.name !== request.nodeId) throw notFound('node', request.nodeId);
  const { issuer } = core;
  const asksCertificate = request.certificateRequest.length > 0;
  if (request.publicKey.length === 0 && !asksCertificate) {
    throw invalidField('public_key', 'is required, or certificate_request: there is nothing else to rotate');
  }
  if (request.publicKey.length > 0) requirePublicKey(request.publicKey);
  if (request.proofs.length > MOST_PROOFS) throw invalidField('proofs', `must be at most ${MOST_PROOFS}`);
  if (asksCertificate && issuer === undefined) {
    throw new MoorageError('FAILED_PRECONDITION', 'certificate_request: this controller signs no certificates.', {
      reason: 'NO_AUTHORITY',
    });
  }
  const publicKeyId = request.publicKey.length === 0 ? undefined : core.sealer.publicKeyId(request.publicKey);
  const certificateKeyId = asksCertificate ? await issuer?.keyIdOf(request.certificateRequest) : undefined;
  const wanted = { publicKeyId, certificateKeyId };
  const intend = () => intendRotate(core, request, caller, wanted);
  if (request.validateOnly) {
    const { node } = await intend();
    return { node: { value: node, etag: '' }, certificate: '', authority: '' };
  }
  const { clientToken, nodeId, etag } = request;
  // Proofs differ from one call to the next.
  const call = {
    method: 'RotateNodeKey',
    principal: caller.name,
    clientToken,
    parameters: { nodeId, etag, ...wanted },
  };
  await journal.record({ ...call, intend });
  const node = versioned(await getNode(core.store, nodeId));
  const signs = issuer !== undefined && asksCertificate && node.value.certificateKeyId === certificateKeyId;
  return {
    node,
    certificate: signs ? await issuer.issue(request.certificateRequest, nodeId) : '',
    authority: signs ? issuer.authority : '',
  };
}

interface Wanted {
  readonly publicKeyId: string | undefined;
  readonly certificateKeyId: string | undefined;
}

async function intendRotate(
  core: CoreContext,
  request: RotateNodeKey,
  caller: Caller,
  { publicKeyId, certificateKeyId }: Wanted,
): Promise<Intent & { readonly node: Node }> {
  const document = await getNode(core.store, request.nodeId);
  const node = document.value;
  const newKey = publicKeyId !== undefined && publicKeyId !== node.publicKeyId;
  const newCertificate = certificateKeyId !== undefined && certificateKeyId !== node.certificateKeyId;
  if (!newKey && !newCertificate) return { intent: 'nothing', resourceId: node.id, operationId: '', node };
  requireEtag(document, request.etag);
  if (caller.role === 'node') requireProof(core, node, request);
  const former = node.formerKeyIds ?? [];
  if (newKey && former.includes(publicKeyId)) {
    throw new MoorageError(
      'FAILED_PRECONDITION',
      `public_key: ${node.id} had the key ${publicKeyId} before. Make another one.`,
      {
        reason: 'KEY_USED_BEFORE',
        metadata: { node_id: node.id, public_key_id: publicKeyId },
      },
    );
  }
  const now = core.clock.now();
  const changed: Node = {
    ...node,
    ...(newKey && {
      publicKey: Buffer.from(request.publicKey).toString('base64'),
      publicKeyId,
      formerKeyIds: [node.publicKeyId, ...former].slice(0, MOST_FORMER_KEYS),
    }),
    ...(newCertificate && { certificateKeyId, ...formerCertificate(node, now) }),
    updateTime: now,
  };
  return { intent: 'immediate', resourceId: node.id, writes: [putNode(changed, document.rev)], node: changed };
}

function formerCertificate(node: Node, now: number): Pick<Node, 'formerCertificate'> {
  if (node.certificateKeyId === undefined) return {};
  return { formerCertificate: { keyId: node.certificateKeyId, expireTime: now + FORMER_CERTIFICATE_MILLISECONDS } };
}

/** @throws MoorageError PERMISSION_DENIED unless one of the proofs was made with the key that the node has now */
function requireProof(core: CoreContext, node: Node, request: RotateNodeKey): void {
  if (node.fence !== undefined) {
    throw new MoorageError('FAILED_PRECONDITION', `The node ${node.id} is fenced.`, { reason: 'NODE_FENCED' });
  }
  const content = rotationContent(node.id, request.publicKey, request.certificateRequest);
  const proven = request.proofs.some((proof) => core.sealer.isFromNode(proof, content, node.publicKey));
  if (proven) return;
  throw new MoorageError(
    'PERMISSION_DENIED',
    `proofs: none of them was made with the key ${node.publicKeyId} of ${node.id} for this change.`,
    { reason: 'NOT_PROVEN', metadata: { node_id: node.id, public_key_id: node.publicKeyId } },
  );
}

/** What a proof says: this node, this new key, this certificate request. docs/descriptor.md describes it. */
export function rotationContent(nodeId: string, publicKey: Uint8Array, certificateRequest: Uint8Array): Uint8Array {
  const hex = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
  return new TextEncoder().encode(
    ['moorage node key rotation v1', nodeId, hex(publicKey), hex(certificateRequest)].join('\n'),
  );
}
