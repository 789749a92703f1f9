import type { ImageRecord } from '../model/image.js';
import type { AgentRecord, ControllerRecord, Operation } from '../model/operation.js';
import type { PointInTime, Pool, Snapshot, Tombstone, Volume } from '../model/resources.js';
import {
  type AgentIdentity,
  type AgentLifecycle,
  type Backend,
  BackendError,
  NO_RIGHT,
  type StepContext,
} from '../ports/backend.js';
import type { Clock } from '../ports/clock.js';
import type { CoreEvents } from '../ports/metrics.js';
import type { Store, StoredDocument } from '../ports/store.js';
import type { CoreSettings } from '../settings.js';
import { cutOffWrites, recordCutOffs } from './cut-offs.js';
import type { OperationDefinition } from './definition.js';
import { indexes, keys } from './documents.js';
import type { Membership } from './membership.js';

/*
 * Agents that died. A data agent may die while it holds the exclusive lock of an image that a guest waits for, and with a
 * request of its still under way. Its successor may not break that lock (it has no right to blocklist anybody, so that it
 * never fences a slow guest by accident). So before a new data agent is given its first step, the fence agent cuts off every
 * address that the dead one had (its own, and those of the connections that it opened for work on open images: all of them
 * were committed before they were used), and breaks the locks that these addresses left, by exact owner.
 *
 * An agent stands in the controller's record from before its first step until this is done. Whoever takes over from a
 * controller takes over its agents in the same commit, as dead ones.
 *
 * Cutting off is of a whole cluster; that every server knows of it is known pool by pool, and locks are broken in a pool. In one
 * in which the fence agent lacks the right to either, that must not keep the cluster's other pools from going on. So that
 * pool alone is held back: no data agent of this controller is given a step there until it is cleaned up, which is tried
 * again all the time. Nothing is lost by waiting: its images in work are those of operations, which cannot end meanwhile; and
 * a guest that meets a left lock is by its own rights allowed to blocklist its owner. Anything else that goes wrong holds the
 * whole cluster back: an agent that may not blocklist at all, or a server that does not answer, says nothing of a single pool.
 */

/** First and longest pause before a pool that is held back is tried again, in milliseconds. */
const FIRST_PAUSE = 1_000;
const LONGEST_PAUSE = 10_000;

/** Pools of a cluster that are held back, with why, for these dead agents. */
interface HeldBack {
  readonly agentIds: ReadonlySet<string>;
  readonly pools: ReadonlyMap<string, string>;
}

/** Does the core's part when agents come and go. */
export class Agents implements AgentLifecycle {
  private readonly store: Store;
  private readonly clock: Clock;
  private readonly backend: () => Backend;
  private readonly settings: CoreSettings;
  private readonly membership: Membership;
  private readonly definitions: ReadonlyMap<string, OperationDefinition<unknown>>;
  private readonly events: CoreEvents;
  private cleaning: Promise<void> = Promise.resolve();
  /** By cluster. */
  private readonly held = new Map<string, HeldBack>();
  private readonly retries = new Map<string, Promise<void>>();

  constructor(options: {
    store: Store;
    clock: Clock;
    events: CoreEvents;
    backend: () => Backend;
    settings: CoreSettings;
    membership: Membership;
    definitions: readonly OperationDefinition<never>[];
  }) {
    this.store = options.store;
    this.clock = options.clock;
    this.events = options.events;
    this.backend = options.backend;
    this.settings = options.settings;
    this.membership = options.membership;
    this.definitions = new Map(
      options.definitions.map((definition) => [definition.kind, definition as unknown as OperationDefinition<unknown>]),
    );
  }

  async admit(agent: AgentIdentity): Promise<void> {
    const record: AgentRecord = { ...agent, dead: false };
    // A cluster has one agent of a role: who stood there before is dead, also if nobody came to say so.
    const isFormer = (one: AgentRecord) => one.cluster === agent.cluster && one.role === agent.role;
    await this.membership.changeAgents((agents) => [
      ...agents
        .filter((one) => one.agentId !== agent.agentId && !(isFormer(one) && one.role === 'fence'))
        .map((one) => (isFormer(one) ? { ...one, dead: true } : one)),
      record,
    ]);
    if (agent.role === 'data') await this.clean(agent.cluster);
  }

  async died(agent: AgentIdentity): Promise<void> {
    await this.membership.changeAgents((agents) =>
      agents
        // A late request of a dead fence agent harms nothing (the journal's essay, 5), so nothing of it is cleaned up.
        .filter((one) => one.agentId !== agent.agentId || one.role === 'data')
        .map((one) => (one.agentId === agent.agentId ? { ...one, dead: true, reaped: true } : one)),
    );
  }

  heldBack(poolId: string): string | undefined {
    for (const { pools } of this.held.values()) {
      const why = pools.get(poolId);
      if (why !== undefined) return why;
    }
    return undefined;
  }

  /** Waits until nothing is tried again any more, after the membership's signal was aborted. */
  async settled(): Promise<void> {
    await Promise.all(this.retries.values());
  }

  /** Takes the agents of a dead controller over into this one's record; the writes that fence it go into the same commit. */
  async inherit(
    dead: StoredDocument<ControllerRecord>,
    writes: Parameters<Membership['changeAgents']>[1],
  ): Promise<void> {
    const inherited = dead.value.agents
      .filter((agent) => agent.role === 'data')
      .map((agent) => ({ ...agent, dead: true }));
    await this.membership.changeAgents((agents) => {
      const known = new Set(agents.map((agent) => agent.agentId));
      return [...agents, ...inherited.filter((agent) => !known.has(agent.agentId))];
    }, writes);
  }

  /**
   * Cuts the dead agents of a cluster off and breaks the locks that they left; one clean-up at a time. A pool in which the fence
   * agent lacks the right to is held back.
   * @throws BackendError, StoreError when this is not done, nor the pool held back
   */
  clean(cluster: string): Promise<void> {
    const next = this.cleaning.then(() => this.cleanNow(cluster));
    this.cleaning = next.catch(() => undefined);
    return next;
  }

  private async cleanNow(cluster: string): Promise<void> {
    const dead = this.membership.agents.filter((agent) => agent.cluster === cluster && agent.dead);
    if (dead.length === 0) return;
    const deadIds = new Set(dead.map((agent) => agent.agentId));
    const addresses = [
      ...new Set([...dead.flatMap((agent) => agent.addresses), ...(await this.connectionsOf(deadIds))]),
    ];
    // Of the same dead agents only what is held back is left to be cleaned up.
    const former = this.held.get(cluster);
    const isKnown = dead.every((agent) => former?.agentIds.has(agent.agentId) === true);
    const all = (await this.poolsOf(cluster)).map((document) => document.value);
    if (all.length > 0 && !isKnown) await this.record(cluster, dead);
    const pools = new Map<string, string>();
    for (const pool of all) {
      if (isKnown && former?.pools.has(pool.id) !== true) continue;
      try {
        await this.cutOff(pool, addresses);
      } catch (error) {
        // A pool that the backend has no longer holds no lock, and must not keep the others' agent from starting.
        if (error instanceof BackendError && error.code === 'NOT_FOUND') continue;
        if (!(error instanceof BackendError && error.reason === NO_RIGHT)) throw error;
        pools.set(pool.id, this.holdBack(pool, former, error));
      }
    }
    if (pools.size > 0) {
      this.held.set(cluster, { agentIds: deadIds, pools });
      this.tryAgain(cluster);
      return;
    }
    await this.membership.changeAgents((agents) => agents.filter((agent) => !deadIds.has(agent.agentId)));
    this.held.delete(cluster);
    if (former !== undefined) this.notice('info', 'every pool is cleaned up after dead agents again', { cluster });
  }

  /** @returns why, in one sentence */
  private holdBack(pool: Pool, former: HeldBack | undefined, error: BackendError): string {
    const { cephPool, cluster } = pool.settings;
    const why =
      `The pool ${pool.id} waits: the fence agent has no rights in the Ceph pool ${cephPool}, so that it cannot clean up ` +
      `after an agent that ended. Run "moorage pool init ${cephPool}" with an administrator's keyring.`;
    if (former?.pools.has(pool.id) !== true) this.notice('warn', why, { cluster, pool: pool.id }, error);
    return why;
  }

  /** Cleans up what is held back until nothing is any more. */
  private tryAgain(cluster: string): void {
    if (this.retries.has(cluster)) return;
    const { signal } = this.membership;
    const retry = async () => {
      let pause = FIRST_PAUSE;
      while (this.held.has(cluster) && !signal.aborted) {
        await this.clock.sleep(pause, signal);
        if (signal.aborted) break;
        pause = Math.min(pause * 2, LONGEST_PAUSE);
        await this.clean(cluster).catch((error: unknown) => {
          if (!signal.aborted) this.notice('warn', 'what a dead agent left is not cleaned up yet', { cluster }, error);
        });
      }
      // At once with the last look: what is held back after it is tried again by another one.
      this.retries.delete(cluster);
    };
    this.retries.set(cluster, retry());
  }

  private notice(level: 'info' | 'warn', message: string, fields: Record<string, string>, error?: unknown): void {
    this.events.notice({ level, message, fields, ...(error === undefined ? {} : { error }) });
  }

  private async record(cluster: string, dead: readonly AgentRecord[]): Promise<void> {
    const { store, membership } = this;
    for (const agent of dead) {
      const addresses = [...agent.addresses, ...(await this.connectionsOf(new Set([agent.agentId])))];
      // Its own agents a controller reaps itself, and on the same machine a free file lock proves it.
      const provenDead = agent.reaped === true || this.settings.storeIsExclusive;
      const cause = { reason: 'agent', subjectId: agent.agentId, nodeId: '', provenDead } as const;
      const writes = cutOffWrites(this.clock, cluster, addresses, cause);
      await recordCutOffs(
        store,
        writes,
        () => membership.liveCheck(),
        () => membership.refresh(),
      );
    }
  }

  private async cutOff(pool: Pool, addresses: readonly string[]): Promise<void> {
    if (addresses.length === 0) return;
    const { fence } = this.backend();
    const expirySeconds = this.settings.cutOffExpirySeconds;
    await fence.cutOff(pool, { addresses, expirySeconds }, this.context('cut-off-dead-agent'));
    for (const image of await this.imagesInWork(pool)) {
      await fence.breakLocks(pool, { image, ownerAddresses: addresses }, this.context('break-dead-agents-locks'));
    }
  }

  /** Every image whose lock an agent may have held: of the operations, and what the reaper works on without one. */
  private async imagesInWork(pool: Pool): Promise<readonly ImageRecord[]> {
    const images = new Map<string, ImageRecord>();
    const unknown: string[] = [];
    for (const operation of await this.runningOperations()) {
      if (operation.poolId !== pool.id) continue;
      const definition = this.definitions.get(operation.kind);
      // Of a kind that a newer version has begun nothing is known but what it is about.
      if (definition === undefined) unknown.push(operation.resourceId);
      for (const image of (await definition?.images(operation.plan, operation)) ?? []) images.set(image.name, image);
    }
    const points = await listAll<PointInTime>(this.store, indexes.points);
    const reaped = await listAll<Volume | Snapshot>(this.store, indexes.reap);
    const ids = [
      ...unknown,
      ...points.map((point) => point.value.volumeId),
      // A purge takes the point of the image's parent along.
      ...reaped.flatMap(({ value }) => (value.state === 'purging' ? (value.image?.parent?.resourceId ?? []) : [])),
    ].filter((id) => id.startsWith('vol-'));
    for (const document of await this.store.getMany<Volume | Tombstone>(ids.map(keys.volume))) {
      const volume = document?.value;
      if (volume === undefined || !('image' in volume) || volume.poolId !== pool.id) continue;
      if (volume.image !== undefined) images.set(volume.image.name, volume.image);
    }
    return [...images.values()];
  }

  private context(name: string): StepContext {
    return {
      operationId: '',
      name,
      timeoutMilliseconds: this.settings.stepTimeoutMilliseconds,
      signal: this.membership.signal,
    };
  }

  private async poolsOf(cluster: string): Promise<readonly StoredDocument<Pool>[]> {
    const pools = await listAll<Pool>(this.store, indexes.pools);
    return pools.filter((pool) => pool.value.settings.cluster === cluster);
  }

  private async connectionsOf(agentIds: ReadonlySet<string>): Promise<readonly string[]> {
    const points = await listAll<PointInTime>(this.store, indexes.points);
    const operations = await this.runningOperations();
    const connections = [
      ...points.map((point) => point.value.connection),
      ...operations.map(
        (operation) => (operation.plan as { connection?: PointInTime['connection'] } | null)?.connection,
      ),
    ];
    return connections.flatMap((connection) =>
      connection !== undefined && agentIds.has(connection.agentId) ? connection.addresses : [],
    );
  }

  private async runningOperations(): Promise<readonly Operation[]> {
    return (await listAll<Operation>(this.store, indexes.operationsRunning)).map((document) => document.value);
  }
}

/** Everything in an index, or in the part of it before a position. */
export async function listAll<T>(store: Store, index: string, before?: string): Promise<readonly StoredDocument<T>[]> {
  const documents: StoredDocument<T>[] = [];
  let after: string | undefined;
  do {
    const page = await store.list<T>(index, {
      limit: 500,
      ...(after === undefined ? {} : { after }),
      ...(before === undefined ? {} : { before }),
    });
    documents.push(...page.documents);
    after = page.cursor;
  } while (after !== undefined);
  return documents;
}
