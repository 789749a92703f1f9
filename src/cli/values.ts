import { InvalidArgumentError } from 'commander';

const UNITS: Readonly<Record<string, bigint>> = {
  '': 1n,
  B: 1n,
  KiB: 2n ** 10n,
  MiB: 2n ** 20n,
  GiB: 2n ** 30n,
  TiB: 2n ** 40n,
  PiB: 2n ** 50n,
};

/**
 * Reads a size as people write it. Decimal units (GB) and bare letters (10G) are refused: half of the world means another
 * number by them.
 * @returns bytes, as decimal text for the API
 * @throws InvalidArgumentError that says what would be right
 */
export function parseSize(text: string): string {
  const match = /^([0-9]+)(?:\.([0-9]+))?\s*([A-Za-z]*)$/.exec(text.trim());
  const unit = UNITS[match?.[3] ?? '?'];
  if (match === null || unit === undefined) {
    throw new InvalidArgumentError('must be a size as 512MiB, 10GiB or 1.5TiB, or a number of bytes');
  }
  const fraction = match[2] ?? '';
  const scale = 10n ** BigInt(fraction.length);
  const scaled = (BigInt(match[1] ?? '0') * scale + BigInt(fraction === '' ? '0' : fraction)) * unit;
  if (scaled % scale !== 0n) throw new InvalidArgumentError('must be a whole number of bytes');
  return String(scaled / scale);
}

/** Writes bytes as people read them: exact where it is short, else with one digit. */
export function formatSize(bytes: string | number): string {
  let value = Number(bytes);
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${Number.isInteger(value) ? value : value.toFixed(1)}${units[unit]}`;
}

const SECONDS: Readonly<Record<string, number>> = { ms: 0.001, s: 1, min: 60, h: 3600, d: 86_400 };

/**
 * Reads a duration as people write it.
 * @returns seconds
 * @throws InvalidArgumentError that says what would be right
 */
export function parseDuration(text: string): number {
  const match = /^([0-9]+(?:\.[0-9]+)?)\s*([a-z]+)$/.exec(text.trim());
  const unit = SECONDS[match?.[2] ?? ''];
  if (match === null || unit === undefined) {
    throw new InvalidArgumentError('must be a duration as 500ms, 30s, 10min, 2h or 7d');
  }
  return Number(match[1]) * unit;
}

/** Seconds as the API's duration. */
export function toDuration(seconds: number): { seconds: number; nanos: number } {
  const whole = Math.floor(seconds);
  return { seconds: whole, nanos: Math.round((seconds - whole) * 1e9) };
}

/** Collects key=value pairs of an option that may be repeated. */
export function collectTag(text: string, before: Readonly<Record<string, string>>): Record<string, string> {
  const equals = text.indexOf('=');
  if (equals < 1) throw new InvalidArgumentError('must be key=value');
  return { ...before, [text.slice(0, equals)]: text.slice(equals + 1) };
}

/** Collects the values of an option that may be repeated. */
export function collect(text: string, before: readonly string[]): string[] {
  return [...before, text];
}

/** Reads a state as people write it: "available" becomes "VOLUME_STATE_AVAILABLE". */
export function stateName<State extends string>(
  prefix: string,
  states: readonly State[],
): (text: string, before: readonly State[]) => State[] {
  return (text, before) => {
    const name = `${prefix}${text.toUpperCase()}`;
    const state = states.find((each) => each === name);
    if (state === undefined) {
      throw new InvalidArgumentError(`must be one of ${states.map((each) => shortState(each)).join(', ')}`);
    }
    return [...before, state];
  };
}

/** A state as people read it: "VOLUME_STATE_AVAILABLE" becomes "available". */
export function shortState(state: string): string {
  return state.replace(/^[A-Z]+_(STATE|HEALTH)_/, '').toLowerCase();
}
