import type { Services } from '../../core/services/types.js';
import type { NodeServiceHandlers } from '../../generated/moorage/v1/NodeService.js';
import { fromPage, fromResourceMutation, fromUpdate } from '../mapping/requests.js';
import { toNode } from '../mapping/resources.js';
import { fromDuration, toTimestamp } from '../mapping/scalars.js';
import { type CallEnvironment, unary } from '../unary.js';

/** Hypervisor hosts. */
export function nodeHandlers(services: Services, environment: CallEnvironment): NodeServiceHandlers {
  return {
    RegisterNode: unary(environment, async (request, caller) => {
      const { clientToken, validateOnly, nodeId, publicKey, storageAddresses, initiatorName, tags } = request;
      const { resource, operationId } = await services.nodes.register(
        { clientToken, validateOnly, nodeId, publicKey, storageAddresses, initiatorName, tags },
        caller,
      );
      return { node: toNode(resource), operationId };
    }),

    GetNode: unary(environment, async (request, caller) => ({
      node: toNode(await services.nodes.get(request.nodeId, caller)),
    })),

    ListNodes: unary(environment, async (request, caller) => {
      const page = await services.nodes.list(fromPage(request), caller);
      return { nodes: page.items.map(toNode), nextPageToken: page.nextPageToken };
    }),

    UpdateNode: unary(environment, async (request, caller) => {
      const { initiatorName } = request;
      const update = { ...fromUpdate(request.nodeId, request), initiatorName };
      const { resource, operationId } = await services.nodes.update(update, caller);
      return { node: toNode(resource), operationId };
    }),

    RemoveNode: unary(environment, async (request, caller) => {
      await services.nodes.remove(fromResourceMutation(request.nodeId, request), caller);
      return { operationId: '' };
    }),

    CreateEnrollmentToken: unary(environment, async (request, caller) => {
      const { clientToken, validateOnly, nodeId, storageAddresses, initiatorName, tags } = request;
      const lifetimeMilliseconds = fromDuration('lifetime', request.lifetime) ?? 0;
      const { token, expireTime } = await services.enrollment.createToken(
        { clientToken, validateOnly, nodeId, storageAddresses, initiatorName, tags, lifetimeMilliseconds },
        caller,
      );
      return { token, expireTime: toTimestamp(expireTime), operationId: '' };
    }),

    Enroll: unary(environment, async (request, caller) => {
      const { token, publicKey, certificateRequest } = request;
      const enrolled = await services.enrollment.enroll({ token, publicKey, certificateRequest }, caller);
      return {
        node: toNode(enrolled.node),
        certificate: enrolled.certificate,
        certificateAuthority: enrolled.authority,
        controllerPublicKeys: enrolled.controllerPublicKeys.map((key) => Buffer.from(key)),
      };
    }),

    RotateNodeKey: unary(environment, async (request, caller) => {
      const { clientToken, validateOnly, nodeId, etag, publicKey, certificateRequest, proofs } = request;
      const { node, certificate, authority } = await services.enrollment.rotateKey(
        { clientToken, validateOnly, nodeId, etag, publicKey, certificateRequest, proofs },
        caller,
      );
      return { node: toNode(node), certificate, certificateAuthority: authority, operationId: '' };
    }),

    FenceNode: unary(environment, async (request, caller) => {
      const fence = { ...fromResourceMutation(request.nodeId, request), reason: request.reason };
      const { resource, operationId } = await services.nodes.fence(fence, caller);
      return { node: toNode(resource), operationId };
    }),

    UnfenceNode: unary(environment, async (request, caller) => {
      const unfence = { ...fromResourceMutation(request.nodeId, request), clientsAreDead: request.clientsAreDead };
      const { resource, operationId } = await services.nodes.unfence(unfence, caller);
      return { node: toNode(resource), operationId };
    }),
  };
}
