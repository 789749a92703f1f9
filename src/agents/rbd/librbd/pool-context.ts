import { CephError, isCephError } from './errors.js';
import {
  addressOfBytes,
  bytesAt,
  checked,
  checkedNow,
  type NativeFunction,
  type NativeValue,
  outCell,
  type Pointer,
  pointerIn,
  rados,
} from './library.js';

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
const rados_create_read_op = rados('void *rados_create_read_op()');
const rados_release_read_op = rados('void rados_release_read_op(void *read_op)');
const rados_read_op_operate = rados('int rados_read_op_operate(void *read_op, void *io, const char *oid, int flags)');
const rados_read_op_omap_get_vals2 = rados(
  'void rados_read_op_omap_get_vals2(void *read_op, const char *start_after, const char *filter_prefix, uint64_t max_return, void *iter, void *pmore, void *prval)',
);
const rados_read_op_omap_get_vals_by_keys = rados(
  'void rados_read_op_omap_get_vals_by_keys(void *read_op, const char **keys, size_t keys_len, void *iter, void *prval)',
);
const rados_omap_get_next2 = rados(
  'int rados_omap_get_next2(void *iter, void *key, void *val, void *key_len, void *val_len)',
);
const rados_omap_get_end = rados('void rados_omap_get_end(void *iter)');
const rados_create_write_op = rados('void *rados_create_write_op()');
const rados_release_write_op = rados('void rados_release_write_op(void *write_op)');
const rados_write_op_operate = rados(
  'int rados_write_op_operate(void *write_op, void *io, const char *oid, void *mtime, int flags)',
);
const rados_write_op_omap_set2 = rados(
  'void rados_write_op_omap_set2(void *write_op, const char **keys, const void *vals, const uint64_t *key_lens, const uint64_t *val_lens, size_t num)',
);
const rados_write_op_omap_rm_keys = rados(
  'void rados_write_op_omap_rm_keys(void *write_op, const char **keys, size_t keys_len)',
);

/** An entry of an object's omap. */
export interface OmapEntry {
  readonly key: string;
  readonly value: Buffer;
}

/** A page of an object's omap. */
export interface OmapPage {
  readonly entries: readonly OmapEntry[];
  /** Whether there is more after the last of them. */
  readonly more: boolean;
}

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
    const { entries } = await this.#readOmap(object, (operation, iterator, _more, result) =>
      rados_read_op_omap_get_vals_by_keys.now(operation, keys, keys.length, iterator, result),
    );
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
    return this.#readOmap(object, (operation, iterator, more, result) =>
      rados_read_op_omap_get_vals2.now(operation, startAfter, prefix, limit, iterator, more, result),
    );
  }

  /**
   * In one request: which of these omap keys are there, and the first keys with this prefix.
   * @throws CephError ENOENT (no such object)
   */
  async omapKeysAndPrefix(object: string, keys: readonly string[], prefix: string): Promise<string[]> {
    return this.use(async (handle) => {
      // One block of memory: librados keeps these addresses, and a cell that nobody reads any more would be collected.
      const [first, firstResult, second, more, secondResult] = cells(5) as [Buffer, Buffer, Buffer, Buffer, Buffer];
      const operation = rados_create_read_op.now() as Pointer;
      try {
        rados_read_op_omap_get_vals_by_keys.now(operation, keys, keys.length, first, firstResult);
        rados_read_op_omap_get_vals2.now(operation, '', prefix, 8, second, more, secondResult);
        await checked(rados_read_op_operate, object, operation, handle, object, 0);
        for (const result of [firstResult, secondResult]) {
          if (result.readInt32LE() < 0) {
            throw new CephError(rados_read_op_operate.functionName, result.readInt32LE(), object);
          }
        }
        return [...takeEntries(pointerIn(first)), ...takeEntries(pointerIn(second))].map((entry) => entry.key);
      } finally {
        for (const iterator of [first, second]) {
          if (pointerIn(iterator) !== 0n) rados_omap_get_end.now(pointerIn(iterator));
        }
        rados_release_read_op.now(operation);
      }
    });
  }

  async #readOmap(
    object: string,
    add: (operation: Pointer, iterator: Buffer, more: Buffer, result: Buffer) => void,
  ): Promise<OmapPage> {
    return this.use(async (handle) => {
      // librados keeps these addresses until the operation has ended.
      const [iterator, more, result] = cells(3) as [Buffer, Buffer, Buffer];
      const operation = rados_create_read_op.now() as Pointer;
      try {
        add(operation, iterator, more, result);
        await checked(rados_read_op_operate, object, operation, handle, object, 0);
        const code = result.readInt32LE();
        if (code < 0) throw new CephError(rados_read_op_operate.functionName, code, object);
        return { entries: takeEntries(pointerIn(iterator)), more: more.readUInt8() !== 0 };
      } finally {
        if (pointerIn(iterator) !== 0n) rados_omap_get_end.now(pointerIn(iterator));
        rados_release_read_op.now(operation);
      }
    });
  }

  /** Sets omap entries, all or none; makes the object when it is not there. */
  async omapSet(object: string, entries: readonly OmapEntry[]): Promise<void> {
    await this.#write(object, (operation) => {
      const values = entries.map((entry) => (entry.value.length === 0 ? Buffer.alloc(1) : entry.value));
      const addresses = Buffer.alloc(8 * entries.length);
      const valueLengths = new BigUint64Array(entries.length);
      const keyLengths = new BigUint64Array(entries.length);
      for (const [index, entry] of entries.entries()) {
        addresses.writeBigUInt64LE(addressOfBytes(values[index] as Buffer), index * 8);
        keyLengths[index] = BigInt(Buffer.byteLength(entry.key));
        valueLengths[index] = BigInt(entry.value.length);
      }
      // Copies keys and values before it returns.
      rados_write_op_omap_set2.now(
        operation,
        entries.map((entry) => entry.key),
        addresses,
        keyLengths,
        valueLengths,
        entries.length,
      );
      values.length = 0;
    });
  }

  /** Removes omap keys, all or none; keys that are not there do not matter. @throws CephError ENOENT (no such object) */
  async omapRemove(object: string, keys: readonly string[]): Promise<void> {
    await this.#write(object, (operation) => {
      rados_write_op_omap_rm_keys.now(operation, keys, keys.length);
    });
  }

  async #write(object: string, add: (operation: Pointer) => void): Promise<void> {
    await this.use(async (handle) => {
      const operation = rados_create_write_op.now() as Pointer;
      try {
        add(operation);
        await checked(rados_write_op_operate, object, operation, handle, object, null, 0);
      } finally {
        rados_release_write_op.now(operation);
      }
    });
  }
}

/** Memory for several values that C writes, in one block: each keeps all of them alive. */
function cells(count: number): Buffer[] {
  const block = Buffer.alloc(8 * count);
  return Array.from({ length: count }, (_, index) => block.subarray(8 * index, 8 * index + 8));
}

function takeEntries(iterator: Pointer): OmapEntry[] {
  const entries: OmapEntry[] = [];
  if (iterator === 0n) return entries;
  const [key, value, keyLength, valueLength] = cells(4) as [Buffer, Buffer, Buffer, Buffer];
  for (;;) {
    checkedNow(rados_omap_get_next2, undefined, iterator, key, value, keyLength, valueLength);
    if (pointerIn(key) === 0n) return entries;
    entries.push({
      key: bytesAt(pointerIn(key), Number(keyLength.readBigUInt64LE())).toString('utf8'),
      value: bytesAt(pointerIn(value), Number(valueLength.readBigUInt64LE())),
    });
  }
}
