import { randomUUID } from 'node:crypto';
import { isIP } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type ChannelCredentials,
  Client,
  connectivityState,
  credentials,
  experimental,
  Metadata,
  type ServiceError,
  status,
} from '@grpc/grpc-js';
import type { MethodDefinition } from '@grpc/proto-loader';
import type { WatchRequest } from '../generated/moorage/v1/WatchRequest.js';
import type { WatchResponse__Output } from '../generated/moorage/v1/WatchResponse.js';
import { type CertificateEvent, WatchedCertificates } from '../tls/index.js';
import { type AnyMethod, type ApiDefinition, methods } from './definitions.js';
import { invalidField, MoorageCallError } from './errors.js';
import { type WatchOptions, watchAgain } from './watch.js';

/** PEM texts. Without certificate and key only a listener for enrollment is reached. */
export interface TlsTexts {
  readonly ca: string | Buffer;
  readonly certificate?: string | Buffer;
  readonly key?: string | Buffer;
}

/** PEM files, which are read again when they change: for a client that lives longer than its certificate. */
export interface TlsFiles {
  readonly caFile: string;
  readonly certificateFile: string;
  readonly keyFile: string;
  /** Hears what became of a change. */
  readonly onChange?: (event: CertificateEvent) => void;
}

/** Where the controller is and how to reach it. */
export interface ConnectOptions {
  /**
   * "unix:/run/moorage/moorage.sock", "host:port" or "[address]:port". With several, the next is tried when one does not
   * answer.
   */
  readonly endpoints: readonly string[];
  /** Required for everything but unix sockets and loopback addresses. */
  readonly tls?: TlsTexts | TlsFiles;
  /**
   * After how much silence, in milliseconds, a controller that has calls to answer is asked whether it still lives, and how
   * long it has to say so: one that froze, or whose host is cut off, costs twice this before the next endpoint is tried. 5,000
   * unless given.
   */
  readonly silenceMilliseconds?: number;
  /** How long a call may take in all, in milliseconds, where its own options do not say; 60,000 unless given. */
  readonly deadlineMilliseconds?: number;
  /** For how long a call is tried again while no controller can be reached; its whole time unless given. */
  readonly unreachableMilliseconds?: number;
}

/** What one call may say for itself. */
export interface CallOptions {
  /** How long the call may take in all, with everything that is tried again, in milliseconds. */
  readonly deadlineMilliseconds?: number;
  /**
   * How long one try may take, in milliseconds; the whole time unless given. A change that takes longer answers with its
   * operation shortly before it.
   */
  readonly tryMilliseconds?: number;
  /** Ends the waiting; what was begun goes on. */
  readonly signal?: AbortSignal;
  /** Goes into the controller's log; one is made there otherwise. */
  readonly requestId?: string;
}

type ApiMethods = {
  readonly [Name in keyof ApiDefinition as Uncapitalize<Name>]: ApiDefinition[Name] extends MethodDefinition<
    infer Request,
    infer _Response,
    infer _RequestOutput,
    infer Response
  >
    ? (request: Request, options?: CallOptions) => Promise<Response>
    : never;
};

/**
 * The API as promises: every method by its name (createVolume, getVolume …), messages as protos/ has them in camelCase,
 * int64 as decimal text. A change gets a client token when it has none, and is tried again with the same one when the
 * controller cannot be reached, so that it happens once.
 *
 * Methods reject with {@link MoorageCallError}.
 */
export type MoorageClient = ApiMethods & {
  /**
   * What there is, then what changes, as it does (EventService.Watch). Goes on by itself where it was when the controller
   * stops or cannot be reached. Ends when the loop over it does, or with its signal.
   * @throws MoorageCallError OUT_OF_RANGE when it was away for so long that it must begin anew, without a resume token
   */
  watch(request: WatchRequest, options?: WatchOptions): AsyncGenerator<WatchResponse__Output, void, undefined>;
  /** Closes the connections; running calls fail. */
  close(): void;
};

const DEFAULT_DEADLINE_MILLISECONDS = 60_000;
const DEFAULT_SILENCE_MILLISECONDS = 5_000;
const FIRST_BACKOFF_MILLISECONDS = 100;
const LAST_BACKOFF_MILLISECONDS = 2000;
const readingMethod = /^(Get|List|Wait)/;

/**
 * Makes a client. Connects when the first call needs it.
 * @throws TypeError when an endpoint cannot be reached in the way asked for; CertificateFileError when a file cannot be used
 */
export function connect(options: ConnectOptions): MoorageClient {
  if (options.endpoints.length === 0) throw new TypeError('endpoints: at least one is needed');
  const silence = options.silenceMilliseconds ?? DEFAULT_SILENCE_MILLISECONDS;
  const channelOptions = {
    'grpc.enable_retries': 0,
    'grpc.keepalive_time_ms': silence,
    'grpc.keepalive_timeout_ms': silence,
    // Otherwise grpc-js would go on with a connection of before, and with the certificate that it was made with.
    'grpc.use_local_subchannel_pool': 1,
  };
  const connections = (channelCredentials: ChannelCredentials): Client[] =>
    options.endpoints.map((endpoint) => new Client(endpoint, channelCredentials, channelOptions));
  const channelCredentials = credentialsOf(options, () => endpoints.renew(connections(channelCredentials)));
  const endpoints = new Endpoints(connections(channelCredentials));
  const client: Record<string, unknown> = {
    close: () => endpoints.close(),
    watch: (request: WatchRequest, watching: WatchOptions = {}) =>
      watchAgain(
        endpoints,
        request,
        {
          ...(options.unreachableMilliseconds !== undefined && {
            unreachableMilliseconds: options.unreachableMilliseconds,
          }),
          ...watching,
        },
        2 * silence,
      ),
  };
  for (const [name, method] of methods) {
    client[name.charAt(0).toLowerCase() + name.slice(1)] = (request: object, call: CallOptions = {}) =>
      callAgain(endpoints, name, method, withToken(name, request), {
        deadlineMilliseconds: options.deadlineMilliseconds ?? DEFAULT_DEADLINE_MILLISECONDS,
        unreachableMilliseconds: options.unreachableMilliseconds ?? Number.POSITIVE_INFINITY,
        connectMilliseconds: 2 * silence,
        ...call,
      });
  }
  return client as MoorageClient;
}

/** @param onRenewed hears when connections are to be made anew, because the certificates are others */
function credentialsOf({ endpoints, tls }: ConnectOptions, onRenewed: () => void): ChannelCredentials {
  if (tls !== undefined && 'caFile' in tls) {
    const { caFile, certificateFile, keyFile, onChange } = tls;
    const paths = { ca: caFile, certificate: certificateFile, key: keyFile };
    const watched = new WatchedCertificates(paths, (event) => {
      if (event.kind === 'loaded') onRenewed();
      onChange?.(event);
    });
    return experimental.createCertificateProviderChannelCredentials(watched, watched);
  }
  if (tls !== undefined) {
    const { ca, certificate, key } = tls;
    if (certificate === undefined || key === undefined) return credentials.createSsl(Buffer.from(ca));
    return credentials.createSsl(Buffer.from(ca), Buffer.from(key), Buffer.from(certificate));
  }
  const beyond = endpoints.find((endpoint) => !isLocal(endpoint));
  if (beyond !== undefined) {
    throw new TypeError(
      `${beyond}: without tls (ca, certificate, key) only unix sockets and loopback addresses are reached`,
    );
  }
  return credentials.createInsecure();
}

function isLocal(endpoint: string): boolean {
  if (endpoint.startsWith('unix:')) return true;
  const host = endpoint.replace(/:[0-9]+$/, '').replace(/^\[(.*)\]$/, '$1');
  return host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'));
}

class Endpoints {
  #clients: readonly Client[];
  #current = 0;
  #closed = false;

  constructor(clients: readonly Client[]) {
    this.#clients = clients;
  }

  get current(): Client {
    return this.#clients[this.#current] as Client;
  }

  /** Turns to the next, unless another call has done so since. */
  moveOnFrom(client: Client): void {
    if (this.current === client) this.#current = (this.#current + 1) % this.#clients.length;
  }

  /** Goes on with other connections; calls that run end on theirs. */
  renew(clients: readonly Client[]): void {
    const former = this.#closed ? clients : this.#clients;
    if (!this.#closed) this.#clients = clients;
    for (const client of former) client.close();
  }

  close(): void {
    this.#closed = true;
    for (const client of this.#clients) client.close();
  }
}

function withToken(name: string, request: object): object {
  if (readingMethod.test(name)) return request;
  const given = (request as { clientToken?: string }).clientToken;
  return given === undefined || given === '' ? { ...request, clientToken: randomUUID() } : request;
}

interface OneCallOptions extends CallOptions {
  readonly deadlineMilliseconds: number;
  /** How long making the connection may take, in milliseconds. */
  readonly connectMilliseconds: number;
}

async function callAgain(
  endpoints: Endpoints,
  name: string,
  method: AnyMethod,
  request: object,
  options: OneCallOptions & { readonly unreachableMilliseconds: number },
): Promise<object> {
  const began = performance.now();
  const end = began + options.deadlineMilliseconds;
  const endUnreachable = Math.min(end, began + options.unreachableMilliseconds);
  let backoff = FIRST_BACKOFF_MILLISECONDS;
  for (;;) {
    const client = endpoints.current;
    const left = Math.max(1, end - performance.now());
    try {
      return await callOnce(client, name, method, request, {
        ...options,
        deadlineMilliseconds: Math.min(left, options.tryMilliseconds ?? left),
      });
    } catch (error) {
      if (!(error instanceof MoorageCallError) || !isWorthAnotherTry(error)) throw error;
      // Jitter, so that callers that failed together do not come back together.
      const wait = Math.max(error.retryAfterMilliseconds ?? 0, backoff * (0.5 + Math.random() / 2));
      const last = error.code === 'UNAVAILABLE' ? endUnreachable : end;
      if (performance.now() + wait >= last || options.signal?.aborted) throw error;
      if (error.code !== 'RESOURCE_EXHAUSTED') endpoints.moveOnFrom(client);
      await sleep(wait, undefined, options.signal && { signal: options.signal }).catch(() => {
        throw error;
      });
      backoff = Math.min(backoff * 2, LAST_BACKOFF_MILLISECONDS);
    }
  }
}

function isWorthAnotherTry({ code, reason }: MoorageCallError): boolean {
  return code === 'UNAVAILABLE' || code === 'DEADLINE_EXCEEDED' || reason === 'TOO_MANY_CALLS';
}

function callOnce(
  client: Client,
  name: string,
  method: AnyMethod,
  request: object,
  options: OneCallOptions,
): Promise<object> {
  const metadata = new Metadata();
  if (options.requestId !== undefined) metadata.set('x-request-id', options.requestId);
  const fraction = fractionIn(request);
  if (fraction !== undefined) {
    return Promise.reject(invalidField(name, fraction.field, `must be a whole number; it is ${fraction.value}`));
  }
  return new Promise((resolve, reject) => {
    const call = client.makeUnaryRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      request,
      metadata,
      { deadline: Date.now() + options.deadlineMilliseconds },
      (error: ServiceError | null, response?: object) => {
        options.signal?.removeEventListener('abort', cancel);
        clearTimeout(connecting);
        if (unreachable && error?.code === status.CANCELLED) reject(notReached(name, error));
        else if (error !== null) reject(new MoorageCallError(name, error));
        else resolve(response ?? {});
      },
    );
    const cancel = (): void => call.cancel();
    let unreachable = false;
    // A host that froze takes connections and says nothing; grpc-js waits for it as long as the call may take.
    const connecting = setTimeout(() => {
      unreachable = client.getChannel().getConnectivityState(false) !== connectivityState.READY;
      if (unreachable) call.cancel();
    }, options.connectMilliseconds);
    if (options.signal?.aborted) cancel();
    else options.signal?.addEventListener('abort', cancel, { once: true });
  });
}

function notReached(method: string, cause: ServiceError): MoorageCallError {
  const details = 'The controller takes connections and does not speak.';
  const error = { code: status.UNAVAILABLE, details, metadata: new Metadata() };
  return new MoorageCallError(method, Object.assign(new Error(details, { cause }), error));
}

/** Path and value of a number that no message can carry: all of the API's are whole, and encoding would cut the rest off. */
function fractionIn(value: unknown, path = ''): { readonly field: string; readonly value: number } | undefined {
  if (typeof value === 'number') return Number.isInteger(value) ? undefined : { field: path, value };
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return undefined;
  for (const [key, below] of Object.entries(value)) {
    const name = key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
    const found = fractionIn(below, path === '' ? name : `${path}.${name}`);
    if (found !== undefined) return found;
  }
  return undefined;
}
