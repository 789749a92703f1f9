import { MoorageError, notFound } from '../errors.js';
import { keys } from '../journal/documents.js';
import type { Journal, Recorded } from '../journal/journal.js';
import { operationFailure } from '../journal/runner.js';
import type { Operation } from '../model/operation.js';
import type { Export, Node, Pool, Snapshot, Tombstone, Volume } from '../model/resources.js';
import type { Backend } from '../ports/backend.js';
import type { NodeCertificateIssuer } from '../ports/certificates.js';
import type { Clock } from '../ports/clock.js';
import type { CoreEvents } from '../ports/metrics.js';
import type { DescriptorSealer, Vault } from '../ports/sealer.js';
import type { Store, StoredDocument, Write } from '../ports/store.js';
import type { CoreSettings } from '../settings.js';
import type { Caller, Versioned } from './types.js';

/** What the use cases work with. */
export interface CoreContext {
  readonly store: Store;
  readonly backend: () => Backend;
  readonly vault: Vault;
  readonly sealer: DescriptorSealer;
  /** Unset: this controller signs no certificates. */
  readonly issuer?: NodeCertificateIssuer | undefined;
  readonly clock: Clock;
  readonly events: CoreEvents;
  readonly settings: CoreSettings;
  /** The write that every commit of this controller carries (Membership.liveCheck). */
  readonly liveCheck: () => Write;
  /** To call when a commit met a conflict (Membership.refresh). */
  readonly refreshMembership: () => Promise<boolean>;
}

/** A document that may be there, gone, or never have been. */
async function readLive<T extends { readonly id: string; readonly state: string }>(
  store: Store,
  key: string,
  kind: string,
  id: string,
): Promise<StoredDocument<T> | StoredDocument<Tombstone>> {
  const document = await store.get<T | Tombstone>(key);
  if (document === undefined) throw notFound(kind, id);
  return document as StoredDocument<T> | StoredDocument<Tombstone>;
}

function goneError(kind: string, tombstone: Tombstone): MoorageError {
  const when = new Date(tombstone.goneTime).toISOString();
  const message =
    tombstone.reason === undefined
      ? `The ${kind} ${tombstone.id} is gone since ${when}.`
      : `The ${kind} ${tombstone.id} could not be made: ${tombstone.reason}`;
  return new MoorageError('NOT_FOUND', message, { reason: 'GONE', metadata: { kind, id: tombstone.id } });
}

function isTombstone(document: StoredDocument<{ readonly state: string }>): document is StoredDocument<Tombstone> {
  return document.value.state === 'gone';
}

/** Reads a volume, or what is left of it. @throws MoorageError NOT_FOUND when it never existed */
export function findVolume(store: Store, id: string): Promise<StoredDocument<Volume> | StoredDocument<Tombstone>> {
  return readLive<Volume>(store, keys.volume(id), 'volume', id);
}

/** Reads a volume. @throws MoorageError NOT_FOUND */
export async function getVolume(store: Store, id: string): Promise<StoredDocument<Volume>> {
  const document = await findVolume(store, id);
  if (isTombstone(document)) throw goneError('volume', document.value);
  return document as StoredDocument<Volume>;
}

/** Reads a snapshot, or what is left of it. @throws MoorageError NOT_FOUND when it never existed */
export function findSnapshot(store: Store, id: string): Promise<StoredDocument<Snapshot> | StoredDocument<Tombstone>> {
  return readLive<Snapshot>(store, keys.snapshot(id), 'snapshot', id);
}

/** Reads a snapshot. @throws MoorageError NOT_FOUND */
export async function getSnapshot(store: Store, id: string): Promise<StoredDocument<Snapshot>> {
  const document = await findSnapshot(store, id);
  if (isTombstone(document)) throw goneError('snapshot', document.value);
  return document as StoredDocument<Snapshot>;
}

/** Reads an export, or what is left of it. @throws MoorageError NOT_FOUND when it never existed */
export function findExport(store: Store, id: string): Promise<StoredDocument<Export> | StoredDocument<Tombstone>> {
  return readLive<Export>(store, keys.export(id), 'export', id);
}

/** Reads an export. @throws MoorageError NOT_FOUND */
export async function getExport(store: Store, id: string): Promise<StoredDocument<Export>> {
  const document = await findExport(store, id);
  if (isTombstone(document)) throw goneError('export', document.value);
  return document as StoredDocument<Export>;
}

/** Reads a node. @throws MoorageError NOT_FOUND */
export async function getNode(store: Store, id: string): Promise<StoredDocument<Node>> {
  const document = await store.get<Node>(keys.node(id));
  if (document === undefined) throw notFound('node', id);
  return document;
}

/** Reads a pool. @throws MoorageError NOT_FOUND */
export async function getPool(store: Store, id: string): Promise<StoredDocument<Pool>> {
  const document = await store.get<Pool>(keys.pool(id));
  if (document === undefined) throw notFound('pool', id);
  return document;
}

/** A document as the edge wants it. */
export function versioned<T>(document: StoredDocument<T>): Versioned<T> {
  return { value: document.value, etag: String(document.rev) };
}

/** Refuses when the caller asked for another version. @throws MoorageError ABORTED */
export function requireEtag(document: StoredDocument<{ readonly id: string }>, etag: string): void {
  if (etag === '' || etag === String(document.rev)) return;
  throw new MoorageError('ABORTED', `etag: ${document.value.id} has changed since; read it again.`, {
    reason: 'ETAG_MISMATCH',
    metadata: { id: document.value.id, etag: String(document.rev) },
  });
}

/** Longest time kept back from a call's deadline so that the answer still arrives, in milliseconds. */
const LONGEST_MARGIN_MILLISECONDS = 1_000;

/**
 * Waits for a call's operation until it has ended or the call's time is nearly up.
 * @throws MoorageError when the operation failed
 */
export async function settle(journal: Journal, clock: Clock, recorded: Recorded, caller: Caller): Promise<void> {
  if (recorded.operationId === '') return;
  const operation = await awaitEnd(journal, clock, recorded.operationId, caller);
  const failure = operation === undefined ? undefined : operationFailure(operation);
  if (failure !== undefined) throw failure;
}

/** Waits until an operation has ended or the call's time is nearly up. @returns the operation; undefined when there is none */
export function awaitEnd(
  journal: Journal,
  clock: Clock,
  operationId: string,
  caller: Caller,
): Promise<Operation | undefined> {
  const left = Math.max(0, caller.deadline - clock.monotonic());
  const until = caller.deadline - Math.min(LONGEST_MARGIN_MILLISECONDS, left * 0.2);
  return journal.waiters.wait(operationId, until, caller.signal);
}
