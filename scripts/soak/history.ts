import { appendFileSync } from 'node:fs';
import { join } from 'node:path';

/** What a client asked or was told, one line of JSON each; `at` is in milliseconds on one clock for all. */
export type Event =
  | {
      readonly event: 'call';
      readonly method: string;
      readonly token: string;
      readonly request: Readonly<Record<string, unknown>>;
    }
  | {
      readonly event: 'answer';
      readonly method: string;
      readonly token: string;
      readonly answer: Readonly<Record<string, unknown>>;
    }
  | {
      readonly event: 'error';
      readonly method: string;
      readonly token: string;
      readonly code: string;
      readonly reason: string;
      readonly message: string;
    }
  /** Written through librbd and flushed; or asked for, and nobody knows. */
  | {
      readonly event: 'writing' | 'written';
      readonly volumeId: string;
      readonly offset: number;
      readonly mark: string;
    };

/** The history of one client: a file of its own, which only grows. */
export class History {
  readonly #file: string;
  readonly #client: number;

  constructor(folder: string, client: number) {
    this.#file = join(folder, `client-${String(client).padStart(2, '0')}.jsonl`);
    this.#client = client;
  }

  write(event: Event): void {
    const line = { at: Math.round(performance.now() * 1000) / 1000, client: this.#client, ...event };
    appendFileSync(this.#file, `${JSON.stringify(line)}\n`);
  }
}
