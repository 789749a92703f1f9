import { CephError, isCephError } from './errors.js';
import { checked, type NativeFunction, type NativeValue, outCell, type Pointer, rados } from './library.js';
import {
  type OmapEntry,
  type OmapPage,
  readOmapKeys,
  readOmapKeysAndPrefix,
  readOmapPage,
  removeOmapKeys,
  setOmap,
} from './omap.js';

export type { OmapEntry, OmapPage } from './omap.js';

const rados_ioctx_destroy = rados('void rados_ioctx_destroy(void *io)');
const rados_ioctx_get_id = rados('int64_t rados_ioctx_get_id(void *io)');
const rados_ioctx_pool_stat = rados('int rados_ioctx_pool_stat(void *io, void *stats)');
const rados_read = rados('int rados_read(void *io, const char *oid, void *buf, size_t len, uint64_t off)');
const rados_write_full = rados('int rados_write_full(void *io, const char *oid, const void *buf, size_t len)');
const rados_stat = rados('int rados_stat(void *io, const char *o, void *psize, void *pmtime)');
const rados_remove = rados('int rados_remove(void *io, const char *oid)');
const rados_exec = rados(
  'int rados_exec(void *io, const char *oid, const char *cls, const char *method, const void *in_buf, size_t in_len, void *buf, size_t out_len)',
);
const rados_ioctx_selfmanaged_snap_remove = rados('int rados_ioctx_selfmanaged_snap_remove(void *io, uint64_t snapid)');
/** Size and time of change of an object. */
export interface ObjectStatistics {
  readonly sizeBytes: bigint;
  /** Seconds since 1970. */
  readonly modifiedSeconds: bigint;
}

/** An ioctx: one pool, for one operation. Made by Cluster.openPool; close it. */
export class PoolContext {
  /** Name of the pool. */
  readonly poolName: string;
  readonly #handle: Pointer;
  readonly #onClose: () => void;
  #calls = 0;
  #closed = false;
  #destroyed = false;

  constructor(handle: Pointer, poolName: string, onClose: () => void) {
    this.#handle = handle;
    this.poolName = poolName;
    this.#onClose = onClose;
  }

  /** For the other files of this folder only. */
  get handle(): Pointer {
    if (this.#closed) throw new CephError('rados_ioctx_destroy', 107, 'a pool context that was closed');
    return this.#handle;
  }

  /** Number of the pool. */
  poolId(): bigint {
    return BigInt(rados_ioctx_get_id.now(this.handle) as number | bigint);
  }

  /** Frees it once the calls that run have ended (after a Promise.all one may still run). Again: does nothing. */
  close(): void {
    this.#closed = true;
    this.#destroyWhenIdle();
  }

  /**
   * Calls a C function whose first argument is the ioctx, on a thread; for the other files of this folder.
   * @throws CephError
   */
  async call(native: NativeFunction, subject: string, ...values: NativeValue[]): Promise<number> {
    return this.use((handle) => checked(native, subject, handle, ...values));
  }

  /** Keeps the ioctx alive while `use` runs; for the other files of this folder. */
  async use<Result>(use: (handle: Pointer) => Promise<Result>): Promise<Result> {
    const handle = this.handle;
    this.#calls += 1;
    try {
      return await use(handle);
    } finally {
      this.#calls -= 1;
      this.#destroyWhenIdle();
    }
  }

  #destroyWhenIdle(): void {
    if (!this.#closed || this.#destroyed || this.#calls > 0) return;
    this.#destroyed = true;
    rados_ioctx_destroy.now(this.#handle);
    this.#onClose();
  }

  /** Bytes that the pool's data take, before replication (rados_ioctx_pool_stat). */
  async usedBytes(): Promise<bigint> {
    const result = Buffer.alloc(256);
    await this.call(rados_ioctx_pool_stat, `pool ${this.poolName}`, result);
    return result.readBigUInt64LE(0);
  }

  /** Reads at most `length` bytes from `offset` of an object. @throws CephError ENOENT */
  async read(object: string, length: number, offset = 0): Promise<Buffer> {
    const buffer = Buffer.allocUnsafeSlow(length);
    const count = await this.call(rados_read, object, object, buffer, length, offset);
    return buffer.subarray(0, count);
  }

  /** Replaces an object's contents. */
  async writeFull(object: string, contents: Buffer): Promise<void> {
    await this.call(rados_write_full, object, object, contents, contents.length);
  }

  /** Size and time of an object. @throws CephError ENOENT */
  async stat(object: string): Promise<ObjectStatistics> {
    const [size, time] = [outCell(), outCell()];
    await this.call(rados_stat, object, object, size, time);
    return { sizeBytes: size.readBigUInt64LE(), modifiedSeconds: time.readBigInt64LE() };
  }

  /** Whether an object exists. */
  async exists(object: string): Promise<boolean> {
    try {
      await this.stat(object);
      return true;
    } catch (error) {
      if (isCephError(error, 'ENOENT')) return false;
      throw error;
    }
  }

  /** Removes an object. @returns whether it was there */
  async remove(object: string): Promise<boolean> {
    try {
      await this.call(rados_remove, object, object);
      return true;
    } catch (error) {
      if (isCephError(error, 'ENOENT')) return false;
      throw error;
    }
  }

  /**
   * Runs a method of an object class on the OSD.
   * @param outputLength most bytes that it answers
   * @returns its answer
   * @throws CephError; ERANGE when the answer is longer
   */
  async exec(object: string, className: string, method: string, input: Buffer, outputLength = 4096): Promise<Buffer> {
    const output = Buffer.allocUnsafeSlow(outputLength);
    const subject = `${className}.${method} on ${object}`;
    // The name of the call alone would not say which method failed.
    const count = await this.call(
      rados_exec,
      subject,
      object,
      className,
      method,
      input,
      input.length,
      output,
      outputLength,
    );
    return output.subarray(0, count);
  }

  /**
   * Removes a self-managed snapshot id of the pool. Whoever may do this may destroy any snapshot of the pool: only ids
   * from a trusted record.
   */
  async removeSelfManagedSnapshot(snapshotId: bigint): Promise<void> {
    await this.call(rados_ioctx_selfmanaged_snap_remove, `snapshot id ${snapshotId}`, snapshotId);
  }

  /** Values of these omap keys; keys that are not there are left out. @throws CephError ENOENT (no such object) */
  async omapGet(object: string, keys: readonly string[]): Promise<Map<string, Buffer>> {
    if (keys.length === 0) return new Map();
    const entries = await this.use((handle) => readOmapKeys(handle, object, keys));
    return new Map(entries.map((entry) => [entry.key, entry.value]));
  }

  /**
   * A page of an object's omap, in the order of keys.
   * @param startAfter the last key of the page before; empty begins
   * @param prefix only keys that begin so; empty takes all
   * @param limit most entries; the OSD itself gives at most 1,024
   * @throws CephError ENOENT (no such object)
   */
  async omapList(object: string, startAfter: string, prefix: string, limit: number): Promise<OmapPage> {
    return this.use((handle) => readOmapPage(handle, object, startAfter, prefix, limit));
  }

  /**
   * In one request: which of these omap keys are there, and the first keys with this prefix.
   * @throws CephError ENOENT (no such object)
   */
  async omapKeysAndPrefix(object: string, keys: readonly string[], prefix: string): Promise<string[]> {
    return this.use((handle) => readOmapKeysAndPrefix(handle, object, keys, prefix));
  }

  /** Sets omap entries, all or none; makes the object when it is not there. */
  async omapSet(object: string, entries: readonly OmapEntry[]): Promise<void> {
    await this.use((handle) => setOmap(handle, object, entries));
  }

  /** Removes omap keys, all or none; keys that are not there do not matter. @throws CephError ENOENT (no such object) */
  async omapRemove(object: string, keys: readonly string[]): Promise<void> {
    await this.use((handle) => removeOmapKeys(handle, object, keys));
  }
}
