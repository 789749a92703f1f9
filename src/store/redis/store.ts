import { rmSync } from 'node:fs';
import {
  type CommitOutcome,
  type ListPage,
  type ListRange,
  type PrimaryChange,
  type ReplicatedStore,
  type StoredDocument,
  StoreError,
  type Write,
} from '../../core/ports/store.js';
import { encodeCursor, spanOf } from '../ranges.js';
import { prepareWrites } from '../writes.js';
import { writeRedisBackup } from './backup.js';
import { Commits } from './commits.js';
import { boundBefore, boundBehind, parseDocument } from './encoding.js';
import { refusalCode, translateRedisError } from './errors.js';
import type { Acknowledged } from './history.js';
import type { RedisStoreOptions } from './options.js';
import { Primary } from './primary.js';
import { listScript } from './scripts.js';
import type { Session } from './session.js';
import { StateFile } from './state-file.js';

/**
 * Opens the store on Redis; makes it where there is none.
 * @throws {StoreError} `unavailable` with what to set when the server cannot be reached, would lose what it acknowledged, or
 *   has fewer replicas in sync than asked for; `lost-commits` when it lacks what this controller saw acknowledged;
 *   `newer-version`.
 */
export async function openRedisStore(options: RedisStoreOptions): Promise<ReplicatedStore> {
  const store = new RedisStore(options);
  try {
    await store.start();
  } catch (error) {
    await store.close();
    throw error;
  }
  return store;
}

class RedisStore implements ReplicatedStore {
  readonly #options: RedisStoreOptions;
  readonly #primary: Primary;
  readonly #commits: Commits;
  readonly #stateFile: StateFile;
  readonly #listeners = new Set<(change: PrimaryChange) => void>();
  /** The last commit that is known to be on the replicas that count. */
  #acknowledged: Acknowledged | undefined;
  /** Ends with the copy that is being made: one at a time. */
  #copying: Promise<unknown> = Promise.resolve();
  #closed = false;

  constructor(options: RedisStoreOptions) {
    this.#options = options;
    this.#stateFile = new StateFile(options.stateFile, (error) =>
      options.events?.notice({
        level: 'error',
        message: 'what the store acknowledged cannot be noted',
        fields: { file: options.stateFile },
        error,
      }),
    );
    this.#primary = new Primary(
      options,
      () => this.#acknowledged,
      (change) => this.#tell(change),
    );
    this.#commits = new Commits({
      primary: this.#primary,
      prefix: options.prefix,
      commitTimeoutMilliseconds: options.commitTimeoutMilliseconds,
      callTimeoutMilliseconds: options.callTimeoutMilliseconds,
      acknowledged: (session, commits) => this.#note(session, commits),
    });
  }

  async start(): Promise<void> {
    this.#acknowledged = this.#stateFile.read();
    const session = await this.#primary.start();
    try {
      // Also proves that the replicas follow, and that what is there is on them.
      await this.#commits.barrier();
    } catch (error) {
      const least = this.#options.leastReplicas;
      const found = this.#primary.inSync(session);
      if (found >= least || session.lost) throw error;
      throw new StoreError(
        'unavailable',
        `the Redis server ${session.address} has ${found} promotable replicas in sync, and store.redis.replicas asks for ` +
          `${least}: see to the replicas (replica-priority 0 is not promotable), or set store.redis.replicas lower`,
        { cause: error },
      );
    }
  }

  async get<T = unknown>(key: string): Promise<StoredDocument<T> | undefined> {
    const [document] = await this.getMany<T>([key]);
    return document;
  }

  async getMany<T = unknown>(keys: readonly string[]): Promise<readonly (StoredDocument<T> | undefined)[]> {
    this.#checkOpen();
    if (keys.length === 0) return [];
    const names = keys.map((key) => `${this.#options.prefix}d:${key}`);
    return this.#readShown(async (session) => {
      const texts = await session.reads.call<readonly (string | null)[]>(['MGET', ...names], session.callTimeout);
      return texts.map((text, position) => (text === null ? undefined : parseDocument<T>(keys[position] ?? '', text)));
    });
  }

  async list<T = unknown>(index: string, range: ListRange): Promise<ListPage<T>> {
    this.#checkOpen();
    const { behind, before, limit } = spanOf(range);
    const parameters = [this.#options.prefix, index, boundBehind(behind), boundBefore(before), String(limit)];
    let more = '';
    const documents = await this.#readShown(async (session) => {
      const [next = '', ...flat] = await session.run<readonly string[]>(session.reads, listScript, parameters);
      more = next;
      return Array.from({ length: flat.length / 2 }, (_, n) =>
        parseDocument<T>(flat[2 * n] ?? '', flat[2 * n + 1] ?? ''),
      );
    });
    const last = documents.at(-1);
    return {
      documents,
      cursor: more === '' || last === undefined ? undefined : encodeCursor({ sort: more.slice(1), key: last.key }),
    };
  }

  async count(index: string): Promise<number> {
    this.#checkOpen();
    const [size] = await this.#read(({ reads, callTimeout }) =>
      reads.call<number>(['ZCARD', `${this.#options.prefix}i:${index}`], callTimeout),
    );
    return size;
  }

  async commit(writes: readonly Write[]): Promise<CommitOutcome> {
    this.#checkOpen();
    return this.#commits.commit(prepareWrites(writes));
  }

  backup(path: string, writes: readonly Write[]): Promise<{ readonly sizeBytes: number }> {
    this.#checkOpen();
    const prepared = prepareWrites(writes);
    const next = this.#copying.then(async () => {
      const session = await this.#primary.session();
      const made = await writeRedisBackup(session, this.#options.prefix, path, prepared);
      try {
        // What is in it must be on the replicas too: else a change of the primary takes it back.
        await this.#commits.barrier();
        if (session.lost)
          throw new StoreError('unavailable', 'the primary changed while the store was copied: try again');
        return made;
      } catch (error) {
        rmSync(path, { force: true });
        throw error;
      }
    });
    this.#copying = next.catch(() => undefined);
    return next;
  }

  onPrimaryChange(listener: (change: PrimaryChange) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async primaryTime(): Promise<string> {
    this.#checkOpen();
    return (await this.#primary.session()).epoch;
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#commits.close();
    await this.#primary.close();
    this.#stateFile.flush();
  }

  async #read<R>(read: (session: Session) => Promise<R>): Promise<readonly [R, Session]> {
    const session = await this.#primary.session();
    try {
      return [await read(session), session];
    } catch (error) {
      if (refusalCode(error) !== 'NOSCRIPT') throw translateRedisError(error, session.address);
    }
    try {
      await session.reload();
      return [await read(session), session];
    } catch (error) {
      throw translateRedisError(error, session.address);
    }
  }

  /**
   * Reads documents, and shows them once they are on the replicas: another controller's commit, or one of ours of unknown
   * outcome, may only be on the primary so far, and whoever acted on it would act on what a change of the primary takes back.
   */
  async #readShown<D extends StoredDocument | undefined>(
    read: (session: Session) => Promise<readonly D[]>,
  ): Promise<readonly D[]> {
    for (;;) {
      const [documents, session] = await this.#read(read);
      const known = this.#acknowledged?.commits ?? 0;
      if (documents.every((document) => document === undefined || document.rev <= known)) return documents;
      await this.#commits.barrier();
      // The barrier says something about the primary that it was on.
      if (!session.lost) return documents;
    }
  }

  #note(session: Session, commits: number): void {
    const { storeId, epoch } = session;
    const before = this.#acknowledged;
    if (before !== undefined && before.epoch === epoch && before.commits >= commits) return;
    this.#acknowledged = { storeId, epoch, commits };
    this.#stateFile.note(this.#acknowledged);
  }

  #tell(change: PrimaryChange): void {
    this.#options.events?.notice({
      level: 'warn',
      message: 'the primary of the store changed',
      fields: { from: change.from, to: change.to, kind: change.kind, commits: change.commits },
    });
    for (const listener of this.#listeners) listener(change);
  }

  #checkOpen(): void {
    if (this.#closed) throw new StoreError('unavailable', 'the store is closed');
  }
}
