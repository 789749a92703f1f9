/** What the core tells whoever counts. */
export interface CoreMetrics {
  /** An operation ended. */
  operationEnded(kind: string, outcome: 'succeeded' | 'failed', milliseconds: number): void;
  /** Operations that are running now. */
  journalLength(length: number): void;
  /** A pass of the reaper ended. */
  reaperPass(result: {
    readonly purged: number;
    readonly failed: number;
    readonly waiting: number;
    readonly milliseconds: number;
  }): void;
}

/** Where the core says what an operator should know; the edge writes it to the log. Never a secret. */
export interface CoreEvents {
  notice(event: {
    readonly level: 'info' | 'warn' | 'error';
    readonly message: string;
    readonly fields: Readonly<Record<string, unknown>>;
    readonly error?: unknown;
  }): void;
}
