import { CephError } from './errors.js';
import { bytesAt, checkedNow, outCell, type Pointer, pointerIn, rados } from './library.js';
import type { PoolContext } from './pool-context.js';

const rados_aio_create_completion2 = rados('int rados_aio_create_completion2(void *arg, void *complete, void *pc)');
const rados_aio_release = rados('void rados_aio_release(void *c)');
const rados_aio_remove = rados('int rados_aio_remove(void *io, const char *oid, void *completion)');
const rados_aio_flush = rados('int rados_aio_flush(void *io)');
const rados_aio_get_return_value = rados('int rados_aio_get_return_value(void *c)');
const rados_object_list_begin = rados('void *rados_object_list_begin(void *io)');
const rados_object_list_end = rados('void *rados_object_list_end(void *io)');
const rados_object_list_is_end = rados('int rados_object_list_is_end(void *io, void *cur)');
const rados_object_list_cursor_free = rados('void rados_object_list_cursor_free(void *io, void *cur)');
const rados_object_list = rados(
  'int rados_object_list(void *io, void *start, void *finish, size_t result_size, const void *filter, size_t filter_len, void *results, void *next)',
);
const rados_object_list_free = rados('void rados_object_list_free(size_t result_size, void *results)');

/** As many as a server has done within a few milliseconds: what comes meanwhile waits behind them. */
const BATCH = 32;
const ENOENT = -2;

/**
 * Removes many objects, a batch in flight at a time; those that are not there do not matter. A batch takes one thread.
 * @param inTurn runs a batch when its turn has come
 * @returns how many were there
 * @throws CephError of the first object that could not be removed, after the rest of its batch
 */
export async function removeObjects(
  pool: PoolContext,
  objects: Iterable<string>,
  inTurn: (batch: () => Promise<number>) => Promise<number>,
): Promise<number> {
  let removed = 0;
  let batch: string[] = [];
  for (const object of objects) {
    batch.push(object);
    if (batch.length < BATCH) continue;
    const full = batch;
    removed += await inTurn(() => removeBatch(pool, full));
    batch = [];
  }
  if (batch.length > 0) removed += await inTurn(() => removeBatch(pool, batch));
  return removed;
}

async function removeBatch(pool: PoolContext, objects: readonly string[]): Promise<number> {
  return pool.use(async (handle) => {
    const completions: { readonly object: string; readonly pointer: Pointer }[] = [];
    try {
      for (const object of objects) {
        const cell = outCell();
        checkedNow(rados_aio_create_completion2, object, null, null, cell);
        completions.push({ object, pointer: pointerIn(cell) });
        checkedNow(rados_aio_remove, object, handle, object, pointerIn(cell));
      }
    } finally {
      await rados_aio_flush.later(handle);
    }
    let removed = 0;
    let failure: CephError | undefined;
    for (const { object, pointer } of completions) {
      const code = Number(rados_aio_get_return_value.now(pointer));
      rados_aio_release.now(pointer);
      if (code === 0) removed += 1;
      else if (code !== ENOENT) failure ??= new CephError(rados_aio_remove.functionName, code, object);
    }
    if (failure) throw failure;
    return removed;
  });
}

/** Names of all objects of the pool, in no order; takes as long as the pool is large. */
export async function* listObjects(pool: PoolContext): AsyncGenerator<string> {
  const handle = pool.handle;
  const finish = rados_object_list_end.now(handle) as Pointer;
  // C writes where the next page begins into the cursor that `next` points to.
  const cursor = rados_object_list_begin.now(handle) as Pointer;
  const next = outCell();
  next.writeBigUInt64LE(cursor);
  const pageSize = 1000;
  try {
    while (Number(rados_object_list_is_end.now(handle, cursor)) === 0) {
      // struct { size_t oid_length; char *oid; size_t nspace_length; char *nspace; size_t locator_length; char *locator; }
      const results = Buffer.alloc(48 * pageSize);
      const count = await pool.call(
        rados_object_list,
        `objects of pool ${pool.poolName}`,
        cursor,
        finish,
        pageSize,
        null,
        0,
        results,
        next,
      );
      const names = Array.from({ length: count }, (_, index) =>
        bytesAt(pointerIn(results, index * 48 + 8), Number(results.readBigUInt64LE(index * 48))).toString('utf8'),
      );
      rados_object_list_free.now(count, results);
      yield* names;
    }
  } finally {
    rados_object_list_cursor_free.now(handle, cursor);
    rados_object_list_cursor_free.now(handle, finish);
  }
}
