import { Decoder } from '../librbd/encoding.js';
import { DIRECTORY_OBJECT, decodeTrashEntry, TRASH_OBJECT, unlessAbsent } from '../librbd/header.js';
import type { PoolContext } from '../librbd/pool-context.js';
import { invalidField } from '../step-error.js';

/** An image as RBD lists it. */
export interface ListedImage {
  readonly name: string;
  readonly backendId: string;
  readonly trashed: boolean;
}

const LISTS = {
  images: { object: DIRECTORY_OBJECT, prefix: 'name_' },
  trash: { object: TRASH_OBJECT, prefix: 'id_' },
} as const;

/**
 * A page of the images of a pool, then of those in its trash, foreign ones too.
 * @param cursor empty begins; else what the page before gave
 */
export async function listImages(
  pool: PoolContext,
  cursor: string,
  limit: number,
): Promise<{ readonly images: readonly ListedImage[]; readonly nextCursor: string }> {
  const position = /^(images|trash)\/(.*)$/s.exec(cursor === '' ? 'images/' : cursor);
  if (!position) throw invalidField('cursor', 'must be one that a page gave');
  let list = position[1] as keyof typeof LISTS;
  let after = position[2] ?? '';
  const images: ListedImage[] = [];
  for (;;) {
    if (images.length >= limit) return { images, nextCursor: `${list}/${after}` };
    const { object, prefix } = LISTS[list];
    const page = await unlessAbsent({ entries: [], more: false }, () =>
      pool.omapList(object, after, prefix, limit - images.length),
    );
    for (const { key, value } of page.entries) {
      const rest = key.slice(prefix.length);
      if (list === 'images') images.push({ name: rest, backendId: new Decoder(value).text(), trashed: false });
      else images.push({ name: decodeTrashEntry(rest, value).name, backendId: rest, trashed: true });
    }
    after = page.entries.at(-1)?.key ?? after;
    if (page.more) continue;
    if (list === 'trash') return { images, nextCursor: '' };
    [list, after] = ['trash', ''];
  }
}
