import { setTimeout as sleep } from 'node:timers/promises';
import type { Services } from '../../src/core/services/types.js';
import { type EndedCall, type Listener, type RunningServer, startServer } from '../../src/rpc/index.js';
import type { CallEnvironment } from '../../src/rpc/unary.js';
import type { CertificateEvent } from '../../src/tls/index.js';

/** A server of the API for tests, and what it told of its calls. */
export interface TestServer {
  readonly server: RunningServer;
  readonly ended: EndedCall[];
  readonly certificates: CertificateEvent[];
  readonly unexpected: { readonly requestId: string; readonly error: unknown }[];
}

/** Time as it is. */
export const realClock: CallEnvironment['clock'] = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  sleep: (milliseconds, signal) =>
    sleep(milliseconds, undefined, { ref: false, ...(signal && { signal }) }).catch(() => undefined),
};

/** Serves the services at the listeners. */
export async function serve(
  services: Services,
  listeners: readonly Listener[],
  limits = { messageBytes: 1 << 20, concurrentCalls: 64 },
  clock = realClock,
): Promise<TestServer> {
  const ended: EndedCall[] = [];
  const certificates: CertificateEvent[] = [];
  const unexpected: TestServer['unexpected'] = [];
  const server = await startServer({
    services,
    listeners,
    limits,
    environment: {
      clock,
      deadlines: { defaultMilliseconds: 60_000, maximumMilliseconds: 600_000 },
      unexpectedError: (requestId, _method, error) => unexpected.push({ requestId, error }),
    },
    certificateEvent: (_address, event) => certificates.push(event),
    observer: { callBegan: () => undefined, callEnded: (call) => ended.push(call) },
  });
  return { server, ended, certificates, unexpected };
}

/** A plain-text listener on a free port of loopback. */
export const plainListener: Listener = {
  address: '127.0.0.1:0',
  security: { kind: 'plaintext', role: 'admin', socketMode: 0o600 },
};
