import { indexes, keys, putPoint } from '../../journal/documents.js';
import type { ImageRecord, Point } from '../../model/image.js';
import type { ImageFacts, PointFacts } from '../../ports/backend.js';
import type { Write } from '../../ports/store.js';
import { BASE_POINT } from '../volumes/create-volume.js';
import { putIfSame } from './adopt.js';
import { isSnapshotId, ownerOf } from './names.js';
import type { Subject } from './resources.js';

/*
 * What an image's header says, held against the record of it. A node that has the image open can write its header: so what
 * it says is only ever reported, and what is mended is mended after the record.
 */

/** Compares size, parent and points. */
export async function compareHeader(subject: Subject, facts: ImageFacts, image: ImageRecord): Promise<void> {
  const { resource, report, survey } = subject;
  const { id } = resource;
  const where = { name: image.name, backendId: image.backendId };
  const { header } = facts;
  if (header === undefined) {
    report.none({
      class: 'image-header',
      says: `The image of ${id} has ${facts.headerUnreadable ? 'a header that cannot be read' : 'no header'}.`,
      remedy: 'Nothing can be made of it. What it held may still be there: its data objects carry its id.',
      image: where,
    });
    return;
  }
  compareSize(subject, header.sizeBytes, where);
  const parent = image.parent;
  const parentFits =
    header.parentBackendId === (parent?.backendId ?? '') &&
    (parent === undefined || header.parentPointBackendId === parent.point.backendId);
  if (!parentFits) {
    report.none({
      class: 'image-header',
      says:
        `The header of ${id} names the parent ${header.parentBackendId || 'none'} (point ${header.parentPointBackendId || 'none'}); ` +
        `on record is ${parent?.backendId ?? 'none'} (point ${parent?.point.backendId ?? 'none'}).`,
      remedy: 'A node may have written it. Do not open the image; see docs/operations/recover.md.',
      image: where,
    });
  }
  if (parent !== undefined) {
    const above = (await survey.resources([parent.resourceId])).get(parent.resourceId);
    if (above === undefined || above.value.state === 'gone') {
      report.none({
        class: 'parent-unknown',
        says: `${id} was made from ${parent.resourceId}, which is not in the store.`,
        remedy: 'If the catalogue has it, Repair takes it into the store by itself; see the finding of that.',
        image: where,
      });
    } else if (parentFits && !facts.parentListsIt) {
      report.automatic(
        {
          class: 'child-unlisted',
          says: `The image of ${parent.resourceId} does not list that of ${id} as its child.`,
          remedy: 'It is put on the list, so that what it needs is not removed.',
          image: where,
        },
        { kind: 'operation', plan: { action: 'set-child', parent, childBackendId: image.backendId, listed: true } },
      );
    }
  }
  for (const point of header.points) await comparePoint(subject, image, point);
  const base = header.points.find((point) => point.name === BASE_POINT && !point.trashed);
  if (resource.state === 'completed' && isSnapshotId(id) && base === undefined) {
    report.none({
      class: 'base-missing',
      says: `The image of ${id} lacks the point "${BASE_POINT}", from which volumes are made.`,
      remedy:
        'Volumes can no longer be made from it; those that were made go on. Make a new snapshot, and delete this one.',
      image: where,
    });
  }
}

function compareSize({ resource, report }: Subject, found: number, where: { name: string; backendId: string }): void {
  const { id, sizeBytes, state } = resource;
  if (found === sizeBytes) return;
  const says = `The image of ${id} has ${found} bytes; on record are ${sizeBytes}.`;
  if (found >= 0 && found < sizeBytes && state === 'available') {
    report.automatic(
      { class: 'image-size', says, remedy: 'It is grown to the size on record.', image: where },
      { kind: 'operation', plan: { action: 'grow-image' } },
    );
    return;
  }
  report.none({
    class: 'image-size',
    says,
    remedy: 'A node may have written it: the record stays as it is, and an image is never made smaller.',
    image: where,
  });
}

async function comparePoint(subject: Subject, image: ImageRecord, point: PointFacts): Promise<void> {
  const { survey, report, resource } = subject;
  const where = { name: image.name, backendId: image.backendId };
  const known = image.points.find((one) => one.backendId === point.backendId);
  const [byName, byRecord] = await survey.core.store.getMany([
    keys.point(point.name),
    keys.point(known?.name ?? point.name),
  ]);
  // Operations, or the reaper, are at it.
  if (byName !== undefined || byRecord !== undefined) return;
  if (known === undefined) {
    const recorded = await pointOfCatalogue(subject, image, point);
    if (recorded === undefined) unknownPoint(subject, point, where);
    else forgottenPoint(subject, image, recorded);
    return;
  }
  for (const childBackendId of point.missingChildren) {
    const parent = { name: image.name, backendId: image.backendId, point: known, resourceId: resource.id };
    report.automatic(
      {
        class: 'child-stale',
        says: `The image of ${resource.id} lists the image ${childBackendId} as its child, which is not there.`,
        remedy: 'It is taken off the list, which would keep the image from being purged.',
        image: where,
      },
      { kind: 'operation', plan: { action: 'set-child', parent, childBackendId, listed: false } },
    );
  }
  const alive = point.children.length - point.missingChildren.length;
  if (isSnapshotId(resource.id) || (point.trashed && alive > 0)) return;
  report.automatic(
    {
      class: 'point-left',
      says: `${resource.id} has kept its point in time ${known.name}${alive === 0 ? ', which has no clone' : ''}.`,
      remedy: 'It is left to the reaper, which removes it.',
      image: where,
    },
    { kind: 'commit', writes: async () => leavePointWrites(subject, known) },
  );
}

function leavePointWrites(
  { survey, document, resource }: Subject,
  point: { name: string; backendId: string },
): Write[] {
  const left = { id: point.name, poolId: survey.pool.id, volumeId: resource.id, point, operationIds: [] };
  return [putPoint(left, 'absent'), { kind: 'check', key: document.key, expect: document.rev }];
}

/** The point as the authenticated entry of one of its clones has it; undefined when no entry names it. */
async function pointOfCatalogue(
  { survey }: Subject,
  image: ImageRecord,
  point: PointFacts,
): Promise<Point | undefined> {
  const children = await survey.images(point.children.map((backendId) => ({ name: '', backendId })));
  const owners = children.flatMap(
    (child) => ownerOf(child.listedName === '' ? child.trashedName : child.listedName) ?? [],
  );
  for (const entry of (await survey.entries([...new Set(owners)])).values()) {
    if ('forged' in entry || entry.identity.kind === 'export') continue;
    const { parent } = entry.identity;
    if (parent?.backendId === image.backendId && parent.point.backendId === point.backendId) return parent.point;
  }
  return undefined;
}

function forgottenPoint({ document, resource, report }: Subject, image: ImageRecord, point: Point): void {
  report.automatic(
    {
      class: 'point-unknown',
      says: `The point ${point.name} (${point.backendId}) of ${resource.id} is on record with what was made from it, and not with ${resource.id}.`,
      remedy: 'It comes on record, so that it goes with the image.',
      image: { name: image.name, backendId: image.backendId },
    },
    {
      kind: 'commit',
      writes: async () => putIfSame(document, { ...resource, image: { ...image, points: [...image.points, point] } }),
    },
  );
}

/**
 * A point that no record names: left by a store that is lost, or written into the header by a node, which could name the
 * point of another image so that removing it destroys that one's. So it is removed only when asked for, from a volume that
 * is open nowhere, and when no other image of the pool has a point of that id.
 */
function unknownPoint(subject: Subject, point: PointFacts, where: { name: string; backendId: string }): void {
  const { survey, document, resource, report } = subject;
  const says = `The image of ${resource.id} has a point ${point.name} (${point.backendId}) that is on no record.`;
  if (isSnapshotId(resource.id)) {
    report.none({
      class: 'point-unknown',
      says,
      remedy: 'It is not ours: it keeps the image from being purged.',
      image: where,
    });
    return;
  }
  report.onRequest(
    {
      class: 'point-unknown',
      says,
      remedy:
        'Asked for by this class, Repair has it removed when the volume is open nowhere and no other image has a point of that id.',
      image: where,
    },
    {
      kind: 'commit',
      writes: async () => {
        const pins = await survey.core.store.list(indexes.exportsOfVolume(resource.id), { limit: 1 });
        if (pins.documents.length > 0 || (await isClaimed(subject, point.backendId))) return undefined;
        const name = /^pt-[0-9a-f]{17}$/.test(point.name) ? point.name : `pt-unknown-${point.backendId}`;
        const left = { name, backendId: point.backendId };
        const image = resource.image;
        if (image === undefined) return undefined;
        return [
          ...leavePointWrites(subject, left).filter((write) => write.kind === 'put'),
          ...putIfSame(document, {
            ...resource,
            image: { ...image, points: [...image.points, left] },
          }),
        ];
      },
    },
  );
}

/** Whether another image of the pool has a point of that id. Looks at all of them. */
async function isClaimed({ survey, resource }: Subject, pointId: string): Promise<boolean> {
  const { data } = survey.core.backend();
  let cursor = '';
  do {
    const page = await data.listImages(survey.pool, { cursor, limit: 200 }, survey.context('list-images'));
    const others = page.images.filter((image) => image.backendId !== resource.image?.backendId);
    const facts = await survey.images(others.map(({ backendId }) => ({ name: '', backendId })));
    for (const { header, headerUnreadable } of facts) {
      if (headerUnreadable || header?.points.some((point) => point.backendId === pointId) === true) return true;
    }
    cursor = page.nextCursor;
  } while (cursor !== '');
  return false;
}
