import { CephError } from './errors.js';
import { addressOfBytes, bytesAt, checked, checkedNow, type Pointer, pointerIn, rados } from './library.js';

/* Requests on an object's omap; PoolContext's methods document them. `io` is the ioctx. */

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

/** See PoolContext.omapGet. */
export async function readOmapKeys(io: Pointer, object: string, keys: readonly string[]): Promise<OmapEntry[]> {
  const [iterator, result] = cells(2) as [Buffer, Buffer];
  return read(io, object, [iterator], [result], (operation) => {
    rados_read_op_omap_get_vals_by_keys.now(operation, keys, keys.length, iterator, result);
  });
}

/** See PoolContext.omapList. */
export async function readOmapPage(
  io: Pointer,
  object: string,
  startAfter: string,
  prefix: string,
  limit: number,
): Promise<OmapPage> {
  const [iterator, more, result] = cells(3) as [Buffer, Buffer, Buffer];
  const entries = await read(io, object, [iterator], [result], (operation) => {
    rados_read_op_omap_get_vals2.now(operation, startAfter, prefix, limit, iterator, more, result);
  });
  return { entries, more: more.readUInt8() !== 0 };
}

/** See PoolContext.omapKeysAndPrefix. */
export async function readOmapKeysAndPrefix(
  io: Pointer,
  object: string,
  keys: readonly string[],
  prefix: string,
): Promise<string[]> {
  const [first, firstResult, second, more, secondResult] = cells(5) as [Buffer, Buffer, Buffer, Buffer, Buffer];
  const entries = await read(io, object, [first, second], [firstResult, secondResult], (operation) => {
    rados_read_op_omap_get_vals_by_keys.now(operation, keys, keys.length, first, firstResult);
    rados_read_op_omap_get_vals2.now(operation, '', prefix, 8, second, more, secondResult);
  });
  return entries.map((entry) => entry.key);
}

/**
 * Runs one read request. librados keeps the addresses of iterators and results until it has ended: they must come from
 * `cells`, so that a cell which nobody reads again is not collected before.
 */
async function read(
  io: Pointer,
  object: string,
  iterators: readonly Buffer[],
  results: readonly Buffer[],
  build: (operation: Pointer) => void,
): Promise<OmapEntry[]> {
  const operation = rados_create_read_op.now() as Pointer;
  try {
    build(operation);
    await checked(rados_read_op_operate, object, operation, io, object, 0);
    for (const result of results) {
      const code = result.readInt32LE();
      if (code < 0) throw new CephError(rados_read_op_operate.functionName, code, object);
    }
    return iterators.flatMap((iterator) => takeEntries(pointerIn(iterator)));
  } finally {
    for (const iterator of iterators) {
      if (pointerIn(iterator) !== 0n) rados_omap_get_end.now(pointerIn(iterator));
    }
    rados_release_read_op.now(operation);
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

/** See PoolContext.omapSet. */
export async function setOmap(io: Pointer, object: string, entries: readonly OmapEntry[]): Promise<void> {
  await write(io, object, (operation) => {
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

/** See PoolContext.omapRemove. */
export async function removeOmapKeys(io: Pointer, object: string, keys: readonly string[]): Promise<void> {
  await write(io, object, (operation) => {
    rados_write_op_omap_rm_keys.now(operation, keys, keys.length);
  });
}

async function write(io: Pointer, object: string, build: (operation: Pointer) => void): Promise<void> {
  const operation = rados_create_write_op.now() as Pointer;
  try {
    build(operation);
    await checked(rados_write_op_operate, object, operation, io, object, null, 0);
  } finally {
    rados_release_write_op.now(operation);
  }
}
