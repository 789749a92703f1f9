import { setMaxListeners } from 'node:events';
import { chmod, lstat, unlink } from 'node:fs/promises';
import { connect, isIP } from 'node:net';
import { experimental, Server, ServerCredentials } from '@grpc/grpc-js';
import { HealthImplementation } from 'grpc-health-check';
import type { Role, Services } from '../core/services/types.js';
import { type CertificateEvent, WatchedCertificates } from '../tls/index.js';
import { services as definitions } from './definitions.js';
import { adminHandlers } from './handlers/admin.js';
import { eventHandlers } from './handlers/event.js';
import { nodeHandlers } from './handlers/node.js';
import { operationHandlers } from './handlers/operation.js';
import { poolHandlers } from './handlers/pool.js';
import { storageControllerHandlers } from './handlers/storage-controller.js';
import { admit, type CallLimit } from './interceptors/admit.js';
import { authenticate, type Door } from './interceptors/authenticate.js';
import { type CallObserver, observe } from './interceptors/observe.js';
import { reflectionServices } from './reflection.js';
import { type CallEnvironment, tolerant } from './unary.js';

/** One place to listen at. */
export interface Listener {
  /** "unix:/path", "127.0.0.1:7420" or "[::1]:7420"; port 0 takes a free one. */
  readonly address: string;
  readonly security:
    | { readonly kind: 'tls'; readonly certificate: string; readonly key: string; readonly clientCa: string }
    /** Shows a certificate and asks for none: for Enroll alone. */
    | { readonly kind: 'enrollment'; readonly certificate: string; readonly key: string }
    | {
        readonly kind: 'plaintext';
        /** What everybody who reaches this listener may do. */
        readonly role: Role;
        /** Mode of the unix socket. */
        readonly socketMode: number;
      };
}

/** What the server is made of. */
export interface ServerOptions {
  readonly services: Services;
  readonly listeners: readonly Listener[];
  readonly environment: Omit<CallEnvironment, 'admit'>;
  readonly observer: CallObserver;
  /** Hears what became of changed certificate files; `address` as configured. */
  readonly certificateEvent: (address: string, event: CertificateEvent) => void;
  readonly limits: { readonly messageBytes: number; readonly concurrentCalls: number };
}

/** A server that runs. */
export interface RunningServer {
  /** Where it listens, with the ports that were taken, in the order of the listeners. */
  readonly addresses: readonly string[];
  /** Looks at once whether the files of certificates have changed; they are looked at every few seconds anyhow. */
  reloadCertificates(): void;
  /**
   * Says NOT_SERVING, ends streams with UNAVAILABLE, takes no new call, waits for those that run, and cuts them off when the time is up.
   * @param milliseconds how long to wait for running calls
   */
  stop(milliseconds: number): Promise<void>;
}

/** A listener that cannot be: says which and why. */
export class ListenError extends Error {
  constructor(address: string, message: string, options?: ErrorOptions) {
    super(`${address}: ${message}`, options);
    this.name = 'ListenError';
  }
}

/**
 * Starts to serve on all listeners, or on none.
 * @throws {ListenError} when one cannot be bound, or would serve plain text beyond this host
 */
export async function startServer(options: ServerOptions): Promise<RunningServer> {
  const health = new HealthImplementation();
  const limit: CallLimit = { most: options.limits.concurrentCalls, running: 0 };
  const reflection = reflectionServices();
  const servers: Server[] = [];
  const stopping = new AbortController();
  const addresses: string[] = [];
  const allWatched: WatchedCertificates[] = [];
  try {
    for (const listener of options.listeners) {
      const streams = new Renewable(stopping.signal);
      const { credentials, watched } = credentialsOf(listener, (event) => {
        options.certificateEvent(listener.address, event);
        // Calls are judged one by one; a stream was judged when it began. Who is still trusted goes on where it was.
        if (event.authorityWithdrawn) streams.renew();
      });
      if (watched !== undefined) allWatched.push(watched);
      const door = doorOf(listener, watched);
      const server = new Server({
        'grpc.max_receive_message_length': options.limits.messageBytes,
        // More than may run: a caller over the limit is told so, instead of being held back until its deadline.
        'grpc.max_concurrent_streams': options.limits.concurrentCalls * 2,
        // A caller's host that vanished without a word is noticed, and does not hold its connection for ever.
        'grpc.keepalive_time_ms': 60_000,
        'grpc.keepalive_timeout_ms': 20_000,
        interceptors: [observe(options.observer), admit(limit), authenticate(door)],
      });
      servers.push(server);
      addServices(server, options, () => streams.signal);
      health.addToServer(server);
      for (const { definition, implementation } of reflection) server.addService(definition, implementation);
      addresses.push(await bind(server, listener, credentials));
    }
  } catch (error) {
    for (const server of servers) server.forceShutdown();
    throw error;
  }
  const names = ['', ...Object.values(definitions).map(serviceName)];
  for (const name of names) health.setStatus(name, 'SERVING');
  return {
    addresses,
    reloadCertificates() {
      for (const certificates of allWatched) certificates.reload();
    },
    async stop(milliseconds) {
      for (const name of names) health.setStatus(name, 'NOT_SERVING');
      // Streams would go on for as long as their callers like.
      stopping.abort();
      await Promise.all(servers.map((server) => shutDown(server, milliseconds)));
    },
  };
}

/** A signal that aborts with another one, or is made to, and is then followed by a new one. */
class Renewable {
  readonly #outer: AbortSignal;
  #inner = new AbortController();
  #signal: AbortSignal;

  constructor(outer: AbortSignal) {
    this.#outer = outer;
    this.#signal = this.#joined();
  }

  get signal(): AbortSignal {
    return this.#signal;
  }

  renew(): void {
    const former = this.#inner;
    this.#inner = new AbortController();
    this.#signal = this.#joined();
    former.abort();
  }

  #joined(): AbortSignal {
    const joined = AbortSignal.any([this.#outer, this.#inner.signal]);
    // Every stream listens to it.
    setMaxListeners(0, joined);
    return joined;
  }
}

function doorOf({ security }: Listener, watched: WatchedCertificates | undefined): Door {
  if (security.kind === 'plaintext') return { kind: 'plaintext', role: security.role };
  if (security.kind === 'enrollment') return { kind: 'enrollment' };
  return { kind: 'certificate', hasIssued: (certificate, print) => watched?.hasIssued(certificate, print) === true };
}

function addServices(server: Server, options: ServerOptions, stopping: () => AbortSignal): void {
  const { services } = options;
  const environment: CallEnvironment = {
    ...options.environment,
    admit: (caller) => (caller.role === 'node' ? services.enrollment.admit(caller) : Promise.resolve()),
  };
  server.addService(tolerant(definitions.storageController), storageControllerHandlers(services, environment));
  server.addService(tolerant(definitions.node), nodeHandlers(services, environment));
  server.addService(tolerant(definitions.pool), poolHandlers(services, environment));
  server.addService(tolerant(definitions.operation), operationHandlers(services, environment));
  server.addService(tolerant(definitions.event), eventHandlers(services, { ...environment, stopping }));
  server.addService(tolerant(definitions.admin), adminHandlers(services, environment));
}

function serviceName(definition: Readonly<Record<string, { readonly path: string }>>): string {
  return Object.values(definition)[0]?.path.split('/')[1] ?? '';
}

async function bind(server: Server, listener: Listener, credentials: ServerCredentials): Promise<string> {
  const { address, security } = listener;
  const socketPath = address.startsWith('unix:') ? address.slice('unix:'.length) : undefined;
  if (security.kind === 'plaintext' && socketPath === undefined && !isLoopback(address)) {
    throw new ListenError(address, 'plain text is served on loopback and on unix sockets only; give it tls');
  }
  if (socketPath !== undefined) await removeStaleSocket(address, socketPath);
  // Made with the narrowest mode, so that there is no moment in which others could connect.
  const before = socketPath === undefined ? undefined : process.umask(0o177);
  let port: number;
  try {
    port = await new Promise<number>((resolve, reject) => {
      server.bindAsync(address, credentials, (error, bound) => (error ? reject(error) : resolve(bound)));
    });
  } catch (cause) {
    throw new ListenError(address, `cannot listen there: ${(cause as Error).message}`, { cause });
  } finally {
    if (before !== undefined) process.umask(before);
  }
  if (socketPath !== undefined) {
    if (security.kind === 'plaintext') await chmod(socketPath, security.socketMode);
    return address;
  }
  return address.replace(/:[0-9]+$/, `:${port}`);
}

interface ListenerCredentials {
  readonly credentials: ServerCredentials;
  readonly watched?: WatchedCertificates;
}

function credentialsOf(
  { address, security }: Listener,
  onEvent: (event: CertificateEvent) => void,
): ListenerCredentials {
  if (security.kind === 'plaintext') return { credentials: ServerCredentials.createInsecure() };
  const { certificate, key } = security;
  const ca = security.kind === 'tls' ? security.clientCa : undefined;
  try {
    const watched = new WatchedCertificates({ certificate, key, ca }, onEvent);
    if (ca === undefined) {
      return { credentials: experimental.createCertificateProviderServerCredentials(watched, null, false), watched };
    }
    // One object for both of its parameters, whose order is not what their names say in this version of grpc-js.
    return {
      credentials: experimental.createCertificateProviderServerCredentials(watched, watched, true),
      watched,
    };
  } catch (cause) {
    throw new ListenError(address, (cause as Error).message, { cause });
  }
}

/** Whether "host:port" names this host only. */
export function isLoopback(address: string): boolean {
  const host = address.replace(/:[0-9]+$/, '').replace(/^\[(.*)\]$/, '$1');
  if (isIP(host) === 4) return host.startsWith('127.');
  return host === '::1' || host === 'localhost';
}

/** A socket file that a killed controller left is in the way of its successor; one that somebody serves is not stale. */
async function removeStaleSocket(address: string, path: string): Promise<void> {
  const status = await lstat(path).catch(() => undefined);
  if (status === undefined) return;
  if (!status.isSocket()) throw new ListenError(address, 'there is a file of that name that is not a socket');
  const answered = await new Promise<boolean>((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
  if (answered) throw new ListenError(address, 'another process serves there');
  await unlink(path);
}

// tryShutdown waits for ever for a caller that does not close its connection.
async function shutDown(server: Server, milliseconds: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const drained = new Promise<void>((resolve) => server.tryShutdown(() => resolve()));
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, milliseconds);
  });
  await Promise.race([drained, late]);
  clearTimeout(timer);
  server.forceShutdown();
}
