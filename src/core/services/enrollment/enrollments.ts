import { randomUUID } from 'node:crypto';
import { invalidField, MoorageError } from '../../errors.js';
import type { Intent } from '../../journal/definition.js';
import { KEPT_MILLISECONDS, keys, putEnrollment, putNode } from '../../journal/documents.js';
import type { Journal } from '../../journal/journal.js';
import { newId } from '../../model/ids.js';
import type { Enrollment, Node } from '../../model/resources.js';
import { requireClientToken, requireName } from '../../model/validation.js';
import type { StoredDocument } from '../../ports/store.js';
import { type CoreContext, getNode, versioned } from '../context.js';
import { requireNodeSettings, requirePublicKey } from '../node-settings.js';
import type {
  Caller,
  CreateEnrollmentToken,
  Enroll,
  Enrolled,
  EnrollmentService,
  EnrollmentToken,
  RotatedNodeKey,
  RotateNodeKey,
  Versioned,
} from '../types.js';
import { rotateNodeKey } from './rotate.js';
import { enrollmentToken, hashOfToken, isTokenOf, readEnrollmentToken } from './token.js';

/*
 * ENROLLMENT
 *
 * An administrator says which node may come and what it is to be known by, and gets a token that is good once and for a short
 * time. Whoever has it registers a key under that name: one commit, which ends the token. The same token with the same keys
 * again gives the same answer (a node that died in between), with others it is refused.
 *
 * Where the controller is an authority for nodes, the node gets its certificate with that, for a key that it proves to have,
 * and is known from then on by that key: another certificate of that name, of a former machine say, is refused.
 */

const DEFAULT_LIFETIME = 15 * 60 * 1000;
const LONGEST_LIFETIME = 24 * 60 * 60 * 1000;

/** Under which client tokens of Enroll are kept: its callers have no name. */
const ENROLLING = 'enrollment';

/** The use cases of enrollment and of what a node is known by. */
export class Enrollments implements EnrollmentService {
  private readonly core: CoreContext;
  private readonly journal: Journal;

  constructor(core: CoreContext, journal: Journal) {
    this.core = core;
    this.journal = journal;
  }

  async createToken(request: CreateEnrollmentToken, caller: Caller): Promise<EnrollmentToken> {
    requireClientToken(request.clientToken);
    requireName('node_id', request.nodeId);
    requireNodeSettings(request);
    const { lifetimeMilliseconds, nodeId, storageAddresses, initiatorName, tags } = request;
    if (!(lifetimeMilliseconds >= 0 && lifetimeMilliseconds <= LONGEST_LIFETIME)) {
      throw invalidField('lifetime', 'must be more than 0 and at most 24 h, or unset for 15 min');
    }
    const intend = async () => {
      const node = await this.core.store.get<Node>(keys.node(nodeId));
      if (node !== undefined) throw nodeExists(node.value);
      const former = await this.core.store.get<Enrollment>(keys.enrollment(nodeId));
      const now = this.core.clock.now();
      const id = newId('enr');
      const enrollment: Enrollment = {
        id,
        nodeId,
        tokenHash: hashOfToken(enrollmentToken(this.core.vault, id, nodeId)),
        storageAddresses,
        initiatorName,
        tags,
        createTime: now,
        expireTime: now + (lifetimeMilliseconds === 0 ? DEFAULT_LIFETIME : lifetimeMilliseconds),
      };
      return {
        intent: 'immediate' as const,
        resourceId: id,
        // One open token a node: an earlier one ends with this.
        writes: [putEnrollment(enrollment, former?.rev ?? 'absent')],
        tokenExpireTime: now + KEPT_MILLISECONDS,
        enrollment,
      };
    };
    if (request.validateOnly) return { token: '', expireTime: (await intend()).enrollment.expireTime };
    const { clientToken, validateOnly: _, ...parameters } = request;
    const call = { method: 'CreateEnrollmentToken', principal: caller.name, clientToken, parameters, intend };
    const { resourceId } = await this.journal.record(call);
    const document = await this.core.store.get<Enrollment>(keys.enrollment(nodeId));
    if (document?.value.id !== resourceId) {
      throw new MoorageError('FAILED_PRECONDITION', `There is a newer enrollment token for ${nodeId}.`, {
        reason: 'TOKEN_REPLACED',
        metadata: { node_id: nodeId },
      });
    }
    return {
      token: enrollmentToken(this.core.vault, resourceId, nodeId),
      expireTime: document.value.expireTime,
    };
  }

  async enroll(request: Enroll, _caller: Caller): Promise<Enrolled> {
    const { token, publicKey, certificateRequest } = request;
    if (token === '') throw invalidField('token', 'is required: what CreateEnrollmentToken answered');
    // First of all, because it costs least: anybody may call this.
    const { nodeId, id } = readEnrollmentToken(this.core.vault, token) ?? {};
    if (nodeId === undefined || id === undefined) throw tokenRefused();
    requirePublicKey(publicKey);
    const publicKeyId = this.core.sealer.publicKeyId(publicKey);
    const certificateKeyId = await this.keyIdOf(certificateRequest);
    const wanted = { publicKey: Buffer.from(publicKey).toString('base64'), publicKeyId, certificateKeyId };
    const intend = () => this.intendEnroll(token, nodeId, wanted);
    await this.journal.record({
      method: 'Enroll',
      principal: ENROLLING,
      // Other keys are another call, and refused as such.
      clientToken: `${id}/${publicKeyId}/${certificateKeyId ?? ''}`,
      parameters: {},
      intend,
    });
    // Also when the call was recorded before: the node may have been removed since, or have other keys.
    await intend();
    return this.answer(await getNode(this.core.store, nodeId), certificateRequest);
  }

  rotateKey(request: RotateNodeKey, caller: Caller): Promise<RotatedNodeKey> {
    return rotateNodeKey(this.core, this.journal, request, caller);
  }

  async admit(caller: Caller): Promise<void> {
    if (caller.role !== 'node') return;
    const node = (await this.core.store.get<Node>(keys.node(caller.name)))?.value;
    if (node === undefined) {
      throw new MoorageError(
        'PERMISSION_DENIED',
        `There is no node ${caller.name}: it was removed, or never enrolled.`,
        {
          reason: 'NODE_UNKNOWN',
        },
      );
    }
    const { certificateKeyId, formerCertificate } = node;
    if (certificateKeyId === undefined || certificateKeyId === caller.certificateKeyId) return;
    const isFormer = formerCertificate !== undefined && formerCertificate.keyId === caller.certificateKeyId;
    if (isFormer && this.core.clock.now() < formerCertificate.expireTime) return;
    throw new MoorageError(
      'PERMISSION_DENIED',
      `The certificate is not the one that the node ${caller.name} has now.`,
      { reason: 'CERTIFICATE_REPLACED' },
    );
  }

  private async intendEnroll(
    token: string,
    nodeId: string,
    wanted: Pick<Node, 'publicKey' | 'publicKeyId'> & { readonly certificateKeyId: string | undefined },
  ): Promise<Intent> {
    const { store, clock } = this.core;
    const document = await store.get<Enrollment>(keys.enrollment(nodeId));
    if (document === undefined || !isTokenOf(document.value, token)) throw tokenRefused();
    const enrollment = document.value;
    const node = await store.get<Node>(keys.node(nodeId));
    if (enrollment.registration !== undefined) {
      if (isEnrolled(enrollment, node, wanted)) return { intent: 'nothing', resourceId: nodeId, operationId: '' };
      throw new MoorageError('FAILED_PRECONDITION', 'The token was used, with other keys. Ask for another one.', {
        reason: 'TOKEN_USED',
        metadata: { node_id: nodeId },
      });
    }
    const now = clock.now();
    if (enrollment.expireTime <= now) {
      const when = new Date(enrollment.expireTime).toISOString();
      throw new MoorageError('FAILED_PRECONDITION', `The token expired at ${when}. Ask for another one.`, {
        reason: 'TOKEN_EXPIRED',
        metadata: { node_id: nodeId },
      });
    }
    if (node !== undefined) throw nodeExists(node.value);
    const { storageAddresses, initiatorName, tags } = enrollment;
    const { certificateKeyId, ...keysOfNode } = wanted;
    const made: Node = {
      id: nodeId,
      registration: randomUUID(),
      ...keysOfNode,
      ...(certificateKeyId !== undefined && { certificateKeyId }),
      storageAddresses,
      initiatorName,
      tags,
      createTime: now,
      updateTime: now,
    };
    const redeemed: Enrollment = { ...enrollment, registration: made.registration };
    return {
      intent: 'immediate',
      resourceId: nodeId,
      writes: [putNode(made, 'absent'), putEnrollment(redeemed, document.rev)],
    };
  }

  private async keyIdOf(certificateRequest: Uint8Array): Promise<string | undefined> {
    if (certificateRequest.length === 0 || this.core.issuer === undefined) return undefined;
    return this.core.issuer.keyIdOf(certificateRequest);
  }

  private async answer(document: StoredDocument<Node>, certificateRequest: Uint8Array): Promise<Enrolled> {
    const { issuer, sealer } = this.core;
    const node: Versioned<Node> = versioned(document);
    const signs = issuer !== undefined && certificateRequest.length > 0;
    return {
      node,
      certificate: signs ? await issuer.issue(certificateRequest, node.value.id) : '',
      authority: signs ? issuer.authority : '',
      controllerPublicKeys: [sealer.publicKey],
    };
  }
}

/** Whether the node is still what this token, with these keys, made of it. */
function isEnrolled(
  enrollment: Enrollment,
  node: StoredDocument<Node> | undefined,
  wanted: { readonly publicKeyId: string; readonly certificateKeyId: string | undefined },
): boolean {
  return (
    node !== undefined &&
    node.value.registration === enrollment.registration &&
    node.value.publicKeyId === wanted.publicKeyId &&
    node.value.certificateKeyId === wanted.certificateKeyId
  );
}

function nodeExists(node: Node): MoorageError {
  return new MoorageError(
    'ALREADY_EXISTS',
    `There is a node ${node.id} already (key ${node.publicKeyId}). Remove it first; or give it another key with RotateNodeKey.`,
    { reason: 'NODE_EXISTS', metadata: { node_id: node.id, public_key_id: node.publicKeyId } },
  );
}

/** One answer for what is no token, was replaced or forgotten: whoever guesses learns nothing. */
function tokenRefused(): MoorageError {
  return new MoorageError('UNAUTHENTICATED', 'The enrollment token is not valid. Ask for another one.', {
    reason: 'TOKEN_NOT_VALID',
  });
}
