import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';

import type { CoreMetrics } from '../core/ports/metrics.js';
import type { BackendObserver, CallObserver } from './events.js';

/** Everything that is counted. */
export interface Metrics {
  readonly core: CoreMetrics;
  readonly calls: CallObserver;
  readonly backend: Pick<BackendObserver, 'agentEvent' | 'callEnded'>;
  /** The content of /metrics and its media type. */
  render(): Promise<{ readonly text: string; readonly contentType: string }>;
}

// From a call that needs only the store (under 1 ms) to a snapshot on a slow cluster.
const seconds = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

/** Makes the metrics, in a registry of their own. */
export function createMetrics(): Metrics {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry });

  const calls = new Counter({
    name: 'moorage_rpc_calls_total',
    help: 'Calls of the API that ended, by method and gRPC status code.',
    labelNames: ['method', 'code'] as const,
    registers,
  });
  const callSeconds = new Histogram({
    name: 'moorage_rpc_call_seconds',
    help: 'Time from a call to its answer.',
    labelNames: ['method'] as const,
    buckets: seconds,
    registers,
  });
  const callsRunning = new Gauge({ name: 'moorage_rpc_calls_running', help: 'Calls that run now.', registers });
  const operations = new Counter({
    name: 'moorage_operations_total',
    help: 'Operations that ended, by kind and outcome.',
    labelNames: ['kind', 'outcome'] as const,
    registers,
  });
  const operationSeconds = new Histogram({
    name: 'moorage_operation_seconds',
    help: 'Time from the record of an operation to its end.',
    labelNames: ['kind'] as const,
    buckets: seconds,
    registers,
  });
  const journal = new Gauge({ name: 'moorage_journal_operations', help: 'Operations that run now.', registers });
  const reaperPasses = new Counter({ name: 'moorage_reaper_passes_total', help: 'Passes of the reaper.', registers });
  const reaperImages = new Counter({
    name: 'moorage_reaper_images_total',
    help: 'Images that the reaper purged, or failed to purge in a pass.',
    labelNames: ['outcome'] as const,
    registers,
  });
  const reaperWaiting = new Gauge({
    name: 'moorage_reaper_waiting_images',
    help: 'Images that something still needed in the last pass.',
    registers,
  });
  const reaperSeconds = new Histogram({
    name: 'moorage_reaper_pass_seconds',
    help: 'Time of a pass of the reaper.',
    buckets: seconds,
    registers,
  });
  const backendCalls = new Counter({
    name: 'moorage_backend_calls_total',
    help: 'Steps that agents were asked for, by outcome (ok, permanent, not-begun, unknown).',
    labelNames: ['cluster', 'role', 'method', 'outcome'] as const,
    registers,
  });
  const backendSeconds = new Histogram({
    name: 'moorage_backend_call_seconds',
    help: 'Time of a step, with the wait for its agent.',
    labelNames: ['role', 'method'] as const,
    buckets: seconds,
    registers,
  });
  const agentStarts = new Counter({
    name: 'moorage_agent_starts_total',
    help: 'Agent processes that were started.',
    labelNames: ['cluster', 'role'] as const,
    registers,
  });
  const agentRestarts = new Counter({
    name: 'moorage_agent_restarts_total',
    help: 'Agent processes that were started because the one before them had ended.',
    labelNames: ['cluster', 'role'] as const,
    registers,
  });
  const agentsReady = new Gauge({
    name: 'moorage_agent_ready',
    help: 'Whether the agent takes steps (1) or not (0).',
    labelNames: ['cluster', 'role'] as const,
    registers,
  });
  const started = new Set<string>();

  return {
    core: {
      operationEnded(kind, outcome, milliseconds) {
        operations.inc({ kind, outcome });
        operationSeconds.observe({ kind }, milliseconds / 1000);
      },
      journalLength: (length) => journal.set(length),
      reaperPass({ purged, failed, waiting, milliseconds }) {
        reaperPasses.inc();
        reaperImages.inc({ outcome: 'purged' }, purged);
        reaperImages.inc({ outcome: 'failed' }, failed);
        reaperWaiting.set(waiting);
        reaperSeconds.observe(milliseconds / 1000);
      },
    },
    calls: {
      callBegan: () => callsRunning.inc(),
      callEnded({ method, code, milliseconds }) {
        callsRunning.dec();
        calls.inc({ method, code });
        callSeconds.observe({ method }, milliseconds / 1000);
      },
    },
    backend: {
      agentEvent({ kind, cluster, role }) {
        const labels = { cluster, role };
        if (kind === 'started') {
          agentStarts.inc(labels);
          const agent = `${cluster}/${role}`;
          if (started.has(agent)) agentRestarts.inc(labels);
          else agentRestarts.inc(labels, 0);
          started.add(agent);
        }
        if (kind === 'ready') agentsReady.set(labels, 1);
        if (kind === 'died' || kind === 'stopped') agentsReady.set(labels, 0);
      },
      callEnded({ cluster, role, method, outcome, milliseconds }) {
        backendCalls.inc({ cluster, role, method, outcome });
        backendSeconds.observe({ role, method }, milliseconds / 1000);
      },
    },
    async render() {
      return { text: await registry.metrics(), contentType: registry.contentType };
    },
  };
}
