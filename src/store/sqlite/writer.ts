import type Database from 'better-sqlite3';
import type { CommitOutcome, IndexEntry } from '../../core/ports/store.js';
import { meetsExpectation, type PreparedWrite, positionOf } from '../writes.js';

interface DocumentRow {
  readonly id: number;
  readonly rev: number;
  readonly entries: string;
}

type EntryPair = readonly [index: string, sort: string];

/** Carries out commits inside the transaction that is open; who opens and ends it is not its concern. */
export class DocumentWriter {
  readonly #find: Database.Statement<[string], DocumentRow>;
  readonly #insert: Database.Statement<[string, number, string, string]>;
  readonly #update: Database.Statement<[number, string, string, number]>;
  readonly #remove: Database.Statement<[number]>;
  readonly #insertEntry: Database.Statement<[string, string, string, number]>;
  readonly #removeEntry: Database.Statement<[string, string, string]>;
  readonly #resize: Database.Statement<[string, number]>;
  readonly #removeEmpty: Database.Statement<[string]>;
  readonly #readLast: Database.Statement<[], { last: number }>;
  readonly #writeLast: Database.Statement<[number]>;
  /** By how much each index grew in this transaction. */
  readonly #growth = new Map<string, number>();
  #last = 0;

  constructor(database: Database.Database) {
    this.#find = database.prepare('SELECT id, rev, entries FROM documents WHERE key = ?');
    this.#insert = database.prepare('INSERT INTO documents (key, rev, entries, value) VALUES (?, ?, ?, ?)');
    this.#update = database.prepare('UPDATE documents SET rev = ?, entries = ?, value = ? WHERE id = ?');
    this.#remove = database.prepare('DELETE FROM documents WHERE id = ?');
    this.#insertEntry = database.prepare('INSERT INTO entries (index_name, sort, key, document) VALUES (?, ?, ?, ?)');
    this.#removeEntry = database.prepare('DELETE FROM entries WHERE index_name = ? AND sort = ? AND key = ?');
    this.#resize = database.prepare(
      `INSERT INTO index_sizes (index_name, entries) VALUES (?, ?)
       ON CONFLICT (index_name) DO UPDATE SET entries = entries + excluded.entries`,
    );
    this.#removeEmpty = database.prepare('DELETE FROM index_sizes WHERE index_name = ? AND entries = 0');
    this.#readLast = database.prepare('SELECT last FROM commits');
    this.#writeLast = database.prepare('UPDATE commits SET last = ?');
  }

  /** To be called first in each transaction: what a transaction before left behind is forgotten. */
  begin(): void {
    this.#growth.clear();
    this.#last = this.#readLast.get()?.last ?? 0;
  }

  /** Carries out one commit. A conflict has written nothing, so that the others of the transaction can go on. */
  apply(writes: readonly PreparedWrite[]): CommitOutcome {
    const before = new Map<string, DocumentRow | undefined>();
    const conflicts = new Map<string, number | undefined>();
    for (const { key, expect } of writes) {
      if (!before.has(key)) before.set(key, this.#find.get(key));
      const rev = before.get(key)?.rev;
      if (!meetsExpectation(expect, rev)) conflicts.set(key, rev);
    }
    if (conflicts.size > 0) return { ok: false, conflicts: [...conflicts].map(([key, rev]) => ({ key, rev })) };
    this.#last += 1;
    for (const write of writes) {
      const row = before.get(write.key);
      if (write.kind === 'put') this.#put(write.key, row, write.value, write.indexes);
      else if (write.kind === 'delete' && row !== undefined) this.#delete(write.key, row);
    }
    return { ok: true, rev: this.#last };
  }

  /** To be called last in each transaction. */
  finish(): void {
    for (const [index, growth] of this.#growth) {
      if (growth === 0) continue;
      this.#resize.run(index, growth);
      if (growth < 0) this.#removeEmpty.run(index);
    }
    this.#writeLast.run(this.#last);
  }

  #put(key: string, row: DocumentRow | undefined, value: string, indexes: readonly IndexEntry[]): void {
    const pairs = indexes.map((entry): EntryPair => [entry.index, positionOf(entry, this.#last)]);
    const entries = JSON.stringify(pairs);
    if (row === undefined) {
      const id = Number(this.#insert.run(key, this.#last, entries, value).lastInsertRowid);
      for (const pair of pairs) this.#addEntry(pair, key, id);
      return;
    }
    this.#update.run(this.#last, entries, value, row.id);
    if (entries === row.entries) return;
    // Most writes move a document in few of its indexes or in none.
    const old = new Map(parseEntries(row.entries).map((pair) => [JSON.stringify(pair), pair]));
    for (const pair of pairs) if (!old.delete(JSON.stringify(pair))) this.#addEntry(pair, key, row.id);
    for (const pair of old.values()) this.#dropEntry(pair, key);
  }

  #delete(key: string, row: DocumentRow): void {
    for (const pair of parseEntries(row.entries)) this.#dropEntry(pair, key);
    this.#remove.run(row.id);
  }

  #addEntry([index, sort]: EntryPair, key: string, document: number): void {
    this.#insertEntry.run(index, sort, key, document);
    this.#growth.set(index, (this.#growth.get(index) ?? 0) + 1);
  }

  #dropEntry([index, sort]: EntryPair, key: string): void {
    this.#removeEntry.run(index, sort, key);
    this.#growth.set(index, (this.#growth.get(index) ?? 0) - 1);
  }
}

function parseEntries(text: string): readonly EntryPair[] {
  return JSON.parse(text) as readonly EntryPair[];
}
