import type { Pool } from '../core/model/resources.js';
import { BackendError, NO_RIGHT, type StepContext } from '../core/ports/backend.js';
import type { Clock } from '../core/ports/clock.js';
import { dataService, fenceService } from './protocol.js';
import type { AgentRole, ClusterSettings } from './settings.js';
import type { ClusterAgents, StepCaller } from './step-caller.js';

/*
 * A backend may look at a user's rights only when that user connects: Ceph does. A pool that is initialised while the agents
 * run is closed to them until they connect anew, so an agent that is refused there is ended and started again, with the same
 * admission as after a crash.
 *
 * The fence agent comes first: it has no image open, so its end disturbs little; and initialisation gives both users their
 * rights, so one that is still refused after it tells that the data agent, whose end every pool of the cluster notices, need
 * not be ended. And whoever starts the next data agent needs a fence agent that may clean up in all pools.
 */

const ROLES: readonly AgentRole[] = ['fence', 'data'];
/** Name of the step that asks. */
const PROBE_STEP = 'probe-rights';
/** An image that never is, and a catalogue entry that never is: to ask for them takes the right to, and nothing else. */
const NO_IMAGE = 'moorage-probe';

/** For how long a later question may find out what came of a renewal, in milliseconds. */
const OPEN_MILLISECONDS = 30_000;

/** How long after a renewal that did not help there is none of that agent, in milliseconds. */
export interface RenewalPauses {
  /** When somebody asked for the pool, and waits. */
  readonly asked: number;
  /** When a step was refused. Longer for the data agent, whose end the cluster's other pools notice. */
  readonly unasked: Readonly<Record<AgentRole, number>>;
}

/** What applies when nothing is set. */
export const defaultRenewalPauses: RenewalPauses = {
  asked: 5_000,
  unasked: { fence: 30_000, data: 300_000 },
};

/** A start of an agent that may not work in a pool. */
interface Refused {
  readonly agentId: string;
  readonly error: BackendError;
}

/** See the top of the file. */
export class PoolRights {
  readonly #clusters: ReadonlyMap<string, { readonly settings: ClusterSettings; readonly agents: ClusterAgents }>;
  readonly #steps: StepCaller;
  readonly #clock: Clock;
  readonly #pauses: RenewalPauses;
  readonly #timeoutMilliseconds: number;
  /** When an agent was last renewed in vain, by cluster and role. */
  readonly #vain = new Map<string, number>();
  /** The last renewal of an agent of which it is not known whether it helped: whoever asked had no time to wait for the next start. */
  readonly #open = new Map<string, { readonly place: string; readonly agentId: string; readonly until: number }>();
  /** Pools that are looked at because a step was refused, by place. */
  readonly #doubted = new Set<string>();

  constructor(options: {
    readonly clusters: ReadonlyMap<string, { readonly settings: ClusterSettings; readonly agents: ClusterAgents }>;
    readonly steps: StepCaller;
    readonly clock: Clock;
    readonly pauses: RenewalPauses;
    /** How long a look may take that nobody asked for. */
    readonly timeoutMilliseconds: number;
  }) {
    this.#clusters = options.clusters;
    this.#steps = options.steps;
    this.#clock = options.clock;
    this.#pauses = options.pauses;
    this.#timeoutMilliseconds = options.timeoutMilliseconds;
  }

  /**
   * Asks both agents whether they may work in the pool, and renews one that may not, once.
   * @throws BackendError "permanent" with the reason NO_RIGHTS_IN_POOL when it may not after that either; what else the agents fail with
   */
  async ensure(pool: Pool, context: StepContext): Promise<void> {
    await this.#secure(pool, context, this.#pauses.asked);
  }

  /** A step in the pool was refused as if for lack of rights: looks in the background, and renews who really lacks them. */
  doubt(pool: Pool, step: StepContext): void {
    const place = placeOf(pool);
    if (step.name === PROBE_STEP || this.#doubted.has(place)) return;
    this.#doubted.add(place);
    const context = { operationId: '', name: PROBE_STEP, timeoutMilliseconds: this.#timeoutMilliseconds };
    void this.#secure(pool, context, 0)
      // Whoever was refused is told so, and tries again; and each call that fails here is observed.
      .catch(() => undefined)
      .finally(() => this.#doubted.delete(place));
  }

  /** @param patience the pause after a renewal in vain that is waited for, in milliseconds; 0 waits for none */
  async #secure(pool: Pool, context: StepContext, patience: number): Promise<void> {
    const end = this.#clock.monotonic() + context.timeoutMilliseconds;
    const limits = (): StepContext => ({
      ...context,
      name: PROBE_STEP,
      timeoutMilliseconds: Math.max(1, end - this.#clock.monotonic()),
    });
    for (const role of ROLES) {
      const refused = await this.#ask(pool, role, limits);
      if (refused === undefined) continue;
      const agent = `${pool.settings.cluster}/${role}`;
      this.#judgeOpen(agent, pool, role, refused);
      const pause = patience > 0 ? patience : this.#pauses.unasked[role];
      const wait = (this.#vain.get(agent) ?? Number.NEGATIVE_INFINITY) + pause - this.#clock.monotonic();
      if (wait > 0) {
        if (patience === 0) throw this.#lacksRights(pool, role, refused.error);
        if (this.#clock.monotonic() + wait >= end) throw this.#tooSoon(pool, role, refused.error);
        await this.#clock.sleep(wait, context.signal);
      }
      const open = {
        place: placeOf(pool),
        agentId: refused.agentId,
        until: this.#clock.monotonic() + OPEN_MILLISECONDS,
      };
      this.#open.set(agent, open);
      this.#agents(pool)?.agents[role].renew(refused.agentId, `it is renewed for rights in ${pool.settings.cephPool}`);
      const again = await this.#ask(pool, role, limits);
      if (again !== undefined) this.#judgeOpen(agent, pool, role, again);
      this.#open.delete(agent);
      this.#vain.delete(agent);
    }
  }

  /** @throws BackendError when this start of the agent came of a renewal for this pool */
  #judgeOpen(agent: string, pool: Pool, role: AgentRole, refused: Refused): void {
    const open = this.#open.get(agent);
    if (open === undefined || open.place !== placeOf(pool) || open.agentId === refused.agentId) return;
    this.#open.delete(agent);
    if (open.until < this.#clock.monotonic()) return;
    this.#vain.set(agent, this.#clock.monotonic());
    throw this.#lacksRights(pool, role, refused.error);
  }

  /** Undefined when the agent may work in the pool; else which start of it may not. @throws BackendError of another kind */
  async #ask(pool: Pool, role: AgentRole, limits: () => StepContext): Promise<Refused | undefined> {
    for (;;) {
      // Where the cluster is not known the call itself says so.
      const { timeoutMilliseconds, signal } = limits();
      const agentId = (await this.#agents(pool)?.agents[role].ready(timeoutMilliseconds, signal))?.agentId;
      try {
        await this.#probe(pool, role, limits(), agentId);
        return undefined;
      } catch (error) {
        if (!(error instanceof BackendError)) throw error;
        // It has ended since it was ready.
        if (error.reason === 'UNKNOWN_CONNECTION' && limits().timeoutMilliseconds > 1) continue;
        if (error.reason !== NO_RIGHT || agentId === undefined) throw error;
        return { agentId, error };
      }
    }
  }

  async #probe(pool: Pool, role: AgentRole, context: StepContext, agentId: string | undefined): Promise<void> {
    if (role === 'data') {
      const { GetCatalogueEntries } = dataService;
      await this.#steps.call(pool, role, GetCatalogueEntries, (step) => ({ step, keys: [NO_IMAGE] }), context, agentId);
    } else {
      const image = { name: NO_IMAGE, backendId: '' };
      const { BreakLocks } = fenceService;
      await this.#steps.call(pool, role, BreakLocks, (step) => ({ step, image, ownerAddresses: [] }), context, agentId);
    }
  }

  #lacksRights(pool: Pool, role: AgentRole, cause: BackendError): BackendError {
    const { cephPool } = pool.settings;
    const settings = this.#agents(pool)?.settings;
    const user = role === 'data' ? settings?.dataUser : settings?.fenceUser;
    return new BackendError(
      'permanent',
      'FAILED_PRECONDITION',
      `the user of the ${role} agent, client.${user}, has no rights in it. Run "moorage pool init ${cephPool}" with an administrator's keyring.`,
      { reason: 'NO_RIGHTS_IN_POOL', metadata: { ceph_pool: cephPool, user: `client.${user}` }, cause },
    );
  }

  #tooSoon(pool: Pool, role: AgentRole, cause: BackendError): BackendError {
    const { message, reason, metadata } = this.#lacksRights(pool, role, cause);
    const says = `${message} The agent was started anew for it a moment ago; ask again in some seconds.`;
    return new BackendError('not-begun', 'UNAVAILABLE', says, { reason, metadata, cause });
  }

  #agents(pool: Pool) {
    return this.#clusters.get(pool.settings.cluster);
  }
}

function placeOf({ settings }: Pool): string {
  return `${settings.cluster}/${settings.cephPool}`;
}
