import type { AgentLifecycle, Backend } from '../core/ports/backend.js';
import type { Clock } from '../core/ports/clock.js';
import { dataClient } from './data-client.js';
import { fenceClient } from './fence-client.js';
import { type AgentLauncher, processLauncher, removeStaleSockets } from './launcher.js';
import { PoolFacts } from './pool-facts.js';
import { dataService } from './protocol.js';
import { defaultRenewalPauses, PoolRights, type RenewalPauses } from './rights.js';
import type { AgentRole, AgentSettings, BackendObserver, ClusterSettings } from './settings.js';
import { type ClusterAgents, StepCaller } from './step-caller.js';
import { AgentSupervisor } from './supervisor.js';

export type { AgentLauncher, AgentProcess } from './launcher.js';
export {
  type AgentEvent,
  type AgentRole,
  type AgentSettings,
  type BackendObserver,
  type ClusterSettings,
  defaultAgentSettings,
} from './settings.js';

/** The backends of a controller: the port, and the agents behind it. */
export interface Backends {
  readonly port: Backend;
  /**
   * Starts the agents of every cluster, under the controller's id of this start. Steps wait until theirs is admitted.
   * May be called again after {@link stop}, with another id.
   */
  start(controller: string): Promise<void>;
  /**
   * Kills and reaps all agents, in bounded time; what they were doing is then "unknown" to whoever waits.
   * @throws AggregateError of what could not be ended
   */
  stop(): Promise<void>;
  /** Process ids of the agents that run, as "<cluster>/<role>": for tests of faults and for people. */
  processIds(): ReadonlyMap<string, number>;
}

/** What {@link createBackends} needs. */
export interface BackendsOptions {
  readonly clusters: readonly ClusterSettings[];
  readonly agents: AgentSettings;
  readonly observer: BackendObserver;
  readonly clock: Clock;
  /**
   * What the core does when agents come and go. A function, because the core is built with the port: it is asked for when
   * the first agent says Hello.
   */
  readonly lifecycle: () => AgentLifecycle;
  /** Unset starts the project's own agent as a process. */
  readonly launcher?: AgentLauncher;
  /** How often agents may be renewed; tests shorten it. */
  readonly renewalPauses?: RenewalPauses;
}

/** Builds the backends of a controller; nothing runs yet. */
export function createBackends(options: BackendsOptions): Backends {
  const { agents: settings, observer, clock } = options;
  const launcher = options.launcher ?? processLauncher(settings);
  const lifecycle: AgentLifecycle = {
    admit: (agent) => options.lifecycle().admit(agent),
    died: (agent) => options.lifecycle().died(agent),
    heldBack: (poolId) => options.lifecycle().heldBack(poolId),
  };
  const processIds = new Map<string, number>();
  const noting: BackendObserver = {
    agentLine: (source) => observer.agentLine(source),
    callEnded: (call) => observer.callEnded(call),
    agentEvent(event) {
      const name = `${event.cluster}/${event.role}`;
      if (event.kind === 'started' && event.processId !== undefined) processIds.set(name, event.processId);
      // Also one that ended before it was ready: its number may be another process' by now.
      if (event.kind === 'died' || event.kind === 'start-failed') processIds.delete(name);
      observer.agentEvent(event);
    },
  };
  let controller = '';
  let background: { readonly stop: AbortController; readonly ended: Promise<void> } | undefined;

  const supervisor = (cluster: ClusterSettings, role: AgentRole) =>
    new AgentSupervisor({
      cluster,
      role,
      settings,
      launcher,
      lifecycle,
      observer: noting,
      clock,
      // What nodes need to know may have changed while there was no agent.
      ...(role === 'data' ? { onReady: () => void pools.refreshAll(cluster.name) } : {}),
    });
  const clusters: ReadonlyMap<string, ClusterAgents> = new Map(
    options.clusters.map((cluster) => [
      cluster.name,
      { data: supervisor(cluster, 'data'), fence: supervisor(cluster, 'fence') },
    ]),
  );
  const supervisors = [...clusters.values()].flatMap(({ data, fence }) => [data, fence]);
  const steps = new StepCaller({
    clusters,
    controller: () => controller,
    observer,
    clock,
    onPool: (pool) => pools.note(pool),
    onNoRight: (pool, context) => rights.doubt(pool, context),
    heldBack: (poolId) => lifecycle.heldBack(poolId),
  });
  const rights: PoolRights = new PoolRights({
    clusters: new Map(
      options.clusters.flatMap((cluster) => {
        const agents = clusters.get(cluster.name);
        return agents === undefined ? [] : [[cluster.name, { settings: cluster, agents }] as const];
      }),
    ),
    steps,
    clock,
    pauses: options.renewalPauses ?? defaultRenewalPauses,
    timeoutMilliseconds: settings.poolTimeoutMilliseconds,
  });
  const pools = new PoolFacts({
    read: async (pool, context) =>
      (await steps.call(pool, 'data', dataService.GetPool, (step) => ({ step }), context)).answer,
    timeoutMilliseconds: settings.poolTimeoutMilliseconds,
    clock,
  });

  async function readPools(stopped: AbortSignal): Promise<void> {
    while (!stopped.aborted) {
      await clock.sleep(settings.poolIntervalMilliseconds, stopped);
      if (!stopped.aborted) await pools.refreshAll();
    }
  }

  return {
    port: { data: dataClient(steps, pools, rights), fence: fenceClient(steps) },

    async start(identity) {
      if (background !== undefined) throw new Error('the backends run already');
      controller = identity;
      const stop = new AbortController();
      background = { stop, ended: readPools(stop.signal) };
      if (options.launcher === undefined) await removeStaleSockets(settings.runDirectory);
      for (const each of supervisors) each.start(identity);
    },

    async stop() {
      background?.stop.abort();
      const results = await Promise.allSettled(supervisors.map((each) => each.stop()));
      await background?.ended;
      background = undefined;
      const failures = results.flatMap((result) => (result.status === 'rejected' ? [result.reason] : []));
      if (failures.length > 0) throw new AggregateError(failures, 'Not every agent could be ended.');
    },

    processIds: () => new Map(processIds),
  };
}
