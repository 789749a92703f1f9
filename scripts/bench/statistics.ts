/** One figure of the benchmark, as `.dev/bench.json` has it. */
export interface Figure {
  readonly name: string;
  /** Median of our times, in milliseconds. */
  readonly ours_ms: number;
  /** Median of the reference's times, in milliseconds. */
  readonly reference_ms: number;
  /** ours_ms / reference_ms. */
  readonly ratio: number;
  /** How many times each was measured. */
  readonly n: number;
  readonly ours_p99_ms: number;
  readonly reference_p99_ms: number;
}

/** The value below which that share of the times lies. */
export function percentile(times: readonly number[], share: number): number {
  const sorted = [...times].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

/** The median. */
export function median(times: readonly number[]): number {
  return percentile(times, 0.5);
}

/** Puts a figure together from both sides' times. */
export function figure(name: string, ours: readonly number[], reference: readonly number[]): Figure {
  const [ours_ms, reference_ms] = [median(ours), median(reference)];
  return {
    name,
    ours_ms: round(ours_ms),
    reference_ms: round(reference_ms),
    ratio: round(ours_ms / reference_ms),
    n: Math.min(ours.length, reference.length),
    ours_p99_ms: round(percentile(ours, 0.99)),
    reference_p99_ms: round(percentile(reference, 0.99)),
  };
}

function round(value: number): number {
  return Math.round(value * 1000) / 1000;
}

/** The time that something takes, in milliseconds. */
export async function timed(work: () => Promise<unknown>): Promise<number> {
  const began = performance.now();
  await work();
  return performance.now() - began;
}

/** Runs two sides in turn, A B, then B A, so that a machine that gets slower is slower for both. */
export async function alternate(
  rounds: number,
  ours: (round: number) => Promise<number>,
  reference: (round: number) => Promise<number>,
): Promise<{ readonly ours: number[]; readonly reference: number[] }> {
  const times = { ours: [] as number[], reference: [] as number[] };
  for (let round = 0; round < rounds; round += 1) {
    if (round % 2 === 0) {
      times.ours.push(await ours(round));
      times.reference.push(await reference(round));
    } else {
      times.reference.push(await reference(round));
      times.ours.push(await ours(round));
    }
  }
  return times;
}

/** Runs tasks, so many at a time. */
export async function inParallel<T>(
  width: number,
  items: readonly T[],
  task: (item: T) => Promise<unknown>,
): Promise<void> {
  const next = items[Symbol.iterator]();
  await Promise.all(
    Array.from({ length: width }, async () => {
      for (const item of next) await task(item);
    }),
  );
}
