import {
  type CallOptions,
  type ChannelOptions,
  Client,
  connectivityState,
  credentials,
  Metadata,
  type ServiceError,
} from '@grpc/grpc-js';
import type { MethodDefinition } from '@grpc/proto-loader';
import { BackendError } from '../core/ports/backend.js';
import { notBegun, stepFailure } from './failures.js';
import { agentService, PROTOCOL_VERSION } from './protocol.js';

const channelOptions: ChannelOptions = {
  // A step that is sent twice must be so by the journal's decision.
  'grpc.enable_retries': 0,
  'grpc.enable_http_proxy': 0,
  // An agent's socket is of one start only: nothing of a former connection may be used again.
  'grpc.use_local_subchannel_pool': 1,
  'grpc.initial_reconnect_backoff_ms': 50,
  'grpc.min_reconnect_backoff_ms': 50,
  'grpc.max_reconnect_backoff_ms': 500,
  'grpc.max_receive_message_length': 64 * 1024 * 1024,
};

/** How an agent introduced itself. */
export interface AgentIntroduction {
  readonly agentId: string;
  readonly backend: string;
  readonly roles: readonly string[];
  readonly addresses: readonly string[];
}

/** Limits of one call. */
export interface CallLimits {
  /** How long from now, in milliseconds. */
  readonly milliseconds: number;
  readonly signal?: AbortSignal | undefined;
}

/** The connection to one start of one agent. */
export class AgentClient {
  /** Of this start; empty until it has answered Hello. */
  agentId = '';
  readonly #client: Client;
  #closed = false;

  /** @param target as "unix:/run/moorage/agent.sock" */
  constructor(target: string) {
    this.#client = new Client(target, credentials.createInsecure(), channelOptions);
  }

  /**
   * Introduces the controller.
   * @param controller the controller's own id of this start
   * @throws BackendError; "unknown" with code DEADLINE_EXCEEDED when the agent does not answer, "not-begun" when it does not listen
   */
  async hello(controller: string, limits: CallLimits): Promise<AgentIntroduction> {
    const answer = await this.call(
      agentService.Hello,
      { controller, protocolVersion: PROTOCOL_VERSION },
      { ...limits },
    );
    if (answer.protocolVersion !== PROTOCOL_VERSION) {
      throw new BackendError(
        'permanent',
        'UNIMPLEMENTED',
        `The agent speaks version ${answer.protocolVersion} of the backend protocol, not ${PROTOCOL_VERSION}: install the same version of both.`,
        { reason: 'PROTOCOL_VERSION' },
      );
    }
    this.agentId = answer.agentId;
    return {
      agentId: answer.agentId,
      backend: answer.backend,
      roles: answer.roles,
      addresses: answer.addresses,
    };
  }

  /**
   * Calls one method. The request is sent only over a connection that stands: what fails before is "not-begun", what
   * fails after is what the agent said, or "unknown".
   * @throws BackendError
   */
  async call<Request, RequestOut, Response, ResponseOut>(
    method: MethodDefinition<Request, Response, RequestOut, ResponseOut>,
    request: Request,
    limits: CallLimits,
  ): Promise<ResponseOut> {
    const deadline = new Date(Date.now() + Math.max(0, limits.milliseconds));
    await this.#connected(deadline, limits.signal);
    const options: CallOptions = { deadline };
    return new Promise((resolve, reject) => {
      const call = this.#client.makeUnaryRequest(
        method.path,
        method.requestSerialize,
        method.responseDeserialize,
        request,
        new Metadata(),
        options,
        (error: ServiceError | null, response?: ResponseOut) => {
          limits.signal?.removeEventListener('abort', cancel);
          if (error !== null) reject(stepFailure(error));
          else if (response === undefined)
            reject(new BackendError('unknown', 'INTERNAL', 'The agent answered nothing.'));
          else resolve(response);
        },
      );
      const cancel = () => call.cancel();
      limits.signal?.addEventListener('abort', cancel, { once: true });
    });
  }

  /** Ends what runs on it (its outcome is then unknown), and what waits to begin. Again: does nothing. */
  close(): void {
    this.#closed = true;
    this.#client.close();
  }

  async #connected(deadline: Date, signal: AbortSignal | undefined): Promise<void> {
    const channel = this.#client.getChannel();
    let cancel = (): void => {};
    // Not waitForReady: a wait that is under way when the client is closed brings its channel back to life and goes on until
    // the deadline, although the agent has a successor by then.
    const ready = new Promise<void>((resolve, reject) => {
      cancel = () => reject(notBegun('The step was called off before it was sent.', 'CANCELLED', signal?.reason));
      const look = (error?: Error): void => {
        if (this.#closed) reject(notBegun('The agent has been stopped.', 'AGENT_NOT_READY'));
        else if (signal?.aborted) cancel();
        else if (error !== undefined)
          reject(notBegun('The agent does not take connections.', 'AGENT_NOT_READY', error));
        else {
          const state = channel.getConnectivityState(true);
          if (state === connectivityState.READY) resolve();
          else channel.watchConnectivityState(state, deadline, look);
        }
      };
      signal?.addEventListener('abort', cancel, { once: true });
      look();
    });
    try {
      await ready;
    } finally {
      signal?.removeEventListener('abort', cancel);
    }
  }
}
