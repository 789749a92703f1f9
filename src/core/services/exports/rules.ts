import { MoorageError } from '../../errors.js';
import { keys } from '../../journal/documents.js';
import type { ImageRecord } from '../../model/image.js';
import type { Export, Snapshot, Tombstone, Volume } from '../../model/resources.js';
import type { Store } from '../../ports/store.js';

/*
 * THE EXPORT RULES
 *
 * 1. One node at a time: a volume that has an export is exported to no other node.
 * 2. A second one is let in only as the other side of a migration: it says so, names an instance, the one export that is there
 *    is for the same instance, and is on another node. Never more than two. Unexport of the first completes the migration, of
 *    the second rolls it back; what is left is an ordinary export again.
 * 3. A volume that was created multi-attach lets in any number.
 * 4. The same volume and node is the same export: asking again answers with it, as long as what is asked for is the same.
 * 5. An export that is not yet gone counts, whatever its state: a volume goes nowhere else while an Unexport is under way.
 * 6. Whoever is refused is told who holds the volume.
 *
 * The volume's document lists its exports, so that two calls at once meet at its revision: one of them is judged again with
 * the other one's export there.
 */

/** What is asked for. */
export interface Wish {
  readonly nodeId: string;
  readonly instance: string;
  readonly migration: boolean;
  readonly readOnly: boolean;
}

/** What the rules say: an export that is there already, or that a new one may be made. */
export type Verdict = { readonly existing: Export } | { readonly allowed: true };

/**
 * Judges a wish by the exports that a volume has.
 * @throws MoorageError FAILED_PRECONDITION that names who holds the volume; ALREADY_EXISTS when this node has it on other terms;
 *   ABORTED while this node's export is being withdrawn
 */
export function judge(volume: Volume, exports: readonly Export[], wish: Wish): Verdict {
  const own = exports.find((item) => item.nodeId === wish.nodeId);
  if (own !== undefined) return { existing: requireSameTerms(own, wish) };
  if (exports.length === 0 || volume.multiAttach) return { allowed: true };
  const [first] = exports;
  const isMigration =
    wish.migration && exports.length === 1 && wish.instance !== '' && first?.instance === wish.instance;
  if (isMigration && first?.state === 'exported') return { allowed: true };
  throw heldBy(volume, exports, wish);
}

function requireSameTerms(own: Export, wish: Wish): Export {
  if (own.state === 'unexporting') {
    throw new MoorageError(
      'ABORTED',
      `The export ${own.id} to ${own.nodeId} is being withdrawn. Try again when it is gone.`,
      {
        reason: 'OPERATION_IN_PROGRESS',
        metadata: { export_id: own.id, operation_id: own.operationId ?? '' },
        retryAfterMilliseconds: 500,
      },
    );
  }
  if (own.instance === wish.instance && own.readOnly === wish.readOnly) return own;
  throw new MoorageError(
    'ALREADY_EXISTS',
    `The volume is exported to ${own.nodeId} as ${own.id} already, for instance ${JSON.stringify(own.instance)}` +
      `${own.readOnly ? ', read-only' : ''}. Unexport it first to change that.`,
    { reason: 'EXPORTED_ON_OTHER_TERMS', metadata: { export_id: own.id, node_id: own.nodeId, instance: own.instance } },
  );
}

function heldBy(volume: Volume, exports: readonly Export[], wish: Wish): MoorageError {
  const nodes = exports.map((item) => item.nodeId);
  const why = wish.migration
    ? 'a migration takes one other export, for the same instance, that is not being withdrawn'
    : 'it goes to one node at a time';
  return new MoorageError('FAILED_PRECONDITION', `The volume ${volume.id} is held by ${nodes.join(' and ')}; ${why}.`, {
    reason: 'VOLUME_IN_USE',
    metadata: {
      volume_id: volume.id,
      node_ids: nodes.join(','),
      export_ids: exports.map((item) => item.id).join(','),
      instances: exports.map((item) => item.instance).join(','),
    },
  });
}

/** A volume or snapshot below another one, with its image. */
export interface Ancestor {
  readonly id: string;
  readonly image: ImageRecord;
}

/**
 * Everything below an image, nearest first, from the store alone: what a backend's header says of its parents a node could
 * have written.
 * @throws MoorageError INTERNAL when the store's own records do not fit
 */
export async function ancestorsOf(store: Store, image: ImageRecord): Promise<readonly Ancestor[]> {
  const found: Ancestor[] = [];
  for (let { parent } = image; parent !== undefined; ) {
    const id: string = parent.resourceId;
    const key = id.startsWith('snap-') ? keys.snapshot(id) : keys.volume(id);
    const document = await store.get<Volume | Snapshot | Tombstone>(key);
    const resource = document?.value;
    if (resource === undefined || !('image' in resource) || resource.image === undefined) {
      throw new MoorageError('INTERNAL', `The record of ${id}, from which others were cloned, is not there.`, {
        reason: 'ANCESTOR_MISSING',
        metadata: { id },
      });
    }
    found.push({ id, image: resource.image });
    parent = resource.image.parent;
  }
  return found;
}
