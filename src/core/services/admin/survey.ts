import { keys } from '../../journal/documents.js';
import { lockKeys } from '../../journal/locks.js';
import type { LockRecord, Operation } from '../../model/operation.js';
import type { Export, Pool, Snapshot, Tombstone, Volume } from '../../model/resources.js';
import type { ImageFacts, ImageQuery, StepContext } from '../../ports/backend.js';
import type { StoredDocument } from '../../ports/store.js';
import { type Identity, readEntry } from '../catalogue.js';
import type { CoreContext } from '../context.js';
import { isSnapshotId } from './names.js';

/** A volume, a snapshot, or what is left of one. */
export type ResourceDocument = StoredDocument<Volume | Snapshot | Tombstone>;
export type ExportDocument = StoredDocument<Export | Tombstone>;

/** An entry of the catalogue: what it says, or that it is not ours. */
export type FoundEntry = { readonly identity: Identity } | { readonly forged: true };

/** The locks of a thing, and whether an operation that runs holds one. */
export interface FoundLocks {
  readonly documents: readonly StoredDocument<LockRecord>[];
  readonly running: boolean;
  /** Operations that hold one and do not run. */
  readonly stale: readonly string[];
}

/** Reads what Check compares, many things at once. */
export class Survey {
  readonly core: CoreContext;
  readonly pool: Pool;
  readonly #signal: AbortSignal | undefined;

  constructor(core: CoreContext, pool: Pool, signal: AbortSignal | undefined) {
    this.core = core;
    this.pool = pool;
    this.#signal = signal;
  }

  /** What a read of the backend is called with. */
  context(name: string): StepContext {
    return {
      operationId: '',
      name,
      timeoutMilliseconds: this.core.settings.stepTimeoutMilliseconds,
      ...(this.#signal === undefined ? {} : { signal: this.#signal }),
    };
  }

  async resources(ids: readonly string[]): Promise<ReadonlyMap<string, ResourceDocument>> {
    return byId(ids, await this.core.store.getMany<Volume | Snapshot | Tombstone>(ids.map(resourceKey)));
  }

  async exports(ids: readonly string[]): Promise<ReadonlyMap<string, ExportDocument>> {
    return byId(ids, await this.core.store.getMany<Export | Tombstone>(ids.map(keys.export)));
  }

  /** The catalogue's entries of these ids. */
  async entries(ids: readonly string[]): Promise<ReadonlyMap<string, FoundEntry>> {
    const values = await this.core.backend().data.getCatalogueEntries(this.pool, ids, this.context('get-entries'));
    return new Map([...values].map(([key, value]) => [key, this.entry(key, value)]));
  }

  /** Reads one entry. */
  entry(key: string, value: Uint8Array): FoundEntry {
    const identity = readEntry(this.core.vault, key, value);
    return identity === undefined ? { forged: true } : { identity };
  }

  /** What the backend has; in the order asked. */
  images(queries: readonly ImageQuery[]): Promise<readonly ImageFacts[]> {
    return this.core.backend().data.inspectImages(this.pool, queries, this.context('inspect-images'));
  }

  /** Who holds the locks of a thing. */
  async locks(id: string): Promise<FoundLocks> {
    const lockDocuments = await this.core.store.getMany<LockRecord>([...lockKeys(id), ...lockKeys(`${id}/labels`)]);
    const documents = lockDocuments.filter((document) => document !== undefined);
    const holders = [...new Set(documents.flatMap(({ value }) => value.holders.map((holder) => holder.operationId)))];
    const stale: string[] = [];
    for (const holder of holders) if (!(await this.runs(holder))) stale.push(holder);
    return { documents, running: stale.length < holders.length, stale };
  }

  /** Whether an operation runs. */
  async runs(operationId: string | undefined): Promise<boolean> {
    if (operationId === undefined || operationId === '') return false;
    const operation = await this.core.store.get<Operation>(keys.operation(operationId));
    return operation?.value.state === 'running';
  }
}

/** Key of a volume's or snapshot's document. */
export function resourceKey(id: string): string {
  return isSnapshotId(id) ? keys.snapshot(id) : keys.volume(id);
}

function byId<T>(
  ids: readonly string[],
  documents: readonly (StoredDocument<T> | undefined)[],
): ReadonlyMap<string, StoredDocument<T>> {
  const found = new Map<string, StoredDocument<T>>();
  for (const [position, id] of ids.entries()) {
    const document = documents[position];
    if (document !== undefined) found.set(id, document);
  }
  return found;
}
