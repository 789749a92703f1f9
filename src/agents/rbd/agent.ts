import { randomUUID } from 'node:crypto';
import { chmodSync, rmSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { Server, ServerCredentials, type UntypedServiceImplementation } from '@grpc/grpc-js';
import type { Logger } from 'pino';
import type { AgentServiceHandlers } from '../../generated/moorage/backend/v1/AgentService.js';
import type { AgentCluster } from './agent-context.js';
import { Controllers } from './controllers.js';
import { Lanes } from './lanes.js';
import type { AgentOptions } from './options.js';
import { Paces } from './pace.js';
import { loadBackendProtocol, PROTOCOL_VERSION } from './protocol.js';
import { invalidField, refused, toGrpcStatus, toStepError } from './step-error.js';
import { type StepServerOptions, saysCutOff } from './steps.js';

/** Makes the service of a role from what every step goes through. */
export type RoleService = (options: StepServerOptions) => UntypedServiceImplementation;

/** An agent that serves. */
export interface RunningAgent {
  /** Stops taking calls, gives those that run a moment, disconnects. */
  stop(): Promise<void>;
}

/** How long calls that run are given when the agent is asked to stop, in milliseconds. */
const DRAIN_MILLISECONDS = 5000;

/**
 * Serves a role on the unix socket. The lock file must be held already: only then is a socket that lies there a dead
 * agent's.
 * @param onCutOff called when the cluster refuses this agent's own connection for good
 * @throws Error when the socket's folder is open to others
 */
export async function serveAgent(
  options: AgentOptions,
  cluster: AgentCluster,
  role: RoleService,
  logger: Logger,
  onCutOff: () => void,
): Promise<RunningAgent> {
  const folder = dirname(options.socket);
  if ((statSync(folder).mode & 0o077) !== 0) {
    throw new Error(`--socket: folder ${folder} must be readable by its owner only (0700)`);
  }
  rmSync(options.socket, { force: true });
  const protocol = loadBackendProtocol();
  const controllers = new Controllers();
  const stepOptions: StepServerOptions = {
    controllers,
    lanes: new Lanes({
      steps: { concurrent: options.lane, queued: options.laneQueue },
      reads: { concurrent: Math.max(1, Math.floor(options.lane / 4)), queued: options.laneQueue },
      // These hold a thread for a moment at most.
      polls: { concurrent: 16 * options.lane, queued: options.laneQueue },
    }),
    paces: new Paces(),
    logger,
    longestStepMilliseconds: Math.max(120_000, options.osdTimeoutSeconds * 4000),
    onFailure: (error) => {
      if (saysCutOff(error)) onCutOff();
    },
  };
  const server = new Server({ 'grpc.max_receive_message_length': 4 * 1024 * 1024 });
  server.addService(protocol.AgentService.service, agentService(options, cluster, controllers) as never);
  const service = options.role === 'data' ? protocol.DataService.service : protocol.FenceService.service;
  server.addService(service, role(stepOptions));
  await new Promise<void>((resolve, reject) => {
    server.bindAsync(`unix:${options.socket}`, ServerCredentials.createInsecure(), (error) => {
      if (error) reject(error);
      else resolve();
    });
  });
  chmodSync(options.socket, 0o600);
  return {
    stop: async () => {
      const drained = new Promise<void>((resolve) => server.tryShutdown(() => resolve()));
      await Promise.race([drained, delay(DRAIN_MILLISECONDS, undefined, { ref: false })]);
      server.forceShutdown();
      await Promise.race([cluster.shared.close(), delay(DRAIN_MILLISECONDS, undefined, { ref: false })]);
    },
  };
}

function agentService(
  options: AgentOptions,
  cluster: AgentCluster,
  controllers: Controllers,
): Pick<AgentServiceHandlers, 'Hello' | 'Fence'> {
  const agentId = randomUUID();
  return {
    Hello: (call, answer) => {
      try {
        const { controller, protocolVersion } = call.request;
        if (!/^[0-9A-Za-z-]{1,64}$/.test(controller)) throw invalidField('controller', 'must be a UUID');
        if (protocolVersion !== PROTOCOL_VERSION) {
          throw refused(
            'PROTOCOL_VERSION',
            `protocol_version ${protocolVersion} is not spoken here, ${PROTOCOL_VERSION} is`,
          );
        }
        controllers.hello(controller);
        answer(null, {
          protocolVersion: PROTOCOL_VERSION,
          backend: 'rbd',
          agentId,
          roles: [options.role],
          addresses: cluster.shared.addresses(),
        });
      } catch (error) {
        answer(toGrpcStatus(toStepError(error)));
      }
    },
    Fence: (call, answer) => {
      if (call.request.controller === '') {
        answer(toGrpcStatus(invalidField('controller', 'must name the controller that is fenced')));
        return;
      }
      controllers.fence(call.request.controller);
      answer(null, {});
    },
  };
}
