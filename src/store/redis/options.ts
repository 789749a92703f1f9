import type { CoreEvents } from '../../core/ports/metrics.js';

/** Who the store is to a server: an ACL user and the file that holds its password. */
export interface RedisAccess {
  /** Default: Redis's user "default". */
  readonly user?: string;
  /** Readable by its owner alone; its first line is the password. */
  readonly passwordFile: string;
}

/** TLS to servers and Sentinels: PEM files. */
export interface RedisTls {
  readonly ca: string;
  /** With `key`: what this client shows, for servers that ask (tls-auth-clients). */
  readonly certificate?: string;
  readonly key?: string;
}

/** Where the primary is found: at an address, or by asking Sentinels. Addresses as "host:port" or "[address]:port". */
export type RedisPlace =
  | { readonly kind: 'server'; readonly address: string }
  | {
      readonly kind: 'sentinels';
      /** Name of the primary there, as in "sentinel monitor <name>". */
      readonly name: string;
      /** All Sentinels: a majority of them must agree. */
      readonly addresses: readonly string[];
      readonly access?: RedisAccess;
    };

/** What the servers must keep: `always` and `everysec` are Redis's appendfsync; `unchecked` takes any server. */
export type RedisPersistence = 'always' | 'everysec' | 'unchecked';

export interface RedisStoreOptions {
  readonly place: RedisPlace;
  readonly access?: RedisAccess;
  readonly tls?: RedisTls;
  /** Begins every key; one for each installation of Moorage. */
  readonly prefix: string;
  /** So many promotable replicas must have a commit at least before it counts; those in sync must anyway. */
  readonly leastReplicas: number;
  readonly persistence: RedisPersistence;
  /** After so long without an answer the outcome of a commit is unknown, milliseconds. */
  readonly commitTimeoutMilliseconds: number;
  /** After so long without an answer any other call fails, milliseconds. */
  readonly callTimeoutMilliseconds: number;
  /** A replica that says nothing for so long is out of sync, and is not waited for, milliseconds. */
  readonly replicaTimeoutMilliseconds: number;
  /** Where the store notes what it saw acknowledged, so that a restart does not forget it. Default: nowhere. */
  readonly stateFile?: string;
  /** Where the store says what an operator should know. */
  readonly events?: CoreEvents;
}

/** What is usual; place and prefix are an installation's own. */
export const defaultRedisOptions = {
  prefix: 'moorage:',
  persistence: 'always',
  commitTimeoutMilliseconds: 5_000,
  callTimeoutMilliseconds: 2_000,
  replicaTimeoutMilliseconds: 2_000,
} as const satisfies Partial<RedisStoreOptions>;

/** A host and a port of an address. */
export function splitAddress(address: string): { readonly host: string; readonly port: number } {
  const match = /^(?:\[(.+)\]|([^:]+)):(\d{1,5})$/.exec(address);
  const host = match?.[1] ?? match?.[2];
  if (host === undefined) throw new TypeError(`an address is host:port or [address]:port, not "${address}"`);
  return { host, port: Number(match?.[3]) };
}

/** The address of a host and a port. */
export function joinAddress(host: string, port: number | string): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}
