import { createHash } from 'node:crypto';
import { unlessAbsent } from '../librbd/header.js';
import type { OmapEntry, PoolContext } from '../librbd/pool-context.js';
import { invalidField } from '../step-error.js';

/*
 * The catalogue: omap entries of these objects, which no node may touch. Image metadata is no place for it: a node can
 * forge it, and clones inherit it.
 */

const SHARDS = 64;
/** Bytes of values in one page, so that it fits into a message. */
const PAGE_BYTES = 2 * 1024 * 1024;

const shardObject = (shard: number): string => `moorage_catalogue.${shard.toString(16).padStart(2, '0')}`;

const shardOf = (key: string): number => createHash('sha256').update(key).digest().readUInt8(0) % SHARDS;

/** Writes an entry. */
export async function putCatalogueEntry(pool: PoolContext, entry: OmapEntry): Promise<void> {
  await pool.omapSet(shardObject(shardOf(entry.key)), [entry]);
}

/** Removes an entry; one that is gone does not matter. */
export async function removeCatalogueEntry(pool: PoolContext, key: string): Promise<void> {
  await unlessAbsent(undefined, () => pool.omapRemove(shardObject(shardOf(key)), [key]));
}

/**
 * A page of the catalogue, shard after shard.
 * @param cursor empty begins; else what the page before gave
 */
export async function listCatalogueEntries(
  pool: PoolContext,
  cursor: string,
  limit: number,
): Promise<{ readonly entries: readonly OmapEntry[]; readonly nextCursor: string }> {
  const position = /^([0-9]{1,2})\/(.*)$/.exec(cursor === '' ? '0/' : cursor);
  if (!position || Number(position[1]) >= SHARDS) throw invalidField('cursor', 'must be one that a page gave');
  let after = position[2] ?? '';
  const entries: OmapEntry[] = [];
  let bytes = 0;
  for (let shard = Number(position[1]); shard < SHARDS; shard += 1, after = '') {
    for (let more = true; more; ) {
      if (entries.length >= limit || bytes >= PAGE_BYTES) return { entries, nextCursor: `${shard}/${after}` };
      const from = after;
      const page = await unlessAbsent({ entries: [], more: false }, () =>
        pool.omapList(shardObject(shard), from, '', Math.min(limit - entries.length, 100)),
      );
      for (const entry of page.entries) bytes += entry.value.length + entry.key.length;
      entries.push(...page.entries);
      after = page.entries.at(-1)?.key ?? after;
      more = page.more;
    }
  }
  return { entries, nextCursor: '' };
}

/** The entries of those keys that are there. */
export async function getCatalogueEntries(pool: PoolContext, keys: readonly string[]): Promise<readonly OmapEntry[]> {
  const byShard = new Map<number, string[]>();
  for (const key of new Set(keys)) {
    const shard = shardOf(key);
    byShard.set(shard, [...(byShard.get(shard) ?? []), key]);
  }
  const found = await Promise.all(
    [...byShard].map(([shard, few]) =>
      unlessAbsent(new Map<string, Buffer>(), () => pool.omapGet(shardObject(shard), few)),
    ),
  );
  return found.flatMap((values) => [...values].map(([key, value]) => ({ key, value })));
}
