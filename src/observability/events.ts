/*
 * What the edge and the backends tell, as far as it is logged and counted. Those who tell it have types of their own that
 * fit these; nobody here imports them.
 */

/** One call of the API that ended. */
export interface EndedCall {
  readonly requestId: string;
  readonly method: string;
  readonly principal: string;
  readonly role: string;
  /** Name of the gRPC status code. */
  readonly code: string;
  readonly milliseconds: number;
  /** Sentence of the status; empty for OK. */
  readonly message: string;
  /** Where it came from. */
  readonly peer: string;
  /** What it is about: ids and names by the API's field names. */
  readonly subjects: Readonly<Record<string, string | boolean>>;
  /** Whether it belongs into the audit log. */
  readonly audited: boolean;
}

/** Hears of calls of the API. */
export interface CallObserver {
  callBegan(method: string): void;
  callEnded(call: EndedCall): void;
}

/** Something that happened to an agent. */
export interface AgentEvent {
  readonly kind: 'started' | 'ready' | 'start-failed' | 'admit-failed' | 'died' | 'report-failed' | 'stopped';
  readonly cluster: string;
  readonly role: string;
  readonly message: string;
  readonly processId?: number | undefined;
  readonly agentId?: string | undefined;
  readonly error?: unknown;
}

/** A step of an agent that ended. */
export interface BackendCall {
  readonly cluster: string;
  readonly role: string;
  readonly method: string;
  readonly outcome: string;
  /** gRPC status name. */
  readonly code: string;
  readonly milliseconds: number;
}

/** Hears of agents. */
export interface BackendObserver {
  agentEvent(event: AgentEvent): void;
  agentLine(source: { readonly cluster: string; readonly role: string; readonly line: string }): void;
  callEnded(call: BackendCall): void;
}
