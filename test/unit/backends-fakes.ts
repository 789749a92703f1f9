import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import {
  type handleUnaryCall,
  Metadata,
  Server,
  ServerCredentials,
  type StatusObject,
  type status,
} from '@grpc/grpc-js';
import { ErrorInfo } from 'nice-grpc-error-details';
import { Any } from 'nice-grpc-error-details/lib/proto/google/protobuf/any.js';
import { Status } from 'nice-grpc-error-details/lib/proto/google/rpc/status.js';
import {
  type AgentEvent,
  type AgentLauncher,
  type AgentSettings,
  type BackendObserver,
  type Backends,
  createBackends,
  defaultAgentSettings,
} from '../../src/backends/index.js';
import { agentService, dataService, fenceService } from '../../src/backends/protocol.js';
import type { Pool } from '../../src/core/model/resources.js';
import type { AgentIdentity, AgentLifecycle, StepContext } from '../../src/core/ports/backend.js';
import type { Clock } from '../../src/core/ports/clock.js';

export const clock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  sleep: async (milliseconds, signal) => {
    await delay(milliseconds, undefined, { ref: false, ...(signal === undefined ? {} : { signal }) }).catch(() => {});
  },
};

export const pool: Pool = {
  id: 'pool-a',
  settings: { backend: 'rbd', cluster: 'main', cephPool: 'moorage', access: 'managed', keyringUser: '' },
  undeleteWindowSeconds: 60,
  tags: {},
  createTime: 0,
  updateTime: 0,
};

export function step(timeoutMilliseconds = 60_000, signal?: AbortSignal): StepContext {
  return { operationId: 'op-1', name: 'test', timeoutMilliseconds, ...(signal === undefined ? {} : { signal }) };
}

/** A refusal as an agent sends it. */
export function refusal(code: status, reason: string, metadata: Record<string, string> = {}): Partial<StatusObject> {
  const detail = ErrorInfo.encode(ErrorInfo.fromPartial({ reason, domain: 'fake', metadata })).finish();
  const packed = Status.encode(
    Status.fromPartial({
      code,
      message: reason,
      details: [Any.fromPartial({ typeUrl: `type.googleapis.com/${ErrorInfo.$type}`, value: detail })],
    }),
  ).finish();
  const trailer = new Metadata();
  trailer.set('grpc-status-details-bin', Buffer.from(packed));
  return { code, details: `refused: ${reason}`, metadata: trailer };
}

/** What a fake agent does when it is called; `silent` never answers. */
export type Behaviour = (
  method: string,
  request: Record<string, unknown>,
  agent: FakeAgent,
) => Promise<object | 'silent'> | object | 'silent';

/** An agent that lives in this process and does what the test says. */
export interface FakeAgent {
  readonly agentId: string;
  readonly role: 'data' | 'fence';
  readonly calls: { readonly method: string; readonly request: Record<string, unknown> }[];
  /** Ends as if it had crashed. */
  crash(): void;
  /** The first part of a crash: its socket is dead, and nobody has heard of its end yet. */
  hangUp(): void;
}

export interface Fixture {
  readonly backends: Backends;
  readonly agents: FakeAgent[];
  readonly events: AgentEvent[];
  readonly calls: { readonly method: string; readonly outcome: string; readonly code: string }[];
  /** What the core was told, in order: "admit data <id>", "died …". */
  readonly story: string[];
  end(): Promise<void>;
}

/** Backends whose agents are fakes. */
export function fakeBackends(
  options: {
    readonly behave?: Behaviour;
    readonly admit?: (agent: AgentIdentity) => Promise<void>;
    readonly died?: (agent: AgentIdentity) => Promise<void>;
    readonly heldBack?: (poolId: string) => string | undefined;
    readonly launchFails?: () => boolean;
    /** Never listens. */
    readonly mute?: boolean;
    readonly settings?: Partial<AgentSettings>;
  } = {},
): Fixture {
  const agents: FakeAgent[] = [];
  const directories: string[] = [];
  const events: AgentEvent[] = [];
  const calls: { method: string; outcome: string; code: string }[] = [];
  const story: string[] = [];
  const launcher: AgentLauncher = {
    async launch(_cluster, role) {
      if (options.launchFails?.()) throw new Error('no such program');
      const directory = await mkdtemp(join(tmpdir(), 'moorage-fake-'));
      directories.push(directory);
      const server = new Server();
      let ended = (_how: string) => {};
      const exited = new Promise<string>((resolve) => {
        ended = resolve;
      });
      const agent: FakeAgent = {
        agentId: `${role}-${agents.filter((each) => each.role === role).length + 1}`,
        role,
        calls: [],
        hangUp() {
          server.forceShutdown();
        },
        crash() {
          agent.hangUp();
          ended('signal SIGKILL');
        },
      };
      agents.push(agent);
      for (const service of [agentService, dataService, fenceService]) {
        const methods = Object.keys(service).map(
          (method): [string, handleUnaryCall<Record<string, unknown>, object>] => [
            method,
            (call, callback) => {
              agent.calls.push({ method, request: call.request });
              Promise.resolve()
                .then(() => options.behave?.(method, call.request, agent))
                .then(
                  (answer) => {
                    if (answer === 'silent') return;
                    if (answer !== undefined) callback(null, answer);
                    else if (method === 'Hello') {
                      const addresses = [`127.0.0.1:0/${agents.length}`];
                      callback(null, {
                        protocolVersion: 1,
                        backend: 'fake',
                        agentId: agent.agentId,
                        roles: [role],
                        addresses,
                      });
                    } else callback(null, {});
                  },
                  (error) => callback(error),
                );
            },
          ],
        );
        server.addService(service as never, Object.fromEntries(methods));
      }
      const socket = join(directory, 'a.sock');
      if (!options.mute) {
        await new Promise<void>((resolve, reject) =>
          server.bindAsync(`unix:${socket}`, ServerCredentials.createInsecure(), (error) =>
            error === null ? resolve() : reject(error),
          ),
        );
      }
      return {
        processId: undefined,
        target: `unix:${socket}`,
        exited,
        async kill() {
          agent.crash();
        },
      };
    },
  };
  const lifecycle: AgentLifecycle = {
    async admit(agent) {
      story.push(`admit ${agent.agentId}`);
      await options.admit?.(agent);
      story.push(`admitted ${agent.agentId}`);
    },
    async died(agent) {
      await options.died?.(agent);
      story.push(`died ${agent.agentId}`);
    },
    heldBack: (poolId) => options.heldBack?.(poolId),
  };
  const observer: BackendObserver = {
    agentEvent: (event) => events.push(event),
    agentLine: () => {},
    callEnded: ({ method, outcome, code }) => calls.push({ method, outcome, code }),
  };
  const backends = createBackends({
    clusters: [
      {
        name: 'main',
        configurationFile: '/nowhere/ceph.conf',
        dataUser: 'data',
        dataKeyringFile: '/nowhere/data.keyring',
        fenceUser: 'fence',
        fenceKeyringFile: '/nowhere/fence.keyring',
      },
    ],
    agents: {
      ...defaultAgentSettings,
      runDirectory: tmpdir(),
      stateDirectory: tmpdir(),
      firstBackoffMilliseconds: 5,
      lastBackoffMilliseconds: 40,
      helloIntervalMilliseconds: 20,
      // Long enough for a process that stands still for a while on a busy machine.
      helloTimeoutMilliseconds: 1_000,
      helloMisses: 2,
      startMilliseconds: 30_000,
      livedMilliseconds: 200,
      ...options.settings,
    },
    observer,
    clock,
    lifecycle: () => lifecycle,
    launcher,
    renewalPauses: { asked: 300, unasked: { fence: 1_000, data: 1_000 } },
  });
  return {
    backends,
    agents,
    events,
    calls,
    story,
    async end() {
      await backends.stop();
      for (const directory of directories) await rm(directory, { recursive: true, force: true });
    },
  };
}

/** Waits until a condition holds. */
export async function until(what: string, holds: () => boolean): Promise<void> {
  const end = performance.now() + 90_000;
  while (!holds()) {
    if (performance.now() > end) throw new Error(`waited in vain until ${what}`);
    await delay(5);
  }
}
