import { z } from 'zod';

const MILLISECONDS: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  min: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

const BYTES: Readonly<Record<string, number>> = {
  B: 1,
  KiB: 1024,
  MiB: 1024 ** 2,
  GiB: 1024 ** 3,
};

function parse(text: string, units: Readonly<Record<string, number>>): number | undefined {
  const match = /^([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]+)$/.exec(text);
  const unit = units[match?.[2] ?? ''];
  if (match === null || unit === undefined) return undefined;
  const value = Number(match[1]) * unit;
  return Number.isSafeInteger(value) ? value : undefined;
}

/**
 * A duration as people write it; milliseconds once it is read. A number without a unit is refused: everybody reads another
 * one into it.
 */
export function duration(least: string, most: string) {
  return quantity(least, most, MILLISECONDS, 'a duration as 500ms, 10s, 5min, 2h or 7d');
}

/** A size as people write it; bytes once it is read. */
export function size(least: string, most: string) {
  return quantity(least, most, BYTES, 'a size as 64KiB, 4MiB or 1GiB');
}

function quantity(least: string, most: string, units: Readonly<Record<string, number>>, what: string) {
  const bounds = { least: parse(least, units) ?? 0, most: parse(most, units) ?? 0 };
  return z.string({ error: `must be ${what}, with its unit` }).transform((text, context) => {
    const value = parse(text, units);
    if (value !== undefined && value >= bounds.least && value <= bounds.most) return value;
    const problem = value === undefined ? `must be ${what}` : `must lie between ${least} and ${most}`;
    context.issues.push({ code: 'custom', message: problem, input: text });
    return z.NEVER;
  });
}
