import type { CatalogueEntry__Output } from '../../../generated/moorage/backend/v1/CatalogueEntry.js';
import type { Image__Output } from '../../../generated/moorage/backend/v1/Image.js';
import type { ImageParent__Output } from '../../../generated/moorage/backend/v1/ImageParent.js';
import type { Point__Output } from '../../../generated/moorage/backend/v1/Point.js';
import { invalidField } from '../step-error.js';

/*
 * The controller's records as the protocol carries them, checked: names become parts of object names, so nothing else may
 * stand in them.
 */

/** A point; `snapshotId` is undefined when it is not known. */
export interface PointRecord {
  readonly name: string;
  readonly snapshotId: bigint | undefined;
}

/** A parent. */
export interface ParentRecord {
  readonly name: string;
  readonly id: string;
  readonly point: PointRecord;
}

/** An image; `id` is undefined when it is not known. */
export interface ImageRecord {
  readonly name: string;
  readonly id: string | undefined;
  readonly sizeBytes: bigint;
  readonly largestSizeBytes: bigint;
  readonly points: readonly PointRecord[];
  readonly parent: ParentRecord | undefined;
}

/** Most bytes of an image: what RBD's 64-bit object numbers and a double hold, with room. */
const MAXIMUM_SIZE_BYTES = 2n ** 52n;

/** Checks an image's or point's name. @param field for the error */
export function checkName(field: string, name: string): string {
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,94}$/.test(name)) {
    throw invalidField(field, 'must be 1 to 95 letters, digits, ".", "_" and "-", beginning with a letter or digit');
  }
  return name;
}

/** Checks an RBD image id. */
export function checkId(field: string, id: string): string {
  if (!/^[0-9A-Za-z]{1,128}$/.test(id)) throw invalidField(field, 'must be an RBD image id');
  return id;
}

/** Checks a size in bytes. */
export function checkSize(field: string, text: string): bigint {
  const size = /^[0-9]{1,19}$/.test(text) ? BigInt(text) : -1n;
  if (size < 1n || size > MAXIMUM_SIZE_BYTES) {
    throw invalidField(field, `must be a number of bytes from 1 to ${MAXIMUM_SIZE_BYTES}`);
  }
  return size;
}

/** Checks a point. */
export function readPoint(field: string, point: Point__Output | null): PointRecord {
  if (!point) throw invalidField(field, 'must be there');
  const { name, backendId } = point;
  if (backendId !== '' && !/^[0-9]{1,19}$/.test(backendId)) {
    throw invalidField(`${field}.backend_id`, 'must be the number of an RBD snapshot, or empty');
  }
  return { name: checkName(`${field}.name`, name), snapshotId: backendId === '' ? undefined : BigInt(backendId) };
}

/** Checks a parent. */
export function readParent(field: string, parent: ImageParent__Output): ParentRecord {
  return {
    name: checkName(`${field}.name`, parent.name),
    id: checkId(`${field}.backend_id`, parent.backendId),
    point: readPoint(`${field}.point`, parent.point),
  };
}

/** Checks an image. */
export function readImage(field: string, image: Image__Output | null): ImageRecord {
  if (!image) throw invalidField(field, 'must be there');
  const count = (name: string, text: string): bigint => (text === '0' ? 0n : checkSize(`${field}.${name}`, text));
  return {
    name: checkName(`${field}.name`, image.name),
    id: image.backendId === '' ? undefined : checkId(`${field}.backend_id`, image.backendId),
    sizeBytes: count('size_bytes', image.sizeBytes),
    largestSizeBytes: count('largest_size_bytes', image.largestSizeBytes),
    points: image.points.map((point, index) => readPoint(`${field}.points[${index}]`, point)),
    parent: image.parent ? readParent(`${field}.parent`, image.parent) : undefined,
  };
}

/** An image whose id must be known. */
export function readKnownImage(field: string, image: Image__Output | null): ImageRecord & { readonly id: string } {
  const record = readImage(field, image);
  if (record.id === undefined) throw invalidField(`${field}.backend_id`, 'must be there');
  return { ...record, id: record.id };
}

/** Checks a catalogue entry. */
export function readCatalogueEntry(
  field: string,
  entry: CatalogueEntry__Output | null,
): { readonly key: string; readonly value: Buffer } {
  if (!entry) throw invalidField(field, 'must be there');
  if (entry.value.length > 64 * 1024) throw invalidField(`${field}.value`, 'must have at most 65536 bytes');
  return { key: checkKey(`${field}.key`, entry.key), value: Buffer.from(entry.value) };
}

/** Checks a catalogue key. */
export function checkKey(field: string, key: string): string {
  if (!/^[A-Za-z0-9][A-Za-z0-9._:-]{0,199}$/.test(key)) {
    throw invalidField(field, 'must be 1 to 200 letters, digits, ".", "_", ":" and "-"');
  }
  return key;
}

/** Checks how many entries of a list are asked for. */
export function checkLimit(limit: number): number {
  if (!Number.isInteger(limit) || limit < 1) throw invalidField('limit', 'must be at least 1');
  return Math.min(limit, 1000);
}
