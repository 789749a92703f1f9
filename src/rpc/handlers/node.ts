import type { Services } from '../../core/services/types.js';
import type { NodeServiceHandlers } from '../../generated/moorage/v1/NodeService.js';
import { fromPage, fromResourceMutation, fromUpdate } from '../mapping/requests.js';
import { toNode } from '../mapping/resources.js';
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
