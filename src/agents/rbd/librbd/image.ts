import koffi from 'koffi';
import {
  checked,
  type NativeFunction,
  type NativeValue,
  outCell,
  type Pointer,
  pointerIn,
  rbd,
  stringAt,
} from './library.js';
import type { PoolContext } from './pool-context.js';

const rbd_open = rbd('int rbd_open(void *io, const char *name, void *image, const char *snap_name)');
const rbd_open_read_only = rbd('int rbd_open_read_only(void *io, const char *name, void *image, const char *snap)');
const rbd_open_by_id = rbd('int rbd_open_by_id(void *io, const char *id, void *image, const char *snap_name)');
const rbd_open_by_id_read_only = rbd(
  'int rbd_open_by_id_read_only(void *io, const char *id, void *image, const char *snap_name)',
);
const rbd_close = rbd('int rbd_close(void *image)');
const rbd_flush = rbd('int rbd_flush(void *image)');
const rbd_get_size = rbd('int rbd_get_size(void *image, void *size)');
const rbd_get_features = rbd('int rbd_get_features(void *image, void *features)');
const rbd_get_id = rbd('int rbd_get_id(void *image, void *id, size_t id_len)');
const rbd_resize2 = rbd('int rbd_resize2(void *image, uint64_t size, bool allow_shrink, void *cb, void *cbdata)');
const rbd_watchers_list = rbd('int rbd_watchers_list(void *image, void *watchers, void *max_watchers)');
const rbd_watchers_list_cleanup = rbd('void rbd_watchers_list_cleanup(void *watchers, size_t num_watchers)');
const rbd_write = rbd('int64_t rbd_write(void *image, uint64_t ofs, size_t len, const void *buf)');
const rbd_read = rbd('int64_t rbd_read(void *image, uint64_t ofs, size_t len, void *buf)');

/**
 * librbd calls its progress function through whatever it is given, NULL too. This is a C function that takes any
 * arguments, does no harm and returns 0 ("go on"), so that no JavaScript runs for it.
 */
const noProgress: Pointer = koffi.load('libc.so.6').symbol('sched_yield') as Pointer;

/** Features of an image, as bits (rbd/features.h). */
export const RBD_FEATURES = {
  layering: 0x1n,
  exclusiveLock: 0x4n,
  objectMap: 0x8n,
  deepFlatten: 0x20n,
  /** Set by RBD itself on an image that takes part in clone v2. */
  operations: 0x100n,
  migrating: 0x200n,
} as const;

/** A client that has an image open for writing. */
export interface Watcher {
  /** Address with nonce. */
  readonly address: string;
  /** Number of the client, as 4123 of "client.4123". */
  readonly clientId: bigint;
  /** Its cookie. */
  readonly cookie: bigint;
}

/** Which image: by its name or by its id. By id also finds one in the trash. */
export type ImageReference = { readonly name: string } | { readonly id: string };

/** An open image. Close it; nothing else frees it. */
export class RbdImage {
  /** Name or id that it was opened by. */
  readonly subject: string;
  readonly #pool: PoolContext;
  readonly #handle: Pointer;
  #calls = 0;
  #closing = false;

  private constructor(pool: PoolContext, handle: Pointer, subject: string) {
    this.#pool = pool;
    this.#handle = handle;
    this.subject = subject;
  }

  /**
   * Opens an image (rbd_open and its kin).
   * @param how `readOnly` takes no watch, and no part in the exclusive lock; `snapshot` opens that snapshot
   * @throws CephError ENOENT and others
   */
  static async open(
    pool: PoolContext,
    which: ImageReference,
    how: { readonly readOnly?: boolean; readonly snapshot?: string } = {},
  ): Promise<RbdImage> {
    const cell = outCell();
    const byName = 'name' in which;
    const subject = byName ? `image ${which.name}` : `image id ${which.id}`;
    const open = byName
      ? how.readOnly
        ? rbd_open_read_only
        : rbd_open
      : how.readOnly
        ? rbd_open_by_id_read_only
        : rbd_open_by_id;
    await pool.call(open, subject, byName ? which.name : which.id, cell, how.snapshot ?? null);
    return new RbdImage(pool, pointerIn(cell), subject);
  }

  /** Opens an image, hands it to `use` and closes it whatever comes of it. A failed close is an error only if `use` was none. */
  static async with<Result>(
    pool: PoolContext,
    which: ImageReference,
    how: { readonly readOnly?: boolean; readonly snapshot?: string },
    use: (image: RbdImage) => Promise<Result>,
  ): Promise<Result> {
    const image = await RbdImage.open(pool, which, how);
    let result: Result;
    try {
      result = await use(image);
    } catch (error) {
      try {
        await image.close();
      } catch (closeError) {
        throw new AggregateError([error, closeError], `${image.subject}: failed, and closing it failed`, {
          cause: error,
        });
      }
      throw error;
    }
    await image.close();
    return result;
  }

  /** Calls a C function whose first argument is the image; for the other files of this folder. */
  async call(native: NativeFunction, ...values: NativeValue[]): Promise<number> {
    if (this.#closing) throw new Error(`${this.subject} was closed`);
    this.#calls += 1;
    try {
      return await this.#pool.use(() => checked(native, this.subject, this.#handle, ...values));
    } finally {
      this.#calls -= 1;
    }
  }

  /** Closes it; gives the exclusive lock back if it has it. Calls on it must have ended. */
  async close(): Promise<void> {
    if (this.#closing) return;
    if (this.#calls > 0) throw new Error(`${this.subject} is closed while ${this.#calls} calls run on it`);
    this.#closing = true;
    await this.#pool.use(() => checked(rbd_close, this.subject, this.#handle));
  }

  /*
   * Getters run on a thread too: when the header was changed since, librbd reads it again in them, and an OSD that does not
   * answer would hold the main thread, and with it every other pool's work.
   */

  /** Size in bytes: of the image, or of the snapshot it was opened at. */
  async sizeBytes(): Promise<bigint> {
    const cell = outCell();
    await this.call(rbd_get_size, cell);
    return cell.readBigUInt64LE();
  }

  /** Features as bits, see RBD_FEATURES. */
  async features(): Promise<bigint> {
    const cell = outCell();
    await this.call(rbd_get_features, cell);
    return cell.readBigUInt64LE();
  }

  /** The image's id. */
  async id(): Promise<string> {
    const buffer = Buffer.alloc(256);
    await this.call(rbd_get_id, buffer, buffer.length);
    return buffer.toString('utf8', 0, buffer.indexOf(0));
  }

  /**
   * Writes back what is cached. On an image with exclusive-lock it also takes the lock, in good order: its owner finishes
   * and hands it over. That is what makes the operations that follow run here, with our rights, instead of at the owner.
   */
  async flush(): Promise<void> {
    await this.call(rbd_flush);
  }

  /** Changes the size, never to a smaller one. @param sizeBytes new size @throws CephError EINVAL (it would shrink) */
  async grow(sizeBytes: bigint): Promise<void> {
    await this.call(rbd_resize2, sizeBytes, false, noProgress, null);
  }

  /** Writes data; for tests and reference clients. */
  async write(offset: bigint, data: Buffer): Promise<void> {
    await this.call(rbd_write, offset, data.length, data);
  }

  /** Reads data; for tests and reference clients. */
  async read(offset: bigint, length: number): Promise<Buffer> {
    const buffer = Buffer.alloc(length);
    const count = await this.call(rbd_read, offset, length, buffer);
    return buffer.subarray(0, count);
  }

  /** Who has it open for writing (rbd_watchers_list). A frozen client is no longer listed after 30 s. */
  async watchers(): Promise<Watcher[]> {
    for (let capacity = 16; ; capacity *= 4) {
      const list = Buffer.alloc(24 * capacity);
      const count = outCell();
      count.writeBigUInt64LE(BigInt(capacity));
      let code = 0;
      try {
        code = await this.call(rbd_watchers_list, list, count);
      } catch (error) {
        if (!isRange(error) || capacity > 100_000) throw error;
        continue;
      }
      const found = Math.max(code, Number(count.readBigUInt64LE()));
      const watchers = Array.from({ length: found }, (_, index) => ({
        address: stringAt(pointerIn(list, index * 24)),
        clientId: list.readBigInt64LE(index * 24 + 8),
        cookie: list.readBigUInt64LE(index * 24 + 16),
      }));
      rbd_watchers_list_cleanup.now(list, found);
      return watchers;
    }
  }
}

function isRange(error: unknown): boolean {
  return error instanceof Error && 'errnoName' in error && error.errnoName === 'ERANGE';
}
