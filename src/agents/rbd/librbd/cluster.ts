import { setTimeout as delay } from 'node:timers/promises';
import { CephError } from './errors.js';
import { bytesAt, checked, checkedNow, outCell, type Pointer, pointerIn, rados, stringAt } from './library.js';
import { PoolContext } from './pool-context.js';

const rados_create2 = rados(
  'int rados_create2(void *cluster, const char *clustername, const char *name, uint64_t flags)',
);
const rados_conf_read_file = rados('int rados_conf_read_file(void *cluster, const char *path)');
const rados_conf_set = rados('int rados_conf_set(void *cluster, const char *option, const char *value)');
const rados_conf_get = rados('int rados_conf_get(void *cluster, const char *option, void *buf, size_t len)');
const rados_connect = rados('int rados_connect(void *cluster)');
const rados_shutdown = rados('void rados_shutdown(void *cluster)');
const rados_getaddrs = rados('int rados_getaddrs(void *cluster, void *addrs)');
const rados_get_instance_id = rados('uint64_t rados_get_instance_id(void *cluster)');
const rados_cluster_fsid = rados('int rados_cluster_fsid(void *cluster, void *buf, size_t len)');
const rados_buffer_free = rados('void rados_buffer_free(void *buf)');
const rados_wait_for_latest_osdmap = rados('int rados_wait_for_latest_osdmap(void *cluster)');
const rados_cluster_stat = rados('int rados_cluster_stat(void *cluster, void *result)');
const rados_mon_command = rados(
  'int rados_mon_command(void *cluster, const char **cmd, size_t cmdlen, const char *inbuf, size_t inbuflen, void *outbuf, void *outbuflen, void *outs, void *outslen)',
);
const rados_mon_command_target = rados(
  'int rados_mon_command_target(void *cluster, const char *name, const char **cmd, size_t cmdlen, const char *inbuf, size_t inbuflen, void *outbuf, void *outbuflen, void *outs, void *outslen)',
);
const rados_ioctx_create = rados('int rados_ioctx_create(void *cluster, const char *pool_name, void *ioctx)');

const rados_set_pool_full_try = rados('void rados_set_pool_full_try(void *io)');

/** How to reach a cluster. */
export interface ClusterOptions {
  /** Path of ceph.conf; empty reads none: then `overrides` says everything. */
  readonly configurationFile: string;
  /** The user without "client.", as "admin". */
  readonly user: string;
  /** Path of the user's keyring; unset takes what ceph.conf says. */
  readonly keyringFile?: string;
  /** The user's key itself, for tests and checks that must not put it into a file. */
  readonly key?: string;
  /** Options over ceph.conf, as {client_mount_timeout: '10'}. */
  readonly overrides?: Readonly<Record<string, string>>;
}

/** The answer of a monitor. */
export interface MonitorAnswer {
  /** The output, usually JSON when the command said `format: json`. */
  readonly output: Buffer;
  /** One line for people. */
  readonly status: string;
}

/** How full the cluster is, in bytes and objects. */
export interface ClusterStatistics {
  readonly totalBytes: bigint;
  readonly usedBytes: bigint;
  readonly availableBytes: bigint;
  readonly objects: bigint;
}

/**
 * Options that make a cluster which does not answer give an error in bounded time; without them calls wait for ever.
 * @param seconds how long one request to an OSD or a monitor may take, and the connection
 */
export function timeoutOverrides(seconds: number): Record<string, string> {
  const text = String(seconds);
  return {
    client_mount_timeout: text,
    rados_mon_op_timeout: text,
    rados_osd_op_timeout: text,
    // Requests are handed over on the main thread: it must never wait for librados' own throttle.
    objecter_inflight_ops: '1048576',
    objecter_inflight_op_bytes: '4294967296',
    // Whoever may not blocklist gets an error from a break with blocklisting; whoever may does it as a step of its own.
    rbd_blocklist_on_break_lock: 'false',
  };
}

/** A connection to a Ceph cluster: a client of its own, with its own address and nonce. */
export class Cluster {
  /** The user without "client.". */
  readonly user: string;
  readonly #handle: Pointer;
  #openUses = 0;
  #closed = false;

  private constructor(handle: Pointer, user: string) {
    this.#handle = handle;
    this.user = user;
  }

  /**
   * Connects.
   * @throws CephError ETIMEDOUT (no monitor answers), EACCES or EPERM (the key is refused), ENOENT (no such file or user)
   */
  static async connect(options: ClusterOptions): Promise<Cluster> {
    const cell = outCell();
    checkedNow(rados_create2, options.user, cell, 'ceph', `client.${options.user}`, 0);
    const handle = pointerIn(cell);
    try {
      if (options.configurationFile !== '') {
        await checked(rados_conf_read_file, options.configurationFile, handle, options.configurationFile);
      }
      const settings: Record<string, string> = { ...options.overrides };
      if (options.keyringFile !== undefined) settings.keyring = options.keyringFile;
      if (options.key !== undefined) settings.key = options.key;
      for (const [option, value] of Object.entries(settings)) {
        checkedNow(rados_conf_set, `option ${option}`, handle, option, value);
      }
      await checked(rados_connect, `client.${options.user}`, handle);
    } catch (error) {
      await rados_shutdown.later(handle);
      throw error;
    }
    return new Cluster(handle, options.user);
  }

  /** Addresses of this client as the servers see them, as "10.0.0.5:0/1234567" (rados_getaddrs). */
  addresses(): string[] {
    const cell = outCell();
    checkedNow(rados_getaddrs, undefined, this.#live(), cell);
    const text = stringAt(pointerIn(cell));
    rados_buffer_free.now(pointerIn(cell));
    return parseAddresses(text);
  }

  /** The number in this client's name, as 4123 of "client.4123". */
  instanceId(): bigint {
    return BigInt(rados_get_instance_id.now(this.#live()) as number | bigint);
  }

  /** The cluster's id (a UUID). */
  fsid(): string {
    const buffer = Buffer.alloc(64);
    const length = checkedNow(rados_cluster_fsid, undefined, this.#live(), buffer, buffer.length);
    return buffer.toString('ascii', 0, length);
  }

  /** The value of an option, as "mon_host". */
  option(name: string): string {
    const buffer = Buffer.alloc(64 * 1024);
    checkedNow(rados_conf_get, `option ${name}`, this.#live(), name, buffer, buffer.length);
    return buffer.toString('utf8', 0, buffer.indexOf(0));
  }

  /**
   * Sends a command to the monitors (rados_mon_command); the text may have any length.
   * @param command as {prefix: 'osd blocklist ls', format: 'json'}
   * @param monitor name of one monitor, for what each answers for itself ("sessions")
   * @throws CephError with the monitor's status line as its cause
   */
  async monCommand(command: Readonly<Record<string, unknown>>, monitor?: string): Promise<MonitorAnswer> {
    const cells = Buffer.alloc(32);
    const [output, outputLength, status, statusLength] = [0, 8, 16, 24].map((at) => cells.subarray(at, at + 8)) as [
      Buffer,
      Buffer,
      Buffer,
      Buffer,
    ];
    const text = JSON.stringify(command);
    const handle = this.#live();
    const subject = `"${String(command.prefix)}"`;
    return this.#using(async () => {
      const code = Number(
        monitor === undefined
          ? await rados_mon_command.later(handle, [text], 1, null, 0, output, outputLength, status, statusLength)
          : await rados_mon_command_target.later(
              handle,
              monitor,
              [text],
              1,
              null,
              0,
              output,
              outputLength,
              status,
              statusLength,
            ),
      );
      const answer = { output: takeBuffer(output, outputLength), status: takeBuffer(status, statusLength).toString() };
      if (code < 0) {
        throw new CephError('rados_mon_command', code, subject, { cause: new Error(answer.status || 'no status') });
      }
      return answer;
    });
  }

  /** Waits until this client has the newest OSD map. */
  async waitForLatestOsdMap(): Promise<void> {
    await this.#using(() => checked(rados_wait_for_latest_osdmap, undefined, this.#live()));
  }

  /** How full the cluster is. */
  async statistics(): Promise<ClusterStatistics> {
    const result = Buffer.alloc(32);
    await this.#using(() => checked(rados_cluster_stat, undefined, this.#live(), result));
    return {
      totalBytes: result.readBigUInt64LE(0) * 1024n,
      usedBytes: result.readBigUInt64LE(8) * 1024n,
      availableBytes: result.readBigUInt64LE(16) * 1024n,
      objects: result.readBigUInt64LE(24),
    };
  }

  /**
   * Opens a pool for one operation; close it. One each, because an ioctx's settings are not thread-safe.
   * @throws CephError ENOENT (no such pool)
   */
  async openPool(name: string): Promise<PoolContext> {
    const cell = outCell();
    const handle = this.#live();
    this.#openUses += 1;
    try {
      await checked(rados_ioctx_create, `pool ${name}`, handle, name, cell);
    } catch (error) {
      this.#openUses -= 1;
      throw error;
    }
    // A full pool answers ENOSPC or EDQUOT then, and lets removals pass; without it requests wait until there is room.
    rados_set_pool_full_try.now(pointerIn(cell));
    return new PoolContext(pointerIn(cell), name, () => {
      this.#openUses -= 1;
    });
  }

  /** Opens a pool, hands it to `use` and closes it whatever comes of it. */
  async withPool<Result>(name: string, use: (pool: PoolContext) => Promise<Result>): Promise<Result> {
    const pool = await this.openPool(name);
    try {
      return await use(pool);
    } finally {
      pool.close();
    }
  }

  /** Whether it was closed. */
  get closed(): boolean {
    return this.#closed;
  }

  /** Disconnects, after what runs on it has ended: librados would crash otherwise. Closing again does nothing. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    while (this.#openUses > 0) await delay(5);
    await rados_shutdown.later(this.#handle);
  }

  async #using<Result>(use: () => Promise<Result>): Promise<Result> {
    this.#openUses += 1;
    try {
      return await use();
    } finally {
      this.#openUses -= 1;
    }
  }

  #live(): Pointer {
    if (this.#closed) throw new CephError('rados_shutdown', 107, 'a connection that was closed');
    return this.#handle;
  }
}

function takeBuffer(pointerCell: Buffer, lengthCell: Buffer): Buffer {
  const pointer = pointerIn(pointerCell);
  if (pointer === 0n) return Buffer.alloc(0);
  const bytes = bytesAt(pointer, Number(lengthCell.readBigUInt64LE()));
  rados_buffer_free.now(pointer);
  return bytes;
}

/** Splits what Ceph writes as an address list: "10.0.0.5:0/123", "[v2:10.0.0.5:0/123,v1:10.0.0.5:0/123]". */
export function parseAddresses(text: string): string[] {
  const inner = /^\[(?=(?:v1|v2|any):)(.*)\]$/.exec(text)?.[1] ?? text;
  const found = inner
    .split(',')
    .map((each) => each.trim().replace(/^(v1|v2|any):/, ''))
    .filter((each) => each !== '' && each !== '-');
  return [...new Set(found)];
}
