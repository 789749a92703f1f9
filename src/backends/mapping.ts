import type { ImageParent, ImageRecord, Point } from '../core/model/image.js';
import type { ImageFacts } from '../core/ports/backend.js';
import type { Timestamp__Output } from '../generated/google/protobuf/Timestamp.js';
import type { Image } from '../generated/moorage/backend/v1/Image.js';
import type { ImageFacts__Output } from '../generated/moorage/backend/v1/ImageFacts.js';
import type { ImageParent as WireImageParent } from '../generated/moorage/backend/v1/ImageParent.js';
import type { Point__Output } from '../generated/moorage/backend/v1/Point.js';
import { malformedAnswer } from './failures.js';

/** An image record as the protocol has it. */
export function wireImage(image: ImageRecord): Image {
  return {
    name: image.name,
    backendId: image.backendId,
    sizeBytes: String(image.sizeBytes),
    largestSizeBytes: String(image.largestSizeBytes),
    points: [...image.points],
    parent: image.parent === undefined ? null : wireParent(image.parent),
  };
}

/** A parent as the protocol has it: without what only the core knows. */
export function wireParent(parent: ImageParent): WireImageParent {
  return { name: parent.name, backendId: parent.backendId, point: parent.point };
}

/** Points that an agent told. */
export function corePoints(points: readonly Point__Output[]): readonly Point[] {
  return points.map((point) => ({ name: point.name, backendId: point.backendId }));
}

/** A size that an agent told, in bytes. @throws BackendError when it is none that a number can hold */
export function coreSize(method: string, text: string): number {
  const size = Number(text);
  if (!Number.isSafeInteger(size) || size < 0) throw malformedAnswer(method, `has a size of ${text} bytes`);
  return size;
}

/** What the protocol promises to be there. @throws BackendError when it is not */
export function required<Value>(method: string, what: string, value: Value | null | undefined): Value {
  if (value === null || value === undefined) throw malformedAnswer(method, `lacks ${what}`);
  return value;
}

/** What an agent saw of an image. */
export function coreImageFacts(facts: ImageFacts__Output): ImageFacts {
  const { header, backendId, listedName, trashedName, headerUnreadable, parentListsIt } = facts;
  return {
    backendId,
    listedName,
    trashedName,
    trashTime: milliseconds(facts.trashTime),
    keptUntil: milliseconds(facts.keptUntilTime),
    headerUnreadable,
    parentListsIt,
    ...(header === null
      ? {}
      : {
          header: {
            // A size that no number holds was written by whoever may write the header: it is no size at all.
            sizeBytes: Number.isSafeInteger(Number(header.sizeBytes)) ? Number(header.sizeBytes) : -1,
            parentBackendId: header.parentBackendId,
            parentPointBackendId: header.parentPointBackendId,
            points: header.points,
          },
        }),
  };
}

export function milliseconds(time: Timestamp__Output | null): number {
  return time === null ? 0 : Number(time.seconds) * 1000 + Math.floor(time.nanos / 1_000_000);
}
