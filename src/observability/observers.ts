import type { AgentEvent, BackendObserver, CallObserver } from './events.js';

import type { Logger } from './logger.js';
import type { Metrics } from './metrics.js';

/** Codes of an answer that is the controller's fault, or a sign of trouble. */
const troubling: readonly string[] = ['INTERNAL', 'UNKNOWN', 'UNAVAILABLE', 'DATA_LOSS'];

/** The access log, one line a call, and the counts of calls. */
export function callObserver(logger: Logger, metrics: Metrics): CallObserver {
  return {
    callBegan: (method) => metrics.calls.callBegan(method),
    callEnded(call) {
      metrics.calls.callEnded(call);
      const level = troubling.includes(call.code) ? 'warn' : 'info';
      logger[level](
        {
          request_id: call.requestId,
          method: call.method,
          principal: call.principal,
          role: call.role,
          code: call.code,
          ms: Math.round(call.milliseconds * 1000) / 1000,
          ...(call.message !== '' && { detail: call.message }),
        },
        'call',
      );
    },
  };
}

const agentLevels: Readonly<Record<AgentEvent['kind'], 'info' | 'warn' | 'error'>> = {
  started: 'info',
  ready: 'info',
  stopped: 'info',
  died: 'warn',
  'start-failed': 'error',
  'admit-failed': 'error',
  'report-failed': 'error',
};

/** What the backends tell, in the log and the counts. */
export function backendObserver(logger: Logger, metrics: Metrics): BackendObserver {
  return {
    agentEvent(event) {
      metrics.backend.agentEvent(event);
      logger[agentLevels[event.kind]](
        {
          event: event.kind,
          cluster: event.cluster,
          agent_role: event.role,
          ...(event.processId !== undefined && { agent_pid: event.processId }),
          ...(event.agentId !== undefined && { agent_id: event.agentId }),
          ...(event.error !== undefined && { err: event.error }),
        },
        event.message,
      );
    },
    agentLine({ cluster, role, line }) {
      logger.info({ cluster, agent_role: role, line }, 'agent');
    },
    callEnded(call) {
      metrics.backend.callEnded(call);
      const { cluster, role, method, outcome, code, milliseconds } = call;
      logger.debug({ cluster, agent_role: role, method, outcome, code, ms: Math.round(milliseconds) }, 'backend call');
    },
  };
}
