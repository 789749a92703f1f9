import { invalidField, MoorageError } from '../errors.js';

/*
 * What the fields of requests may hold. Each function throws MoorageError with the field's name as the API spells it and with
 * what would be right.
 */

const MEBIBYTE = 1024 * 1024;
/** Smallest volume, in bytes. */
export const MINIMUM_VOLUME_BYTES = MEBIBYTE;
/** Largest volume, in bytes: 1 PiB. */
export const MAXIMUM_VOLUME_BYTES = 1024 ** 5;
const SECTOR_BYTES = 512;

/** A volume's size in bytes. */
export function requireVolumeSize(field: string, bytes: number): void {
  if (!Number.isSafeInteger(bytes)) throw invalidField(field, 'must be a whole number of bytes');
  if (bytes < MINIMUM_VOLUME_BYTES || bytes > MAXIMUM_VOLUME_BYTES) {
    const description =
      `must be at least ${MINIMUM_VOLUME_BYTES} bytes (1 MiB) and at most ${MAXIMUM_VOLUME_BYTES} bytes (1 PiB), ` +
      `and is ${bytes}`;
    throw new MoorageError('OUT_OF_RANGE', `${field}: ${description}`, {
      reason: 'SIZE_OUT_OF_RANGE',
      fieldViolations: [{ field, description }],
    });
  }
  if (bytes % SECTOR_BYTES !== 0)
    throw invalidField(field, `must be a multiple of ${SECTOR_BYTES} bytes, and is ${bytes}`);
}

/** A client token: required, 1 to 128 printable ASCII characters. */
export function requireClientToken(token: string): void {
  if (token === '')
    throw invalidField('client_token', 'is required: a value of your own that names this call, as a UUID');
  if (!/^[\x21-\x7e]{1,128}$/.test(token)) {
    throw invalidField('client_token', 'must be 1 to 128 printable ASCII characters without spaces');
  }
}

/** A name for people: at most 255 characters, no control characters. */
export function requireText(field: string, text: string, longest = 255): void {
  const length = [...text].length;
  if (length > longest) throw invalidField(field, `must be at most ${longest} characters, and has ${length}`);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is refused
  if (/[\u0000-\u001f\u007f]/.test(text))
    throw invalidField(field, 'must not contain control characters such as line breaks');
}

/** Tags: at most 50; keys 1 to 128, values up to 256 characters; no control characters. */
export function requireTags(tags: Readonly<Record<string, string>>): void {
  const entries = Object.entries(tags);
  if (entries.length > 50) throw invalidField('tags', `must be at most 50, and are ${entries.length}`);
  for (const [name, value] of entries) {
    if (name === '') throw invalidField('tags', 'must not have an empty key');
    requireText('tags', name, 128);
    requireText('tags', value, 256);
  }
}

/** The name of a node or a pool: 1 to 63 characters out of a-z, 0-9, "-" and ".", a letter or digit first and last. */
export function requireName(field: string, name: string): void {
  if (name === '') throw invalidField(field, 'is required');
  if (!/^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$/.test(name)) {
    throw invalidField(
      field,
      'must be 1 to 63 characters out of a-z, 0-9, "-" and ".", with a letter or digit first and last',
    );
  }
}

/** A page's size: 1 to 1,000; 0 means 100. */
export function pageSize(size: number): number {
  if (!Number.isInteger(size) || size < 0 || size > 1000)
    throw invalidField('page_size', 'must be 1 to 1,000, or 0 for 100');
  return size === 0 ? 100 : size;
}
