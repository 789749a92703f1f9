import type { PhaseContext } from '../../journal/definition.js';
import type { ImageRecord } from '../../model/image.js';
import type { Pool } from '../../model/resources.js';
import { type ImageIdentity, imageEntry } from '../catalogue.js';
import type { CoreContext } from '../context.js';

/*
 * FLATTENING
 *
 * Each generation of clones makes opening slower, and keeps its origin from being purged. A flattened image has everything of
 * its own: what is cloned from it begins a new chain.
 *
 * What stays true:
 * - Only an image that nobody has open is flattened, and nobody can open it meanwhile: its operation holds its lock, and no
 *   export pins it. (Who has opened a clone goes on reading the parents that it opened, and would read zeros.)
 * - The store says that the image has a parent until the backend has said that it has none; only then may the origin go.
 * - It is a step that is asked for until it is done, so that it may take as long as it needs; a new agent goes on with it.
 * - Stopped, the image is a clone as before, or flattened all the same, and the record says which.
 */

/** The least time between two questions how far it is, in milliseconds, for agents that answer at once. */
const POLL_MILLISECONDS = 100;

/** What came of flattening so far. */
export type Flattening =
  | { readonly kind: 'going-on'; readonly progressPercent: number }
  /** The image as it is now: without a parent. */
  | { readonly kind: 'flattened'; readonly image: ImageRecord }
  | { readonly kind: 'not-flattened' };

/** Begins to flatten an image or asks how far that is. @throws BackendError */
export async function flattenFurther<Plan>(
  core: CoreContext,
  context: PhaseContext<Plan>,
  pool: Pool,
  image: ImageRecord,
): Promise<Flattening> {
  const asked = core.clock.monotonic();
  const { flattened, progressPercent } = await context.step('flatten-image', (step) =>
    core.backend().data.flattenImage(pool, image, step),
  );
  if (flattened) return { kind: 'flattened', image: withoutParent(image) };
  await core.clock.sleep(Math.max(0, asked + POLL_MILLISECONDS - core.clock.monotonic()), context.signal);
  return { kind: 'going-on', progressPercent };
}

/** Ends the flattening of an image. @throws BackendError */
export async function endFlattening<Plan>(
  core: CoreContext,
  context: PhaseContext<Plan>,
  pool: Pool,
  image: ImageRecord,
): Promise<Flattening> {
  const flattened = await context.step('stop-flatten', (step) => core.backend().data.stopFlatten(pool, image, step));
  return flattened ? { kind: 'flattened', image: withoutParent(image) } : { kind: 'not-flattened' };
}

/** Takes the parent out of the catalogue's entry of a flattened image. @throws BackendError */
export async function forgetParent<Plan>(
  core: CoreContext,
  context: PhaseContext<Plan>,
  pool: Pool,
  identity: ImageIdentity,
): Promise<void> {
  await context.step('put-catalogue-entry', (step) =>
    core.backend().data.putCatalogueEntry(pool, imageEntry(core.vault, identity), step),
  );
}

function withoutParent(image: ImageRecord): ImageRecord {
  const { parent: _, ...independent } = image;
  return independent;
}
