import { keys, putDebris } from '../../journal/documents.js';
import type { ImageParent, ImageRecord } from '../../model/image.js';
import type { ImageFacts } from '../../ports/backend.js';
import type { Write } from '../../ports/store.js';
import { ownerOf } from './names.js';
import type { Survey } from './survey.js';

/*
 * An image of ours that belongs to nothing (a request that came late has made it, or its making was never finished) goes to
 * the reaper as debris. No node ever had it open, so its header is what the agent wrote.
 */

/** The writes that leave an image to the reaper; `checks` hold on to what says that it is nobody's. */
export async function debrisWrites(
  survey: Survey,
  name: string,
  facts: ImageFacts,
  reason: string,
  checks: readonly Write[],
): Promise<readonly Write[] | undefined> {
  const { core, pool } = survey;
  const { header } = facts;
  const size = Math.max(1, header?.sizeBytes ?? 1);
  const parent = await parentOf(survey, facts);
  const image: ImageRecord = {
    name,
    backendId: facts.backendId,
    sizeBytes: size,
    largestSizeBytes: size,
    points: (header?.points ?? []).map((point, index) => ({ name: `point-${index}`, backendId: point.backendId })),
    formerNames: [],
    ...(parent === undefined ? {} : { parent }),
  };
  return [putDebris({ name, poolId: pool.id, image, reason, createTime: core.clock.now() }, 'absent'), ...checks];
}

/** Whether the reaper has it already. */
export async function isDebris(survey: Survey, name: string): Promise<boolean> {
  return (await survey.core.store.get(keys.debris(survey.pool.id, name))) !== undefined;
}

async function parentOf(survey: Survey, { header }: ImageFacts): Promise<ImageParent | undefined> {
  const backendId = header?.parentBackendId ?? '';
  if (header === undefined || backendId === '' || backendId.includes('/')) return undefined;
  const [facts] = await survey.images([{ name: '', backendId }]);
  const name = facts?.listedName === '' ? facts.trashedName : (facts?.listedName ?? '');
  const resourceId = ownerOf(name);
  if (resourceId === undefined) return undefined;
  const resource = (await survey.resources([resourceId])).get(resourceId)?.value;
  const points = resource !== undefined && 'image' in resource ? (resource.image?.points ?? []) : [];
  const pointId = header.parentPointBackendId;
  const known = points.find((point) => point.backendId === pointId);
  return { name, backendId, point: known ?? { name: `point-${pointId}`, backendId: pointId }, resourceId };
}
