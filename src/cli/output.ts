import { toDate } from '../client/index.js';

/** Where a command writes. */
export interface Streams {
  readonly stdout: { write(text: string): unknown };
  readonly stderr: { write(text: string): unknown };
}

/** A table: the first row is its head. Columns are as wide as they must be. */
export function table(rows: readonly (readonly string[])[]): string {
  const clean = rows.map((row) => row.map(printable));
  const widths = (clean[0] ?? []).map((_head, column) => Math.max(...clean.map((row) => width(row[column] ?? ''))));
  return clean
    .map((row) =>
      row
        .map((cell, column) => cell + ' '.repeat((widths[column] ?? 0) - width(cell)))
        .join('  ')
        .trimEnd(),
    )
    .map((line) => `${line}\n`)
    .join('');
}

/** One thing with its properties, one a line; empty ones are left out. */
export function properties(pairs: readonly (readonly [name: string, value: string])[]): string {
  const shown = pairs.filter(([, value]) => value !== '');
  const widest = Math.max(0, ...shown.map(([name]) => name.length));
  return shown.map(([name, value]) => `${`${name}:`.padEnd(widest + 2)}${printable(value)}\n`).join('');
}

/** What others typed must not move the cursor of whoever looks at it. */
export function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (character) => {
    const code = character.codePointAt(0) ?? 0;
    return `\\u${code.toString(16).padStart(4, '0')}`;
  });
}

// Wide characters (Chinese, Japanese, Korean, most emoji) take two columns of a terminal, combining marks none.
function width(text: string): number {
  let columns = 0;
  for (const character of text) {
    if (/\p{Mn}/u.test(character)) continue;
    columns +=
      /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60]|\p{Emoji_Presentation}/u.test(
        character,
      )
        ? 2
        : 1;
  }
  return columns;
}

/** Tags as "a=1 b=2". */
export function formatTags(tags: Readonly<Record<string, string>>): string {
  return Object.entries(tags)
    .map(([key, value]) => `${key}=${value}`)
    .join(' ');
}

/** A time as people read it. */
export function formatTime(time: { readonly seconds: string; readonly nanos: number } | null): string {
  return (
    toDate(time)
      ?.toISOString()
      .replace('T', ' ')
      .replace(/\.\d+Z$/, 'Z') ?? ''
  );
}

/**
 * A message for programs: times as RFC 3339, bytes as base64, sizes and seconds as numbers, names of set oneofs left out.
 */
export function toJson(value: unknown): unknown {
  if (value === null || typeof value !== 'object') return value;
  if (Buffer.isBuffer(value)) return value.toString('base64');
  if (Array.isArray(value)) return value.map(toJson);
  const object = value as Record<string, unknown>;
  if (typeof object.seconds === 'string' && typeof object.nanos === 'number') {
    return toDate({ seconds: object.seconds, nanos: object.nanos })?.toISOString();
  }
  return Object.fromEntries(
    Object.entries(object)
      .filter(([name, item]) => !isOneofName(object, name, item))
      .map(([name, item]) => [name, isCount(name, item) ? Number(item) : toJson(item)]),
  );
}

function isOneofName(object: Readonly<Record<string, unknown>>, name: string, value: unknown): boolean {
  return (
    ['source', 'settings', 'authority', 'event'].includes(name) &&
    typeof value === 'string' &&
    Object.hasOwn(object, value)
  );
}

function isCount(name: string, value: unknown): boolean {
  return /(Bytes|Seconds)$/.test(name) && typeof value === 'string' && /^-?[0-9]+$/.test(value);
}
