import type { MethodDefinition } from '@grpc/proto-loader';
import type { Pool } from '../core/model/resources.js';
import { BackendError, NO_RIGHT, type StepContext } from '../core/ports/backend.js';
import type { Clock } from '../core/ports/clock.js';
import { betweenPoints, stepPoints } from '../core/ports/crash-points.js';
import type { Step } from '../generated/moorage/backend/v1/Step.js';
import { notBegun } from './failures.js';
import type { AgentRole, BackendObserver } from './settings.js';
import type { AgentSupervisor } from './supervisor.js';

/** The two agents of a cluster. */
export type ClusterAgents = Readonly<Record<AgentRole, AgentSupervisor>>;

/** Sends steps to the agent that is theirs. */
export class StepCaller {
  readonly #clusters: ReadonlyMap<string, ClusterAgents>;
  readonly #controller: () => string;
  readonly #observer: BackendObserver;
  readonly #clock: Clock;
  readonly #onPool: (pool: Pool) => void;
  readonly #onNoRight: (pool: Pool, context: StepContext) => void;
  readonly #heldBack: (poolId: string) => string | undefined;

  constructor(options: {
    readonly clusters: ReadonlyMap<string, ClusterAgents>;
    /** The controller's id of this start. */
    readonly controller: () => string;
    readonly observer: BackendObserver;
    readonly clock: Clock;
    /** Told of each pool that is asked about. */
    readonly onPool: (pool: Pool) => void;
    /** Told when a step was refused as if for lack of rights. */
    readonly onNoRight: (pool: Pool, context: StepContext) => void;
    /** See AgentLifecycle. */
    readonly heldBack: (poolId: string) => string | undefined;
  }) {
    this.#clusters = options.clusters;
    this.#controller = options.controller;
    this.#observer = options.observer;
    this.#clock = options.clock;
    this.#onPool = options.onPool;
    this.#onNoRight = options.onNoRight;
    this.#heldBack = options.heldBack;
  }

  /**
   * Takes a step. Waits for the agent as long as the step may take.
   * @param agentId only this start of the agent will do
   * @returns what it answered, and which start of the agent it was
   * @throws BackendError
   */
  async call<Request, RequestOut, Response, ResponseOut>(
    pool: Pool,
    role: AgentRole,
    method: MethodDefinition<Request, Response, RequestOut, ResponseOut>,
    request: (step: Step) => Request,
    context: StepContext,
    agentId?: string,
  ): Promise<{ readonly answer: ResponseOut; readonly agentId: string }> {
    this.#onPool(pool);
    const began = this.#clock.monotonic();
    const methodName = method.path.slice(method.path.lastIndexOf('/') + 1);
    const { operationId, name } = context;
    const point = { cluster: pool.settings.cluster, role, method: methodName, operationId, name };
    let outcome: 'ok' | BackendError = 'ok';
    try {
      return await betweenPoints(stepPoints, point, () =>
        this.#send(pool, role, method, request(this.#step(pool, context)), context, agentId),
      );
    } catch (error) {
      outcome =
        error instanceof BackendError
          ? error
          : new BackendError('unknown', 'INTERNAL', 'The step failed in an unforeseen way.', { cause: error });
      if (outcome.reason === NO_RIGHT) this.#onNoRight(pool, context);
      throw outcome;
    } finally {
      this.#observer.callEnded({
        cluster: pool.settings.cluster,
        role,
        method: methodName,
        outcome: outcome === 'ok' ? 'ok' : outcome.failure,
        code: outcome === 'ok' ? 'OK' : outcome.code,
        milliseconds: this.#clock.monotonic() - began,
      });
    }
  }

  async #send<Request, RequestOut, Response, ResponseOut>(
    pool: Pool,
    role: AgentRole,
    method: MethodDefinition<Request, Response, RequestOut, ResponseOut>,
    request: Request,
    context: StepContext,
    agentId: string | undefined,
  ): Promise<{ readonly answer: ResponseOut; readonly agentId: string }> {
    const supervisor = this.#agents(pool)[role];
    const end = this.#clock.monotonic() + context.timeoutMilliseconds;
    for (;;) {
      const client = await supervisor.ready(Math.max(0, end - this.#clock.monotonic()), context.signal);
      // After the wait: an agent is admitted with its pools held back already.
      const heldBack = role === 'data' ? this.#heldBack(pool.id) : undefined;
      if (heldBack !== undefined) throw notBegun(heldBack, 'POOL_HELD_BACK');
      if (agentId !== undefined && client.agentId !== agentId) {
        throw notBegun('The connection was of an agent that has ended since: open another.', 'UNKNOWN_CONNECTION');
      }
      const milliseconds = end - this.#clock.monotonic();
      try {
        const answer = await client.call(method, request, { milliseconds, signal: context.signal });
        return { answer, agentId: client.agentId };
      } catch (error) {
        // It died between being ready and being asked: its successor will do.
        const gone = error instanceof BackendError && error.reason === 'AGENT_NOT_READY';
        if (!gone || this.#clock.monotonic() >= end) throw error;
        await this.#clock.sleep(10, context.signal);
      }
    }
  }

  #agents(pool: Pool): ClusterAgents {
    const agents = this.#clusters.get(pool.settings.cluster);
    if (agents === undefined) {
      const known = [...this.#clusters.keys()].join(', ') || 'none';
      throw new BackendError(
        'permanent',
        'FAILED_PRECONDITION',
        `Pool ${pool.id} is on the cluster ${JSON.stringify(pool.settings.cluster)}, which the controller's configuration does not name (it names: ${known}).`,
        { reason: 'UNKNOWN_CLUSTER' },
      );
    }
    return agents;
  }

  #step(pool: Pool, context: StepContext): Step {
    return {
      controller: this.#controller(),
      operationId: context.operationId,
      name: context.name,
      pool: { poolId: pool.id, settings: { ceph_pool: pool.settings.cephPool } },
    };
  }
}
