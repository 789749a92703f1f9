import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createClient } from 'redis';
import { TestAuthority } from './certificates.js';
import { waitFor } from './wait.js';

type Settings = Readonly<Record<string, string>>;

export interface RedisOptions {
  /** Where its folder lies; default: the system's for temporary files, which may be in memory. */
  readonly directory?: string;
  /** IPv4 address at which everything listens; default 127.0.0.1. */
  readonly address?: string;
  /** Default 0. */
  readonly replicas?: number;
  /** Default 0. */
  readonly sentinels?: number;
  /** Only TLS, with client certificates; default: plain text on loopback. */
  readonly tls?: boolean;
  /** The user that tests and Moorage are, and that replicas and Sentinels are too: everything asks for a password. */
  readonly password?: string;
  /** Rules of a user "moorage" beside it, as ACL SETUSER has them. */
  readonly user?: { readonly rules: string };
  /** Users of servers and of Sentinels, as docs/operations/redis.md shows them, instead of `password`. */
  readonly acl?: { readonly servers: readonly string[]; readonly sentinels: readonly string[] };
  /** Settings of the servers, on top of what keeps commits safe. */
  readonly settings?: Settings;
  /** When Sentinels take a server that does not answer for dead, milliseconds; default 1,000. */
  readonly downAfterMilliseconds?: number;
}

/** One server or Sentinel: a process of the test's with a folder of its own. */
export class RedisMember {
  readonly port: number;
  readonly folder: string;
  readonly #kind: 'server' | 'sentinel';
  readonly #group: RedisGroup;
  #child: ChildProcess | undefined;
  /** What it wrote, of all its starts. */
  log = '';

  constructor(group: RedisGroup, kind: 'server' | 'sentinel', port: number, lines: readonly string[]) {
    this.#group = group;
    this.#kind = kind;
    this.port = port;
    this.folder = join(group.folder, `${kind}-${port}`);
    mkdirSync(this.folder);
    // A Sentinel writes what it learns into its file, and a server which one it replicates.
    writeFileSync(join(this.folder, 'redis.conf'), `${lines.join('\n')}\n`, { mode: 0o600 });
  }

  get address(): string {
    return `${this.#group.address}:${this.port}`;
  }

  get running(): boolean {
    return this.#child !== undefined && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  /** Starts it, and waits until it answers. */
  async start(): Promise<void> {
    const child = spawn('redis-server', ['redis.conf', ...(this.#kind === 'sentinel' ? ['--sentinel'] : [])], {
      cwd: this.folder,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#child = child;
    const collect = (chunk: Buffer): void => {
      this.log += chunk.toString();
    };
    child.stdout.on('data', collect);
    child.stderr.on('data', collect);
    await waitFor(`the Redis ${this.#kind} at ${this.address} to answer`, async () => {
      if (!this.running) throw new Error(`it ended:\n${this.log.slice(-2000)}`);
      return (await this.call('PING')) === 'PONG';
    });
  }

  /** Ends it with SIGKILL, and waits until it is gone. */
  async kill(): Promise<void> {
    const child = this.#child;
    if (child === undefined || !this.running) return;
    const gone = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await gone;
  }

  /** SIGSTOP: it answers nothing, and its connections stay up. */
  freeze(): void {
    this.#child?.kill('SIGSTOP');
  }

  thaw(): void {
    this.#child?.kill('SIGCONT');
  }

  /** Removes its data, as a disk that was exchanged has none. Only while it does not run. */
  empty(): void {
    rmSync(join(this.folder, 'appendonlydir'), { recursive: true, force: true });
    rmSync(join(this.folder, 'dump.rdb'), { force: true });
  }

  /** Runs a command on it as the administrator, on a connection of its own. */
  async call<T = unknown>(...parameters: string[]): Promise<T> {
    const client = createClient({
      RESP: 2,
      socket: { host: this.#group.address, port: this.port, reconnectStrategy: false, ...this.#group.socketOptions() },
      ...this.#group.administrator(),
      disableClientInfo: true,
      maintNotifications: 'disabled',
    });
    client.on('error', () => undefined);
    await client.connect();
    try {
      return await client.sendCommand<T>(parameters);
    } finally {
      client.destroy();
    }
  }

  /** A field of INFO. */
  async information(field: string): Promise<string> {
    const text = await this.call<string>('INFO');
    const line = text.split('\r\n').find((one) => one.startsWith(`${field}:`));
    return line?.slice(field.length + 1) ?? '';
  }
}

/** A Redis of the test's own: servers, one of them the primary at first, and Sentinels. */
export class RedisGroup {
  readonly folder: string;
  /** The primary at first, then its replicas. */
  readonly servers: RedisMember[] = [];
  readonly sentinels: RedisMember[] = [];
  readonly authority: TestAuthority | undefined;
  /** Of the TLS that a client needs. */
  readonly clientTls: { readonly ca: string; readonly certificate: string; readonly key: string } | undefined;
  /** Files with the passwords of the administrator and of the user "moorage". */
  readonly passwordFile: string;
  readonly userPasswordFile: string;
  readonly options: RedisOptions;
  readonly #tlsLines: readonly string[];

  constructor(options: RedisOptions) {
    this.options = options;
    this.folder = mkdtempSync(join(options.directory ?? tmpdir(), 'moorage-redis-'));
    this.passwordFile = join(this.folder, 'password');
    this.userPasswordFile = join(this.folder, 'user-password');
    if (options.tls === true) {
      this.authority = new TestAuthority(this.folder);
      const server = this.authority.server();
      const client = this.authority.client('client', '/CN=controller');
      this.clientTls = { ca: this.authority.certificate, ...client };
      this.#tlsLines = [
        `tls-cert-file ${server.certificate}`,
        `tls-key-file ${server.key}`,
        `tls-ca-cert-file ${this.authority.certificate}`,
        'tls-auth-clients yes',
        'tls-replication yes',
      ];
    } else this.#tlsLines = [];
    if (options.password !== undefined) writeFileSync(this.passwordFile, `${options.password}\n`, { mode: 0o600 });
    if (options.user !== undefined) writeFileSync(this.userPasswordFile, 'of the user\n', { mode: 0o600 });
  }

  get address(): string {
    return this.options.address ?? '127.0.0.1';
  }

  /** The server that the Sentinels name, or without them the one that says that it is the primary. */
  async primary(): Promise<RedisMember> {
    for (const sentinel of this.sentinels) {
      if (!sentinel.running) continue;
      const [, port] = await sentinel.call<readonly string[]>('SENTINEL', 'GET-MASTER-ADDR-BY-NAME', 'moorage');
      const named = this.servers.find((server) => String(server.port) === port);
      if (named !== undefined) return named;
    }
    for (const server of this.servers) {
      if (server.running && (await server.information('role')) === 'master') return server;
    }
    throw new Error('no server is the primary');
  }

  /** Waits until every replica that runs follows a primary, and until the Sentinels know of each other. */
  async ready(): Promise<void> {
    const replicas = this.servers.filter((server) => server.running).length - 1;
    const primary = await this.primary();
    await waitFor('the replicas to follow', async () => {
      const text = await primary.call<string>('INFO', 'replication');
      return (text.match(/state=online,offset=[1-9]/g) ?? []).length >= replicas;
    });
    for (const sentinel of this.sentinels) {
      await waitFor('the Sentinels to know all', async () => {
        const flat = await sentinel.call<readonly string[]>('SENTINEL', 'MASTER', 'moorage');
        const field = (name: string): number => Number(flat[flat.indexOf(name) + 1]);
        return field('num-other-sentinels') === this.sentinels.length - 1 && field('num-slaves') >= replicas;
      });
    }
  }

  async addServer(settings: Settings = {}): Promise<RedisMember> {
    const port = await freePort(this.address);
    const [primary] = this.servers;
    const { password, user, acl } = this.options;
    const all: Record<string, string> = {
      ...{ appendonly: 'yes', appendfsync: 'always', 'maxmemory-policy': 'noeviction', save: '""' },
      ...{
        'repl-diskless-sync-delay': '0',
        'repl-backlog-size': '64mb',
        'repl-timeout': '60',
        'repl-ping-replica-period': '1',
      },
      ...this.options.settings,
      ...settings,
    };
    const lines = [
      ...this.#common(port),
      ...Object.entries(all).map(([name, value]) => `${name} ${value}`),
      ...(primary === undefined ? [] : [`replicaof ${this.address} ${primary.port}`]),
      ...(password === undefined ? [] : [`requirepass ${password}`, `masterauth ${password}`]),
      ...(acl === undefined
        ? []
        : [...acl.servers, ADMINISTRATOR, 'masteruser replication', 'masterauth PASSWORD-OF-REPLICATION']),
      ...(user === undefined ? [] : [`user moorage on ">of the user" ${user.rules}`]),
    ];
    const server = new RedisMember(this, 'server', port, lines);
    this.servers.push(server);
    await server.start();
    return server;
  }

  async addSentinel(): Promise<RedisMember> {
    const port = await freePort(this.address);
    const [primary] = this.servers;
    const { password, acl, downAfterMilliseconds = 1000, sentinels = 0 } = this.options;
    const lines = [
      ...this.#common(port),
      `sentinel monitor moorage ${this.address} ${primary?.port} ${Math.floor(sentinels / 2) + 1}`,
      `sentinel down-after-milliseconds moorage ${downAfterMilliseconds}`,
      'sentinel failover-timeout moorage 5000',
      'sentinel parallel-syncs moorage 8',
      ...(acl === undefined
        ? []
        : [
            ...acl.sentinels,
            ADMINISTRATOR,
            ...['sentinel sentinel-user sentinel', 'sentinel sentinel-pass PASSWORD-OF-SENTINELS'],
            ...['sentinel auth-user moorage sentinel', 'sentinel auth-pass moorage PASSWORD-OF-SENTINELS'],
          ]),
      ...(password === undefined
        ? []
        : [`requirepass ${password}`, `sentinel sentinel-pass ${password}`, `sentinel auth-pass moorage ${password}`]),
    ];
    const sentinel = new RedisMember(this, 'sentinel', port, lines);
    this.sentinels.push(sentinel);
    await sentinel.start();
    return sentinel;
  }

  /** Who the test is to the members. */
  administrator(): { readonly username?: string; readonly password?: string } {
    const { password, acl } = this.options;
    if (acl !== undefined) return { username: 'administrator', password: 'of-the-administrator' };
    return password === undefined ? {} : { password };
  }

  /** How a socket to a member is made. */
  socketOptions() {
    if (this.authority === undefined || this.clientTls === undefined) return {};
    const { ca, certificate, key } = this.clientTls;
    return { tls: true as const, ca: readFileSync(ca), cert: readFileSync(certificate), key: readFileSync(key) };
  }

  /** Ends all of it and removes its data. */
  async remove(): Promise<void> {
    for (const member of [...this.sentinels, ...this.servers]) await member.kill();
    rmSync(this.folder, { recursive: true, force: true });
  }

  #common(port: number): readonly string[] {
    const tls = this.#tlsLines.length > 0;
    return [
      `bind ${this.address}`,
      // The default refuses whoever comes from elsewhere without a password.
      'protected-mode no',
      ...(tls ? ['port 0', `tls-port ${port}`, ...this.#tlsLines] : [`port ${port}`]),
      'daemonize no',
      'dir .',
    ];
  }
}

const ADMINISTRATOR = 'user administrator on >of-the-administrator ~* &* +@all';

/** Starts a Redis of the test's own. */
export async function startRedis(options: RedisOptions = {}): Promise<RedisGroup> {
  const group = new RedisGroup(options);
  try {
    await group.addServer();
    for (let n = 0; n < (options.replicas ?? 0); n += 1) await group.addServer();
    for (let n = 0; n < (options.sentinels ?? 0); n += 1) await group.addSentinel();
    await group.ready();
  } catch (error) {
    await group.remove();
    throw error;
  }
  return group;
}

function freePort(host: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer().once('error', reject);
    server.listen(0, host, () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0));
    });
  });
}
