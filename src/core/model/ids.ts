import { randomBytes } from 'node:crypto';
import { invalidField } from '../errors.js';

/** Prefixes of the ids that Moorage makes. Nodes and pools are named by the administrator. */
export type IdPrefix = 'vol' | 'snap' | 'img' | 'exp' | 'op' | 'grant' | 'enr' | 'pt';

const KINDS: Readonly<Record<IdPrefix, string>> = {
  vol: 'volume',
  snap: 'snapshot',
  img: 'image',
  exp: 'export',
  op: 'operation',
  grant: 'grant',
  enr: 'enrollment',
  pt: 'point in time',
};

/** A new id: prefix, "-" and 17 hexadecimal digits of randomness. Never used twice. */
export function newId(prefix: IdPrefix): string {
  return `${prefix}-${randomBytes(9).toString('hex').slice(0, 17)}`;
}

/** Whether the text is an id of that kind. */
export function isId(prefix: IdPrefix, text: string): boolean {
  return text.length === prefix.length + 18 && text.startsWith(`${prefix}-`) && /^[0-9a-f]{17}$/.test(text.slice(-17));
}

/**
 * Refuses anything that is not an id of that kind.
 * @throws MoorageError INVALID_ARGUMENT that names the field
 */
export function requireId(prefix: IdPrefix, field: string, text: string): void {
  if (text === '')
    throw invalidField(field, `is required: the id of a ${KINDS[prefix]}, as ${prefix}-0123456789abcdef0`);
  if (!isId(prefix, text)) {
    const shown = text.length > 64 ? `${text.slice(0, 64)}…` : text;
    throw invalidField(
      field,
      `${JSON.stringify(shown)} is not the id of a ${KINDS[prefix]}; it would look like ${prefix}-0123456789abcdef0`,
    );
  }
}
