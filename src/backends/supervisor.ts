import { type AgentIdentity, type AgentLifecycle, BackendError } from '../core/ports/backend.js';
import type { Clock } from '../core/ports/clock.js';
import { AgentClient, type AgentIntroduction } from './agent-client.js';
import { notBegun } from './failures.js';
import type { AgentLauncher, AgentProcess } from './launcher.js';
import type { AgentEvent, AgentRole, AgentSettings, BackendObserver, ClusterSettings } from './settings.js';

/** How long stopping waits for the core to note that an agent is dead. */
const REPORT_MILLISECONDS = 2_000;
/** How long stopping waits in all. A killed process can only outlive it inside the kernel. */
const STOP_MILLISECONDS = 10_000;

/** What a supervisor works with. */
export interface SupervisorOptions {
  readonly cluster: ClusterSettings;
  readonly role: AgentRole;
  readonly settings: AgentSettings;
  readonly launcher: AgentLauncher;
  readonly lifecycle: AgentLifecycle;
  readonly observer: BackendObserver;
  readonly clock: Clock;
  /** Told each time an agent is ready for steps. */
  readonly onReady?: () => void;
}

interface Waiter {
  resolve(client: AgentClient): void;
  reject(error: BackendError): void;
}

/**
 * Keeps one agent process of one cluster running. Invariants:
 *
 * - At most one process at a time; the next is started when the last is reaped and the core knows that it is dead.
 * - Nobody gets a client before the core has admitted that start of the agent (its addresses are committed and what its
 *   predecessor left is put right), nor after its end is known.
 * - Whoever waits while there is none is told so in the time that he set, with nothing sent.
 */
export class AgentSupervisor {
  readonly #options: SupervisorOptions;
  readonly #waiters = new Set<Waiter>();
  #ready: AgentClient | undefined;
  /** Ends the agent that runs now. */
  #end: (reason: string) => void = () => {};
  #life: { readonly stop: AbortController; readonly ended: Promise<void> } | undefined;

  constructor(options: SupervisorOptions) {
    this.#options = options;
  }

  /** Begins to keep it running, for a controller under this id. */
  start(controller: string): void {
    if (this.#life !== undefined) throw new Error('the agents of this controller run already');
    const stop = new AbortController();
    this.#life = { stop, ended: this.#keepRunning(controller, stop.signal) };
  }

  /**
   * Kills it and waits until it is reaped; whoever waits for it is told so. May be started again.
   * @throws Error when the killed process does not end in time
   */
  async stop(): Promise<void> {
    const life = this.#life;
    if (life === undefined) return;
    life.stop.abort(new Error('the controller stops its agents'));
    for (const waiter of this.#waiters) waiter.reject(notBegun('The controller stops its agents.', 'AGENT_STOPPED'));
    this.#waiters.clear();
    const bound = new AbortController();
    const late = this.#options.clock.sleep(STOP_MILLISECONDS, bound.signal).then(() => 'late' as const);
    const outcome = await Promise.race([life.ended, late]);
    bound.abort();
    if (outcome === 'late') {
      const { cluster, role } = this.#options;
      throw new Error(
        `the ${role} agent of cluster ${cluster.name} was killed and has not ended in ${STOP_MILLISECONDS} ms`,
      );
    }
    this.#life = undefined;
  }

  /** The agent that is ready for steps now. */
  get current(): AgentClient | undefined {
    return this.#ready;
  }

  /**
   * Ends this start of the agent, so that the next one connects anew. Its steps under way are then "unknown", as after a crash.
   * Does nothing when it has ended already.
   * @param why for the log, as the end of "it is gone: …"
   */
  renew(agentId: string, why: string): void {
    if (this.#ready?.agentId === agentId) this.#end(why);
  }

  /**
   * The agent that is ready for steps; waits for it.
   * @throws BackendError "not-begun"
   */
  async ready(milliseconds: number, signal?: AbortSignal): Promise<AgentClient> {
    if (this.#ready !== undefined) return this.#ready;
    const { cluster, role } = this.#options;
    const who = `The ${role} agent of cluster ${JSON.stringify(cluster.name)}`;
    if (this.#life === undefined || this.#life.stop.signal.aborted)
      throw notBegun(`${who} is stopped.`, 'AGENT_STOPPED');
    return new Promise((resolve, reject) => {
      const settle = (act: () => void) => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', cancel);
        this.#waiters.delete(waiter);
        act();
      };
      const waiter: Waiter = {
        resolve: (client) => settle(() => resolve(client)),
        reject: (error) => settle(() => reject(error)),
      };
      const cancel = () =>
        waiter.reject(notBegun('The step was called off before it was sent.', 'CANCELLED', signal?.reason));
      const timer = setTimeout(
        () => waiter.reject(notBegun(`${who} was not ready within ${milliseconds} ms.`, 'AGENT_NOT_READY')),
        milliseconds,
      );
      this.#waiters.add(waiter);
      if (signal?.aborted) cancel();
      else signal?.addEventListener('abort', cancel, { once: true });
    });
  }

  async #keepRunning(controller: string, stopped: AbortSignal): Promise<void> {
    const { settings, clock } = this.#options;
    let wait = settings.firstBackoffMilliseconds;
    while (!stopped.aborted) {
      const readyFor = await this.#oneLife(controller, stopped);
      if (readyFor >= settings.livedMilliseconds) wait = settings.firstBackoffMilliseconds;
      await clock.sleep(wait, stopped);
      wait = Math.min(wait * 2, settings.lastBackoffMilliseconds);
    }
    this.#tell({ kind: 'stopped', message: 'stopped' });
  }

  /** From the start of a process until it is reaped and reported. @returns for how long it was ready, in milliseconds */
  async #oneLife(controller: string, stopped: AbortSignal): Promise<number> {
    const { cluster, role, launcher, observer, clock } = this.#options;
    let agent: AgentProcess;
    try {
      agent = await launcher.launch(cluster, role, (line) => observer.agentLine({ cluster: cluster.name, role, line }));
    } catch (error) {
      this.#tell({ kind: 'start-failed', message: 'could not be started', error });
      return 0;
    }
    const processId = agent.processId;
    this.#tell({ kind: 'started', message: 'started', processId });
    const death = new AbortController();
    const end = (reason: string) => death.abort(new Error(reason));
    this.#end = end;
    death.signal.addEventListener('abort', () => {
      this.#ready = undefined;
    });
    void agent.exited.then((how) => end(`it ended: ${how}`));
    const onStop = () => end('it was stopped');
    stopped.addEventListener('abort', onStop, { once: true });
    if (stopped.aborted) onStop();

    const client = new AgentClient(agent.target);
    let identity: AgentIdentity | undefined;
    let admission: Promise<void> | undefined;
    let readySince: number | undefined;
    let failure: unknown;
    try {
      const introduction = await this.#introduce(client, controller, death.signal);
      const known = { agentId: introduction.agentId, cluster: cluster.name, role, addresses: introduction.addresses };
      identity = known;
      const watching = this.#watch(client, controller, death);
      admission = this.#admit(known, death.signal);
      await Promise.race([admission, untilAborted(death.signal)]);
      if (!death.signal.aborted) {
        readySince = clock.monotonic();
        this.#becomeReady(client);
        this.#tell({ kind: 'ready', message: 'ready for steps', processId, agentId: known.agentId });
      }
      await watching;
    } catch (error) {
      failure = error;
      end(error instanceof Error ? error.message : String(error));
    }
    stopped.removeEventListener('abort', onStop);
    const readyFor = readySince === undefined ? 0 : clock.monotonic() - readySince;
    // First the process: then nothing of it can be on its way any more when its callers hear that the outcome is open.
    await agent.kill().catch((error: unknown) => {
      this.#tell({ kind: 'start-failed', message: 'left its socket behind', processId, error });
    });
    client.close();
    this.#tell({
      kind: failure === undefined ? 'died' : 'start-failed',
      message: `is gone: ${(death.signal.reason as Error).message}`,
      processId,
      agentId: identity?.agentId,
      error: failure,
    });
    if (identity !== undefined) await this.#reportDeath(identity, admission, stopped);
    return readyFor;
  }

  /** Says Hello until it is answered. An agent that answers with an error lives, and has not reached its backend yet. */
  async #introduce(client: AgentClient, controller: string, dead: AbortSignal): Promise<AgentIntroduction> {
    const { settings, clock, role } = this.#options;
    let deadline = clock.monotonic() + settings.startMilliseconds;
    let wait = settings.firstBackoffMilliseconds;
    for (;;) {
      try {
        const milliseconds = Math.max(1, deadline - clock.monotonic());
        const introduction = await client.hello(controller, { milliseconds, signal: dead });
        if (introduction.roles.includes(role)) return introduction;
        throw new Error(`it has not the role "${role}" but ${JSON.stringify(introduction.roles)}`);
      } catch (error) {
        if (dead.aborted) throw dead.reason;
        if (!(error instanceof BackendError) || error.failure === 'permanent') throw error;
        if (error.failure === 'unknown' && error.code !== 'DEADLINE_EXCEEDED') {
          deadline = clock.monotonic() + settings.startMilliseconds;
        } else if (clock.monotonic() >= deadline) {
          throw new Error(`it did not answer within ${settings.startMilliseconds} ms`, { cause: error });
        }
        await clock.sleep(wait, dead);
        wait = Math.min(wait * 2, settings.lastBackoffMilliseconds);
      }
    }
  }

  async #admit(identity: AgentIdentity, dead: AbortSignal): Promise<void> {
    const { settings, clock, lifecycle } = this.#options;
    let wait = settings.firstBackoffMilliseconds;
    while (!dead.aborted) {
      try {
        await lifecycle.admit(identity);
        return;
      } catch (error) {
        this.#tell({ kind: 'admit-failed', message: 'is not admitted yet', agentId: identity.agentId, error });
      }
      await clock.sleep(wait, dead);
      wait = Math.min(wait * 2, settings.lastBackoffMilliseconds);
    }
  }

  /** Asks for signs of life until the agent is dead, and declares it so when they do not come. */
  async #watch(client: AgentClient, controller: string, death: AbortController): Promise<void> {
    const { settings, clock } = this.#options;
    let misses = 0;
    while (!death.signal.aborted) {
      await clock.sleep(settings.helloIntervalMilliseconds, death.signal);
      if (death.signal.aborted) return;
      try {
        await client.hello(controller, { milliseconds: settings.helloTimeoutMilliseconds, signal: death.signal });
        misses = 0;
      } catch (error) {
        // Any answer is a sign of life, an error too.
        const silent =
          error instanceof BackendError && (error.code === 'DEADLINE_EXCEEDED' || error.failure === 'not-begun');
        misses = silent ? misses + 1 : 0;
        if (misses >= settings.helloMisses) death.abort(new Error(`it did not answer ${misses} times in a row`));
      }
    }
  }

  /**
   * Tells the core until it has noted it. An admission that is still under way comes first: it must not commit the
   * addresses of an agent after its death was noted.
   */
  async #reportDeath(
    identity: AgentIdentity,
    admission: Promise<void> | undefined,
    stopped: AbortSignal,
  ): Promise<void> {
    const { settings, clock, lifecycle } = this.#options;
    const report = async () => {
      await admission;
      let wait = settings.firstBackoffMilliseconds;
      for (;;) {
        try {
          await lifecycle.died(identity);
          return;
        } catch (error) {
          this.#tell({
            kind: 'report-failed',
            message: 'could not be noted as dead',
            agentId: identity.agentId,
            error,
          });
        }
        if (stopped.aborted) return;
        await clock.sleep(wait, stopped);
        wait = Math.min(wait * 2, settings.lastBackoffMilliseconds);
      }
    };
    const enough = new AbortController();
    const onStop = () => void clock.sleep(REPORT_MILLISECONDS).then(() => enough.abort());
    stopped.addEventListener('abort', onStop, { once: true });
    if (stopped.aborted) onStop();
    await Promise.race([report(), untilAborted(enough.signal)]);
    stopped.removeEventListener('abort', onStop);
  }

  #becomeReady(client: AgentClient): void {
    this.#ready = client;
    for (const waiter of [...this.#waiters]) waiter.resolve(client);
    this.#options.onReady?.();
  }

  #tell(event: Omit<AgentEvent, 'cluster' | 'role'>): void {
    this.#options.observer.agentEvent({ cluster: this.#options.cluster.name, role: this.#options.role, ...event });
  }
}

function untilAborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}
