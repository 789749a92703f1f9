import { MoorageError } from '../../errors.js';
import { putSnapshot, putVolume } from '../../journal/documents.js';
import type { ImageRecord, Point } from '../../model/image.js';
import type { Snapshot, Volume } from '../../model/resources.js';
import type { ImageFacts } from '../../ports/backend.js';
import type { Write } from '../../ports/store.js';
import type { ImageIdentity } from '../catalogue.js';
import { BASE_POINT } from '../volumes/create-volume.js';
import { isSnapshotId, ownerOf } from './names.js';
import { putResource } from './repair-operation.js';
import type { ResourceDocument, Survey } from './survey.js';

/*
 * Taking a volume or snapshot from the catalogue into the store: what it is says its authenticated entry; whether its image
 * is live or in the trash, and under which id, say RBD's own lists, which no node can write; of its header only what no node
 * could have written is used (a snapshot's image is never open on a node for writing).
 */

/** Why an image that the catalogue names cannot be taken for whole: a sentence; undefined when it can. */
export function flaw(identity: ImageIdentity, facts: ImageFacts): string | undefined {
  const { header } = facts;
  if (header === undefined) return facts.headerUnreadable ? 'its header cannot be read' : 'it has no header';
  const wanted = identity.parent;
  if (header.parentBackendId !== (wanted?.backendId ?? '')) {
    return `its header names ${header.parentBackendId === '' ? 'no parent' : `the parent ${header.parentBackendId}`}`;
  }
  if (wanted !== undefined && header.parentPointBackendId !== wanted.point.backendId) {
    return 'its header names another point of its parent';
  }
  const hasBase = header.points.some((point) => point.name === BASE_POINT && !point.trashed);
  if (identity.kind === 'snapshot' && !hasBase) return `it lacks the point "${BASE_POINT}"`;
  return undefined;
}

/**
 * The writes that take it in: all or nothing, with what it was made from when that is missing too.
 * @throws MoorageError FAILED_PRECONDITION when something below it is nowhere
 */
export async function adoptWrites(
  survey: Survey,
  identity: ImageIdentity,
  facts: ImageFacts,
): Promise<readonly Write[] | undefined> {
  const adoption = new Adoption(survey);
  await adoption.take(identity, facts);
  return adoption.writes();
}

class Adoption {
  readonly #survey: Survey;
  /** Every document that is changed: as it was, and as it will be. */
  readonly #changed = new Map<string, { readonly before: ResourceDocument | undefined; value: Volume | Snapshot }>();

  constructor(survey: Survey) {
    this.#survey = survey;
  }

  async take(identity: ImageIdentity, facts: ImageFacts): Promise<void> {
    if (this.#changed.has(identity.id)) return;
    if ((await this.#survey.resources([identity.id])).has(identity.id)) return;
    const depth = identity.parent === undefined ? 0 : (await this.#parent(identity, identity.parent.resourceId)) + 1;
    this.#changed.set(identity.id, { before: undefined, value: this.#resource(identity, facts, depth) });
  }

  writes(): readonly Write[] {
    return [...this.#changed.values()].map(({ before, value }) => putResource(value, before?.rev ?? 'absent'));
  }

  /** Makes sure that the parent is there, and that its record names the point. @returns its depth */
  async #parent(identity: ImageIdentity, id: string): Promise<number> {
    if (!this.#changed.has(id)) {
      const found = (await this.#survey.resources([id])).get(id);
      if (found !== undefined && found.value.state !== 'gone') {
        this.#changed.set(id, { before: found, value: found.value as Volume | Snapshot });
      } else {
        await this.#takeFromCatalogue(identity, id);
      }
    }
    const changed = this.#changed.get(id);
    const image = changed?.value.image;
    const point = identity.parent?.point;
    if (changed === undefined || image === undefined || point === undefined) throw nowhere(identity, id);
    if (!image.points.some((known) => known.backendId === point.backendId)) {
      changed.value = { ...changed.value, image: { ...image, points: [...image.points, point] } };
    }
    return changed.value.cloneDepth;
  }

  async #takeFromCatalogue(child: ImageIdentity, id: string): Promise<void> {
    const entry = (await this.#survey.entries([id])).get(id);
    if (entry === undefined || 'forged' in entry || entry.identity.kind === 'export') throw nowhere(child, id);
    const { identity } = entry;
    const facts = await findImage(this.#survey, identity);
    if (facts === undefined || flaw(identity, facts) !== undefined) throw nowhere(child, id);
    await this.take(identity, facts);
  }

  #resource(identity: ImageIdentity, facts: ImageFacts, cloneDepth: number): Volume | Snapshot {
    const { id, poolId, sizeBytes, displayName, tags, encrypted, multiAttach, createTime } = identity;
    const trashed = facts.listedName === '';
    const now = this.#survey.core.clock.now();
    const header = facts.header?.sizeBytes ?? 0;
    // An expand that was cut short: its entry was written first. A header that says more than the entry says nothing.
    const size = header > 0 && header < sizeBytes && header % 512 === 0 ? header : sizeBytes;
    const image = imageOf(identity, facts, size);
    const common = {
      id,
      poolId,
      statusMessage: '',
      sizeBytes: size,
      displayName,
      tags,
      encrypted,
      createTime,
      updateTime: Math.max(createTime, identity.updateTime ?? 0),
      cloneDepth,
      image,
      // Nothing is destroyed soon after a store was made again: the whole window begins anew.
      ...(trashed
        ? {
            deleteTime: facts.trashTime,
            purgeTime: Math.max(facts.keptUntil, now + this.#survey.pool.undeleteWindowSeconds * 1000),
          }
        : {}),
    };
    if (isSnapshotId(id)) {
      const state = trashed ? ('deleted' as const) : ('completed' as const);
      const volumeId = identity.volumeId ?? identity.parent?.resourceId ?? '';
      return { ...common, state, volumeId, pointTime: identity.pointTime ?? createTime };
    }
    const source = identity.sourceSnapshotId ?? identity.parent?.resourceId;
    return {
      ...common,
      state: trashed ? 'deleted' : 'available',
      multiAttach,
      exportIds: [],
      ...(source === undefined ? {} : { sourceSnapshotId: source }),
    };
  }
}

function imageOf(identity: ImageIdentity, facts: ImageFacts, sizeBytes: number): ImageRecord {
  const name = facts.listedName === '' ? facts.trashedName : facts.listedName;
  const points: Point[] = [];
  if (identity.kind === 'snapshot') {
    for (const { name: point, backendId, trashed } of facts.header?.points ?? []) {
      if (point === BASE_POINT && !trashed) points.push({ name: point, backendId });
    }
  }
  const formerNames = [...new Set([...identity.formerNames, identity.name])].filter((former) => former !== name);
  return {
    name,
    backendId: facts.backendId,
    sizeBytes,
    largestSizeBytes: Math.max(sizeBytes, identity.sizeBytes, identity.largestSizeBytes ?? 0),
    points,
    formerNames,
    ...(identity.parent === undefined ? {} : { parent: identity.parent }),
  };
}

function nowhere(child: ImageIdentity, id: string): MoorageError {
  return new MoorageError(
    'FAILED_PRECONDITION',
    `${child.id} was made from ${id}, which is neither in the store nor whole in the catalogue and on the storage.`,
    { reason: 'PARENT_UNKNOWN', metadata: { id: child.id, parent_id: id } },
  );
}

/** The image that an entry is of: by the names that it has or had; undefined when there is none. */
export async function findImage(survey: Survey, identity: ImageIdentity): Promise<ImageFacts | undefined> {
  const names = [...new Set([identity.name, ...[...identity.formerNames].reverse()])];
  const { parent } = identity;
  const queries = names
    .filter((name) => ownerOf(name) === identity.id)
    .map((name) => ({ name, backendId: '', ...(parent === undefined ? {} : { parent }) }));
  const facts = await survey.images(queries);
  return facts.find(({ backendId }) => backendId !== '');
}

/** Takes over what an entry says that is newer than a volume's or snapshot's document. */
export function followed(resource: Volume | Snapshot, identity: ImageIdentity): Volume | Snapshot {
  const { image } = resource;
  const sizeBytes = Math.max(resource.sizeBytes, identity.sizeBytes);
  const changed = {
    ...resource,
    sizeBytes,
    displayName: identity.displayName,
    tags: identity.tags,
    updateTime: Math.max(resource.updateTime, identity.updateTime ?? 0),
  };
  if (image === undefined) return changed;
  const formerNames = [...new Set([...image.formerNames, ...identity.formerNames, image.name])];
  return {
    ...changed,
    image: {
      ...image,
      name: identity.name,
      formerNames: formerNames.filter((name) => name !== identity.name),
      sizeBytes,
      largestSizeBytes: Math.max(image.largestSizeBytes, sizeBytes, identity.largestSizeBytes ?? 0),
    },
  };
}

/** Writes of a changed volume or snapshot, if it still has the revision that was judged. */
export function putIfSame(document: ResourceDocument, value: Volume | Snapshot): readonly Write[] {
  return [
    isSnapshotId(value.id) ? putSnapshot(value as Snapshot, document.rev) : putVolume(value as Volume, document.rev),
  ];
}
