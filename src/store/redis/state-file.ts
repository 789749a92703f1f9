import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { StoreError } from '../../core/ports/store.js';
import type { Acknowledged } from './history.js';

/** How often at most it is written while commits come, milliseconds. */
const INTERVAL_MILLISECONDS = 1000;

/**
 * What this controller saw acknowledged, in a file, so that a server that lost it is refused by the next start too. It may
 * be behind by a second; it is never ahead.
 */
export class StateFile {
  readonly #path: string | undefined;
  #written: Acknowledged | undefined;
  #next: Acknowledged | undefined;
  #timer: NodeJS.Timeout | undefined;
  readonly #failed: (error: unknown) => void;

  /** @param failed is told when it cannot be written. */
  constructor(path: string | undefined, failed: (error: unknown) => void) {
    this.#path = path;
    this.#failed = failed;
  }

  /** @throws {StoreError} `corrupt` when there is a file that is no such note. */
  read(): Acknowledged | undefined {
    if (this.#path === undefined) return undefined;
    let text: string;
    try {
      text = readFileSync(this.#path, 'utf8');
    } catch (error) {
      if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
      throw new StoreError('unavailable', `the note of the store, ${this.#path}, cannot be read`, { cause: error });
    }
    this.#written = parse(text);
    if (this.#written !== undefined) return this.#written;
    throw new StoreError(
      'corrupt',
      `the note of the store, ${this.#path}, is damaged: remove it if the store is whole`,
    );
  }

  note(acknowledged: Acknowledged): void {
    if (this.#path === undefined) return;
    this.#next = acknowledged;
    this.#timer ??= setTimeout(() => this.flush(), INTERVAL_MILLISECONDS).unref();
  }

  /** Writes what was noted last, now. */
  flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const next = this.#next;
    if (this.#path === undefined || next === undefined) return;
    if (next.commits === this.#written?.commits && next.epoch === this.#written.epoch) return;
    try {
      writeFileSync(`${this.#path}.new`, `${JSON.stringify(next)}\n`, { mode: 0o600 });
      renameSync(`${this.#path}.new`, this.#path);
      this.#written = next;
    } catch (error) {
      this.#failed(error);
    }
  }
}

function parse(text: string): Acknowledged | undefined {
  try {
    const { storeId, commits, epoch } = JSON.parse(text) as Partial<Acknowledged>;
    if (typeof storeId === 'string' && typeof epoch === 'string' && Number.isSafeInteger(commits)) {
      return { storeId, commits: Number(commits), epoch };
    }
  } catch {
    // Not JSON: no note either.
  }
  return undefined;
}
