import type { BackendFailure } from '../core/ports/backend.js';

/** The role of an agent process. */
export type AgentRole = 'data' | 'fence';

/** A Ceph cluster as the controller's configuration names it. */
export interface ClusterSettings {
  /** What pools call it. */
  readonly name: string;
  /** Path of its ceph.conf. */
  readonly configurationFile: string;
  /** User of the role "data", without "client.". */
  readonly dataUser: string;
  /** Path of that user's keyring. */
  readonly dataKeyringFile: string;
  /** User of the role "fence", without "client.". */
  readonly fenceUser: string;
  /** Path of that user's keyring. */
  readonly fenceKeyringFile: string;
}

/** How agents are run. Times in milliseconds unless the name says seconds. */
export interface AgentSettings {
  /** For sockets: a directory of its own (0700) is made in it for each start. Its path must be short (unix sockets: 107 bytes). */
  readonly runDirectory: string;
  /** For the agents' lock files. */
  readonly stateDirectory: string;
  /** Threads in which an agent calls Ceph. A snapshot holds one for up to a second: they are its rate. */
  readonly threads: number;
  /** Steps of one pool that run at once; less than `threads`, so that a stuck pool does not take another's. */
  readonly lane: number;
  /** Steps of one pool that wait beyond these; further ones are answered "not begun". */
  readonly laneQueue: number;
  /** After how long a request to Ceph that is not answered fails. */
  readonly osdTimeoutSeconds: number;
  /** An agent that has not answered its first Hello for so long is killed. */
  readonly startMilliseconds: number;
  /** How often an agent is asked for a sign of life. */
  readonly helloIntervalMilliseconds: number;
  /** How long one such answer may take. Agents answer from their event loop: a Ceph that hangs does not delay it. */
  readonly helloTimeoutMilliseconds: number;
  /** After so many signs of life in a row that did not come, the agent is killed. */
  readonly helloMisses: number;
  /** First and last wait before an agent that died is started again. */
  readonly firstBackoffMilliseconds: number;
  readonly lastBackoffMilliseconds: number;
  /** An agent that was ready for so long begins again with the first wait. */
  readonly livedMilliseconds: number;
  /** How often the capacity of each pool, and what nodes need to know of it, is read. */
  readonly poolIntervalMilliseconds: number;
  /** How long such a reading may take. */
  readonly poolTimeoutMilliseconds: number;
}

/** What applies when nothing is set. */
export const defaultAgentSettings: Omit<AgentSettings, 'runDirectory' | 'stateDirectory'> = {
  threads: 96,
  lane: 32,
  laneQueue: 1000,
  osdTimeoutSeconds: 30,
  startMilliseconds: 60_000,
  helloIntervalMilliseconds: 2_000,
  helloTimeoutMilliseconds: 5_000,
  helloMisses: 3,
  firstBackoffMilliseconds: 50,
  lastBackoffMilliseconds: 5_000,
  livedMilliseconds: 1_000,
  poolIntervalMilliseconds: 10_000,
  poolTimeoutMilliseconds: 10_000,
};

/** Something that happened to an agent, for the log. */
export interface AgentEvent {
  readonly kind: 'started' | 'ready' | 'start-failed' | 'admit-failed' | 'died' | 'report-failed' | 'stopped';
  readonly cluster: string;
  readonly role: AgentRole;
  /** One sentence for people. */
  readonly message: string;
  readonly processId?: number | undefined;
  readonly agentId?: string | undefined;
  readonly error?: unknown;
}

/** What the backends tell whoever logs and counts. None of these may throw. */
export interface BackendObserver {
  /** An agent came, went or failed. "started" beyond the first of a cluster and role is a restart. */
  agentEvent(event: AgentEvent): void;
  /** A line that an agent wrote for its log. */
  agentLine(source: { readonly cluster: string; readonly role: AgentRole; readonly line: string }): void;
  /** A call of a step ended. `milliseconds` counts from when it was asked for, the wait for the agent included. */
  callEnded(call: {
    readonly cluster: string;
    readonly role: AgentRole;
    readonly method: string;
    readonly outcome: 'ok' | BackendFailure;
    /** gRPC status name. */
    readonly code: string;
    readonly milliseconds: number;
  }): void;
}
