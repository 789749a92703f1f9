/*
 * The store: a small transactional document store. A document is a JSON value under a key, with a revision and with entries
 * in indexes. Everything that Moorage knows fits this interface, so that SQLite and Redis both carry it; one contract suite
 * holds both to it.
 */

/** A document as it was read. */
export interface StoredDocument<T = unknown> {
  readonly key: string;
  /**
   * Number of the commit that last wrote it: grows over the whole store, so a document that was deleted and made again never
   * has a revision that it had before.
   */
  readonly rev: number;
  readonly value: T;
}

/** Where a document stands in one index. */
export interface IndexEntry {
  /** Name of the index; may carry a parameter, as "volumes-by-pool/ssd". */
  readonly index: string;
  /** Position: compared byte by byte in UTF-8; equal ones are ordered by key. */
  readonly sort: string | CommitRevision;
}

/**
 * In place of a position: the revision of the commit that writes the entry, as {@link sortableRevision} has it. Only the
 * store knows it, so the store fills it in, inside the commit. An index of such entries holds documents in the order in
 * which they last changed: what changed since a revision is read with `from`.
 */
export interface CommitRevision {
  readonly commitRevision: true;
}

/** The one value of its type. */
export const COMMIT_REVISION: CommitRevision = { commitRevision: true };

/** A revision as a position: 16 decimal digits, so that their order is that of the numbers. */
export function sortableRevision(rev: number): string {
  return rev.toString().padStart(16, '0');
}

/** What must be so for a commit to pass: the revision that was read, or that there is no such document; "any" checks nothing. */
export type Expectation = number | 'absent' | 'any';

/**
 * One write of a commit. All expectations are held against the state before the commit, so a check may stand beside a change
 * of the same key; two changes of one key are a TypeError.
 */
export type Write =
  | {
      readonly kind: 'put';
      readonly key: string;
      readonly expect: Expectation;
      /** A JSON value. */
      readonly value: unknown;
      /** All its index entries; replace those it had. */
      readonly indexes: readonly IndexEntry[];
    }
  | { readonly kind: 'delete'; readonly key: string; readonly expect: Expectation }
  | { readonly kind: 'check'; readonly key: string; readonly expect: Expectation };

/** What came of a commit: all of its writes, or none. */
export type CommitOutcome =
  | { readonly ok: true; readonly rev: number }
  | { readonly ok: false; readonly conflicts: readonly { readonly key: string; readonly rev: number | undefined }[] };

/** Which part of an index to read. */
export interface ListRange {
  /** Only entries whose `sort` begins with this. */
  readonly prefix?: string;
  /** Only entries whose `sort` is this one or behind it. */
  readonly from?: string;
  /** Only entries whose `sort` is before this one. */
  readonly before?: string;
  /** Only entries behind this cursor. It stays good while entries come and go. */
  readonly after?: string;
  readonly limit: number;
}

/** A part of an index, in order, as it was at one moment: what stands there then, and each document as it was then. */
export interface ListPage<T = unknown> {
  readonly documents: readonly StoredDocument<T>[];
  /** Where to go on; undefined when there was nothing more. Opaque to all but the store. */
  readonly cursor: string | undefined;
}

/** The store. All methods throw StoreError when it cannot be reached or written. */
export interface Store {
  /** Reads one document; undefined when there is none. */
  get<T = unknown>(key: string): Promise<StoredDocument<T> | undefined>;
  /** Reads several; in the order asked, undefined where there is none. */
  getMany<T = unknown>(keys: readonly string[]): Promise<readonly (StoredDocument<T> | undefined)[]>;
  /** Reads documents in the order of an index. */
  list<T = unknown>(index: string, range: ListRange): Promise<ListPage<T>>;
  /** Number of entries in an index (exact where that is cheap, else an estimate). */
  count(index: string): Promise<number>;
  /** Writes all or nothing. Durable when it resolves. */
  commit(writes: readonly Write[]): Promise<CommitOutcome>;
  /**
   * Writes a consistent copy of it into a new file, with these writes on top of it, while it serves; revisions of the copy
   * go on far behind those of the original, so that none means two things. The file is of the embedded kind, whatever kind of store it is made of.
   * @returns its size in bytes
   */
  backup(path: string, writes: readonly Write[]): Promise<{ readonly sizeBytes: number }>;
  /** Closes it; nothing may be called after. */
  close(): Promise<void>;
}

/** Another server serves a replicated store from now on, or the same one after a restart. */
export interface PrimaryChange {
  /** Address of the server before. */
  readonly from: string;
  /** Address of the server now. */
  readonly to: string;
  readonly kind: 'replaced' | 'restarted';
  /** Commits that it has: at least those that were acknowledged to this process. */
  readonly commits: number;
}

/**
 * A store whose data several servers hold, one of them the primary, and that several controllers use. What a read shows is
 * on the replicas that count, so that no change of the primary takes it back; the same goes for what a commit that resolves
 * wrote. A primary that lacks what was acknowledged here is refused: every call throws `lost-commits` until one serves that
 * has it.
 */
export interface ReplicatedStore extends Store {
  /**
   * Calls whenever the primary changed, before anything is sent to the new one: what others saw acknowledged may be missing
   * there, so a controller registers anew and compares with the catalogue before it mutates.
   * @returns how to stop listening
   */
  onPrimaryChange(listener: (change: PrimaryChange) => void): () => void;
  /** Names the time of the primary that serves now: another one once another server serves, or the same one after a restart. */
  primaryTime(): Promise<string>;
}

/** Whether a store is one that several servers hold. */
export function isReplicated(store: Store): store is ReplicatedStore {
  return 'onPrimaryChange' in store;
}

/**
 * The store cannot be reached, read or written. `unknown`: whether the commit took place is not known (a read then shows
 * it, as soon as reads are answered again). `lost-commits`: the server lacks commits that were acknowledged.
 */
export class StoreError extends Error {
  readonly kind: 'unavailable' | 'full' | 'corrupt' | 'in-use' | 'newer-version' | 'unknown' | 'lost-commits';

  constructor(kind: StoreError['kind'], message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'StoreError';
    this.kind = kind;
  }
}
