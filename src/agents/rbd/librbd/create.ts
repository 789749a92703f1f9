import { RBD_FEATURES } from './image.js';
import { checkedNow, type NativeFunction, outCell, type Pointer, pointerIn, rbd } from './library.js';
import type { PoolContext } from './pool-context.js';

const rbd_image_options_create = rbd('void rbd_image_options_create(void *opts)');
const rbd_image_options_destroy = rbd('void rbd_image_options_destroy(void *opts)');
const rbd_image_options_set_uint64 = rbd('int rbd_image_options_set_uint64(void *opts, int optname, uint64_t optval)');
const rbd_create4 = rbd('int rbd_create4(void *io, const char *name, uint64_t size, void *opts)');
const rbd_clone3 = rbd(
  'int rbd_clone3(void *p_ioctx, const char *p_name, const char *p_snapname, void *c_ioctx, const char *c_name, void *c_opts)',
);

const OPTION_FEATURES = 1;
const OPTION_ORDER = 2;
const OPTION_CLONE_FORMAT = 12;

/** Objects of our images have 2^22 bytes. */
export const OBJECT_ORDER = 22;
/** Size of an object of an image, in bytes. */
export const OBJECT_SIZE_BYTES = 1n << BigInt(OBJECT_ORDER);
/**
 * The features of every image that we make, and nothing else: deep-flatten cannot be added later; an object map lies after
 * a crash, and a later flatten then loses data.
 */
export const IMAGE_FEATURES = RBD_FEATURES.layering | RBD_FEATURES.exclusiveLock | RBD_FEATURES.deepFlatten;

/** Makes an empty image of format 2 (rbd_create4). @throws CephError EEXIST */
export async function createImage(pool: PoolContext, name: string, sizeBytes: bigint): Promise<void> {
  await withOptions({ [OPTION_FEATURES]: IMAGE_FEATURES, [OPTION_ORDER]: BigInt(OBJECT_ORDER) }, (options) =>
    pool.call(rbd_create4, `image ${name}`, name, sizeBytes, options),
  );
}

/**
 * Makes an image as a clone of a snapshot (rbd_clone3), always clone v2: no protected snapshots, whatever the cluster's
 * minimum client is.
 * @throws CephError EEXIST; ENOENT (no such parent or snapshot)
 */
export async function cloneImage(
  parentPool: PoolContext,
  parent: { readonly name: string; readonly snapshot: string },
  pool: PoolContext,
  name: string,
): Promise<void> {
  const options = {
    [OPTION_FEATURES]: IMAGE_FEATURES,
    [OPTION_ORDER]: BigInt(OBJECT_ORDER),
    [OPTION_CLONE_FORMAT]: 2n,
  };
  await withOptions(options, (pointer) =>
    pool.use((handle) =>
      parentPool.call(rbd_clone3, `image ${name}`, parent.name, parent.snapshot, handle, name, pointer),
    ),
  );
}

async function withOptions<Result>(
  options: Readonly<Record<number, bigint>>,
  use: (pointer: Pointer) => Promise<Result>,
): Promise<Result> {
  const cell = outCell();
  rbd_image_options_create.now(cell);
  const pointer = pointerIn(cell);
  try {
    for (const [option, value] of Object.entries(options)) {
      setOption(rbd_image_options_set_uint64, pointer, Number(option), value);
    }
    return await use(pointer);
  } finally {
    rbd_image_options_destroy.now(pointer);
  }
}

function setOption(native: NativeFunction, pointer: Pointer, option: number, value: bigint): void {
  checkedNow(native, `option ${option}`, pointer, option, value);
}
