import { invalidField } from '../errors.js';
import { requireTags } from '../model/validation.js';

/*
 * Field masks (google.protobuf.FieldMask; https://google.aip.dev/161): which fields of an update request count. Beside whole
 * fields they can name one tag, as "tags.tier", so that a caller changes one tag without knowing the others.
 */

type Tags = Readonly<Record<string, string>>;

const MOST_PATHS = 100;
const TAG_PREFIX = 'tags.';

/** A mask that was read. */
export interface UpdateMask {
  /** Whether that field is to be changed. */
  has(field: string): boolean;
  /**
   * The tags as they are to be.
   * @param current those that are there
   * @param given those of the request
   * @throws MoorageError INVALID_ARGUMENT when they would be too many, or one of them is not right
   */
  tags(current: Tags, given: Tags): Tags;
}

/**
 * Reads a mask.
 * @param paths as the request has them
 * @param fields what can be changed beside the tags, as the API spells it
 * @throws MoorageError INVALID_ARGUMENT that names the path that is not known
 */
export function readUpdateMask(paths: readonly string[], fields: readonly string[]): UpdateMask {
  const possible = [...fields, 'tags', 'tags.KEY'].join(', ');
  if (paths.length === 0) throw invalidField('update_mask', `is required: what to change, out of ${possible}`);
  if (paths.length > MOST_PATHS) throw invalidField('update_mask', `must have at most ${MOST_PATHS} paths`);
  const known = new Set([...fields, 'tags']);
  const keys: string[] = [];
  for (const path of paths) {
    if (path.length > TAG_PREFIX.length && path.startsWith(TAG_PREFIX)) keys.push(path.slice(TAG_PREFIX.length));
    else if (!known.has(path)) {
      const shown = path.length > 64 ? `${path.slice(0, 64)}…` : path;
      throw invalidField('update_mask', `${JSON.stringify(shown)} cannot be changed; what can: ${possible}`);
    }
  }
  const named = new Set(paths);
  return {
    has: (field) => named.has(field),
    tags: (current, given) => {
      const tags = new Map(Object.entries(named.has('tags') ? given : current));
      for (const key of keys) {
        const value = Object.hasOwn(given, key) ? given[key] : undefined;
        if (value === undefined) tags.delete(key);
        else tags.set(key, value);
      }
      const wanted = Object.fromEntries(tags);
      requireTags(wanted);
      return wanted;
    },
  };
}

/** Whether two sets of tags say the same. */
export function sameTags(one: Tags, other: Tags): boolean {
  const names = Object.keys(one);
  return names.length === Object.keys(other).length && names.every((name) => one[name] === other[name]);
}
