import { mkdir } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { type Backends, createBackends, defaultAgentSettings } from '../backends/index.js';
import type { Configuration } from '../config/index.js';
import { type Core, type CoreSettings, createCore, defaultCoreSettings } from '../core/index.js';
import type { NodeCertificateIssuer } from '../core/ports/certificates.js';
import type { Clock } from '../core/ports/clock.js';
import type { DescriptorSealer, Vault } from '../core/ports/sealer.js';
import { isReplicated, type Store, StoreError } from '../core/ports/store.js';
import type { Services } from '../core/services/types.js';
import { loadOrCreateControllerKeyFile } from '../descriptor/index.js';
import {
  type AuditLog,
  backendObserver,
  type CallObserver,
  callObserver,
  coreEvents,
  createMetrics,
  type Logger,
  type Metrics,
  type MetricsServer,
  openAuditLog,
  startMetricsServer,
} from '../observability/index.js';
import { type Listener, type RunningServer, startServer } from '../rpc/index.js';
import {
  createDescriptorSealer,
  createVault,
  loadMasterKeyFile,
  loadMasterKeyFromDescriptor,
  type MasterKeys,
} from '../sealing/index.js';
import { createIssuer } from './issuer.js';
import { processIdentity } from './process-identity.js';
import { openStore } from './store.js';

/** The process's clocks. */
export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  sleep,
};

/** How long a controller that begins anew waits between two tries while its store is away. */
const START_PAUSE_MILLISECONDS = 500;

/** By hand, because each abort of the standard library's makes an error with a stack, on the way of every call that waits. */
function sleep(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted === true) {
      resolve();
      return;
    }
    const end = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', end);
      resolve();
    };
    const timer = setTimeout(end, milliseconds).unref();
    signal?.addEventListener('abort', end, { once: true });
  });
}

/** A controller that serves. */
export interface Controller {
  /** Where the API is served, in the order of the configuration's listeners. */
  readonly addresses: readonly string[];
  /** Where metrics are served. */
  readonly metricsAddress: string | undefined;
  /** Goes on in new log files where old ones were moved away, and looks at the certificates' files (SIGHUP). */
  reload(): void;
  /** Drains: calls get their answers, running operations their time; then everything ends in good order. */
  stop(): Promise<void>;
}

/**
 * Puts a controller together and starts it: store, keys, agents, core, API.
 * @throws Error with one sentence for the operator; what was started by then is stopped
 */
export async function startController(configuration: Configuration, logger: Logger): Promise<Controller> {
  await mkdir(configuration.state_directory, { recursive: true, mode: 0o700 });
  const metrics = createMetrics();
  const audit = auditLogOf(configuration, logger);
  const store = await openStore(configuration, coreEvents(logger));
  const life = new Life(configuration, logger, metrics, store);
  let server: RunningServer | undefined;
  let metricsServer: MetricsServer | undefined;
  const stop = async (): Promise<void> => {
    const drain = configuration.shutdown.drain;
    const began = performance.now();
    await server?.stop(drain);
    await life.stop(Math.max(0, drain - (performance.now() - began)));
    await metricsServer?.stop();
    await store.close();
    audit?.close();
  };
  try {
    const keys = await loadMasterKey(configuration);
    const descriptorKeys = await loadOrCreateControllerKeyFile(configuration.descriptor_key);
    await life.begin(createVault(keys), createDescriptorSealer(descriptorKeys.current), await issuerOf(configuration));
    server = await startServer({
      services: life.services,
      listeners: configuration.listeners.map(listenerOf),
      environment: {
        clock: systemClock,
        deadlines: {
          defaultMilliseconds: configuration.deadlines.default,
          maximumMilliseconds: configuration.deadlines.maximum,
        },
        unexpectedError: (requestId, method, error) =>
          logger.error({ request_id: requestId, method, err: error }, 'a call failed in a way that nobody foresaw'),
      },
      certificateEvent: (address, { kind, message, authorityWithdrawn }) => {
        if (kind === 'refused')
          logger.error({ address, detail: message }, 'new certificates cannot be used; the old ones are');
        else logger.info({ address, authority_withdrawn: authorityWithdrawn }, 'new certificates are used');
      },
      observer: both(callObserver(logger, metrics), audit),
      limits: {
        messageBytes: configuration.limits.message_size,
        concurrentCalls: configuration.limits.concurrent_calls,
      },
    });
    if (configuration.metrics.address !== undefined) {
      metricsServer = await startMetricsServer(metrics, configuration.metrics.address);
    }
  } catch (error) {
    await stop().catch((second: unknown) => logger.error({ err: second }, 'stopping after a failed start failed too'));
    throw error;
  }
  return {
    addresses: server.addresses,
    metricsAddress: metricsServer?.address,
    reload: () => {
      audit?.reopen();
      server?.reloadCertificates();
    },
    stop,
  };
}

function auditLogOf({ audit }: Configuration, logger: Logger): AuditLog | undefined {
  if (audit.file === undefined) return undefined;
  return openAuditLog(audit.file, (error) =>
    logger.error({ err: error }, 'the audit log lacks a line that could not be written'),
  );
}

function both(calls: CallObserver, audit: AuditLog | undefined): CallObserver {
  if (audit === undefined) return calls;
  return {
    callBegan: (method) => calls.callBegan(method),
    callEnded(call) {
      audit.callEnded(call);
      calls.callEnded(call);
    },
  };
}

/**
 * The core and its agents, from one start to the next: a controller whose beat stood still for too long has lost everything
 * that it had begun. It kills its agents and comes back as somebody new; its API stays where it is.
 */
class Life {
  readonly services: Services;
  readonly #configuration: Configuration;
  readonly #logger: Logger;
  readonly #metrics: Metrics;
  readonly #store: Store;
  readonly #backends: Backends;
  #core: Core | undefined;
  #makeCore: () => Core = () => {
    throw new Error('The controller has not begun.');
  };
  #stopped = false;
  #change: Promise<void> = Promise.resolve();

  constructor(configuration: Configuration, logger: Logger, metrics: Metrics, store: Store) {
    this.#configuration = configuration;
    this.#logger = logger;
    this.#metrics = metrics;
    this.#store = store;
    // What others saw acknowledged may be missing on the new primary: whoever worked with the old one begins anew.
    if (isReplicated(store)) {
      store.onPrimaryChange(({ kind }) => {
        if (kind === 'replaced') this.#core?.lose('The store has another primary.');
      });
    }
    this.#backends = createBackends({
      clusters: Object.entries(configuration.clusters).map(([name, { ceph_configuration, data, fence }]) => ({
        name,
        configurationFile: ceph_configuration,
        dataUser: data.user,
        dataKeyringFile: data.keyring,
        fenceUser: fence.user,
        fenceKeyringFile: fence.keyring,
      })),
      agents: {
        ...defaultAgentSettings,
        runDirectory: configuration.run_directory,
        stateDirectory: configuration.state_directory,
        threads: configuration.agents.threads,
        lane: configuration.agents.lane,
        laneQueue: configuration.agents.lane_queue,
        osdTimeoutSeconds: configuration.agents.osd_timeout / 1000,
        poolIntervalMilliseconds: configuration.agents.pool_interval,
      },
      observer: backendObserver(logger, metrics),
      clock: systemClock,
      lifecycle: () => ({
        admit: (agent) => this.#current.lifecycle.admit(agent),
        // While stopping there is nobody to tell: the next start finds the agent in this one's record and cleans up after it.
        died: (agent) => (this.#stopped ? Promise.resolve() : this.#current.lifecycle.died(agent)),
        heldBack: (poolId) => this.#core?.lifecycle.heldBack(poolId),
      }),
    });
    const current = (): Services => this.#current.services;
    this.services = {
      get volumes() {
        return current().volumes;
      },
      get snapshots() {
        return current().snapshots;
      },
      get exports() {
        return current().exports;
      },
      get nodes() {
        return current().nodes;
      },
      get enrollment() {
        return current().enrollment;
      },
      get pools() {
        return current().pools;
      },
      get operations() {
        return current().operations;
      },
      get events() {
        return current().events;
      },
      get admin() {
        return current().admin;
      },
    };
  }

  get #current(): Core {
    if (this.#core === undefined) throw new Error('The controller has not begun.');
    return this.#core;
  }

  async begin(vault: Vault, sealer: DescriptorSealer, issuer: NodeCertificateIssuer | undefined): Promise<void> {
    const identity = await processIdentity();
    this.#makeCore = () =>
      createCore({
        store: this.#store,
        backend: () => this.#backends.port,
        vault,
        sealer,
        issuer,
        clock: systemClock,
        metrics: this.#metrics.core,
        events: coreEvents(this.#logger),
        settings: coreSettings(this.#configuration),
        process: identity,
        onLost: () => this.#comeBack(),
      });
    await this.#start();
  }

  async #start(): Promise<void> {
    this.#core = this.#makeCore();
    await this.#core.start();
    await this.#backends.start(this.#core.inc);
  }

  #comeBack(): void {
    this.#logger.error({}, 'this controller has lost its place; its agents are killed and it begins anew');
    this.#change = this.#change
      .then(async () => {
        if (this.#stopped) return;
        await this.#backends.stop();
        await this.#core?.stop(0);
        await this.#core?.leave().catch((error: unknown) => {
          // Then others wait until its beat has stood still for long enough.
          this.#logger.warn({ err: error }, 'the others could not be told that this controller has left');
        });
        await this.#startAnew();
        this.#logger.info({ inc: this.#core?.inc }, 'begun anew');
      })
      .catch((error: unknown) => {
        // Whoever runs the controller starts it again, and that one begins with a clean slate.
        this.#logger.fatal({ err: error }, 'the controller cannot begin anew and ends');
        process.exit(1);
      });
  }

  /** A store that others serve may be away for a while, and comes back by itself. */
  async #startAnew(): Promise<void> {
    while (!this.#stopped) {
      try {
        await this.#start();
        return;
      } catch (error) {
        if (!isReplicated(this.#store) || !(error instanceof StoreError) || error.kind === 'newer-version') throw error;
        this.#logger.warn({ err: error }, 'the store is away; the controller goes on trying to begin anew');
        await this.#core?.stop(0);
        await systemClock.sleep(START_PAUSE_MILLISECONDS);
      }
    }
  }

  /** @param grace how long running operations may take to end, in milliseconds */
  async stop(grace: number): Promise<void> {
    this.#stopped = true;
    await this.#change;
    const failures: unknown[] = [];
    await this.#core?.stop(grace).catch((error: unknown) => failures.push(error));
    const agentsEnded = await this.#backends.stop().then(
      () => true,
      (error: unknown) => {
        failures.push(error);
        return false;
      },
    );
    if (agentsEnded) await this.#core?.leave().catch((error: unknown) => failures.push(error));
    if (failures.length > 0) throw new AggregateError(failures, 'The controller did not stop cleanly.');
  }
}

function coreSettings(configuration: Configuration): CoreSettings {
  return {
    ...defaultCoreSettings,
    beatTimeoutMilliseconds: configuration.journal.beat_timeout,
    stepTimeoutMilliseconds: configuration.journal.step_timeout,
    retryLimitMilliseconds: configuration.journal.retry_limit,
    reaperIntervalMilliseconds: configuration.reaper.interval,
    reaperConcurrency: configuration.reaper.concurrency,
    sweepIntervalMilliseconds: configuration.reaper.sweep_interval,
    backupDirectory: configuration.backup_directory ?? join(configuration.state_directory, 'backup'),
    softCloneDepth: configuration.limits.flatten_depth,
    hardCloneDepth: configuration.limits.clone_depth,
    maximumRunningOperations: configuration.limits.running_operations,
    maximumWatches: configuration.limits.watches,
    maximumWatchesPerCaller: configuration.limits.watches_per_caller,
    eventRetentionMilliseconds: configuration.watch.retention,
    bookmarkIntervalMilliseconds: configuration.watch.bookmark_interval,
    cutOffExpirySeconds: Math.ceil(configuration.fencing.cut_off_expiry / 1000),
    storeIsExclusive: configuration.store.redis === undefined,
    description: `${hostname()}, process ${process.pid}`,
  };
}

function loadMasterKey({ master_key }: Configuration): Promise<MasterKeys> {
  return master_key.file_descriptor === undefined
    ? loadMasterKeyFile(master_key.file ?? '')
    : loadMasterKeyFromDescriptor(master_key.file_descriptor);
}

async function issuerOf({ enrollment }: Configuration): Promise<NodeCertificateIssuer | undefined> {
  if (enrollment.authority === undefined) return undefined;
  return createIssuer(enrollment.authority, enrollment.certificate_lifetime);
}

function listenerOf({ address, tls, enrollment, plaintext }: Configuration['listeners'][number]): Listener {
  if (tls !== undefined) {
    return {
      address,
      security: { kind: 'tls', certificate: tls.certificate, key: tls.key, clientCa: tls.client_ca },
    };
  }
  if (enrollment !== undefined) return { address, security: { kind: 'enrollment', ...enrollment } };
  if (plaintext === undefined) throw new Error(`${address}: neither tls nor plaintext`);
  return {
    address,
    security: { kind: 'plaintext', role: plaintext.role, socketMode: Number.parseInt(plaintext.socket_mode, 8) },
  };
}
