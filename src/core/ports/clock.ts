/** Time. Decisions (beats, deadlines) use the monotonic clock only; the wall clock is for what people read. */
export interface Clock {
  /** Milliseconds since the epoch. */
  now(): number;
  /** Milliseconds since some moment; never goes back. */
  monotonic(): number;
  /** Resolves after so many milliseconds, or at once when the signal aborts. Does not keep the process alive. */
  sleep(milliseconds: number, signal?: AbortSignal): Promise<void>;
}
