import { appendFileSync } from 'node:fs';
import { join } from 'node:path';
import type { MoorageClient, WatchEvent } from '../../src/client/index.js';

/**
 * Watches everything through all faults, and writes down what it is told: a line of JSON each in `watched.log`, {"kind", "id",
 * "version"}, where kind is also "gone" (then with "of") and "synced".
 */
export class Watcher {
  readonly #file: string;
  readonly #over = new AbortController();
  readonly #running: Promise<void>;

  constructor(client: MoorageClient, folder: string) {
    this.#file = join(folder, 'watched.log');
    this.#running = this.#run(client);
  }

  async #run(client: MoorageClient): Promise<void> {
    try {
      for await (const event of client.watch({}, { signal: this.#over.signal })) this.#tell(event);
    } catch (error) {
      this.#write({ kind: 'failure', message: String(error) });
    }
  }

  #tell(event: WatchEvent): void {
    const { gone } = event;
    if (gone) {
      this.#write({ kind: 'gone', of: gone.type.replace('RESOURCE_TYPE_', '').toLowerCase(), id: gone.id });
    }
    for (const kind of ['volume', 'snapshot', 'export', 'node', 'pool'] as const) {
      const resource = event[kind];
      if (resource) this.#write({ kind, id: resource.id, version: Number(resource.etag) });
    }
    if (event.event === 'synced') this.#write({ kind: 'synced' });
  }

  #write(line: object): void {
    appendFileSync(this.#file, `${JSON.stringify(line)}\n`);
  }

  async stop(): Promise<void> {
    this.#over.abort();
    await this.#running;
  }
}
