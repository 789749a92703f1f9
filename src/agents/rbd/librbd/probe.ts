import { CephError } from './errors.js';
import { checked, checkedNow, outCell, type Pointer, pointerIn, rados } from './library.js';
import type { PoolContext } from './pool-context.js';

const rados_aio_create_completion2 = rados('int rados_aio_create_completion2(void *arg, void *complete, void *pc)');
const rados_aio_release = rados('void rados_aio_release(void *c)');
const rados_aio_stat = rados(
  'int rados_aio_stat(void *io, const char *o, void *completion, void *psize, void *pmtime)',
);
const rados_aio_wait_for_complete = rados('int rados_aio_wait_for_complete(void *c)');
const rados_aio_get_return_value = rados('int rados_aio_get_return_value(void *c)');

const BATCH = 512;
const ENOENT = -2;

/**
 * Asks for these objects, whether they are there or not, a batch in flight at a time, and returns when each was answered.
 * Takes one thread.
 * @throws CephError of the first that was not answered (ETIMEDOUT) or refused, after the rest of its batch
 */
export async function probeObjects(pool: PoolContext, objects: readonly string[]): Promise<void> {
  for (let from = 0; from < objects.length; from += BATCH) await probeBatch(pool, objects.slice(from, from + BATCH));
}

async function probeBatch(pool: PoolContext, objects: readonly string[]): Promise<void> {
  await pool.use(async (handle) => {
    // librados writes into the cells until the request is complete: they live as long as the completions.
    const probes: { readonly object: string; readonly pointer: Pointer; readonly cells: readonly Buffer[] }[] = [];
    let failure: CephError | undefined;
    try {
      for (const object of objects) {
        const [completion, size, time] = [outCell(), outCell(), outCell()];
        checkedNow(rados_aio_create_completion2, object, null, null, completion);
        const pointer = pointerIn(completion);
        try {
          checkedNow(rados_aio_stat, object, handle, object, pointer, size, time);
        } catch (error) {
          rados_aio_release.now(pointer);
          throw error;
        }
        probes.push({ object, pointer, cells: [size, time] });
      }
    } finally {
      for (const { object, pointer } of probes) {
        await checked(rados_aio_wait_for_complete, object, pointer);
        const code = Number(rados_aio_get_return_value.now(pointer));
        rados_aio_release.now(pointer);
        if (code < 0 && code !== ENOENT) failure ??= new CephError(rados_aio_stat.functionName, code, object);
      }
    }
    if (failure) throw failure;
  });
}
