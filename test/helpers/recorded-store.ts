import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import Database from 'better-sqlite3';
import type { Store } from '../../src/core/ports/store.js';
import type { FakeBackend } from './fake-backend.js';

/** A call that the recorded version had answered, and what it had made. */
export interface RecordedCall {
  /** As "volumes.create": service and method of the core. */
  readonly method: string;
  readonly request: unknown;
  readonly resourceId: string;
}

/** What an earlier version left (test/fixtures). */
export interface Recording {
  /** When it ended, in milliseconds since the epoch. */
  readonly now: number;
  readonly calls: readonly RecordedCall[];
  /** Ids by what they are. */
  readonly resources: Readonly<Record<string, string>>;
  readonly backend: Pick<FakeBackend, 'images' | 'catalogue' | 'users' | 'sessions' | 'cutOff'>;
  readonly masterKey: string;
}

/** Reads a recording, and lays its store and its key into a new folder. */
export function unpack(layout: number): {
  readonly recording: Recording;
  readonly folder: string;
  readonly path: string;
} {
  const read = (name: string): Buffer => readFileSync(new URL(`../fixtures/layout-${layout}/${name}`, import.meta.url));
  const recording = JSON.parse(read('recorded.json').toString(), revive) as Recording;
  const folder = mkdtempSync(join(tmpdir(), 'moorage-core-'));
  const path = join(folder, 'store.sqlite');
  writeFileSync(path, gunzipSync(read('store.db.gz')), { mode: 0o600 });
  writeFileSync(join(folder, 'master.key'), recording.masterKey, { mode: 0o600 });
  return { recording, folder, path };
}

/** Copies every document of a SQLite file that no store has open, with its indexes, in the order of their revisions. */
export async function copyDocuments(path: string, store: Store): Promise<void> {
  const database = new Database(path, { readonly: true });
  try {
    const rows = database.prepare('SELECT key, entries, value FROM documents ORDER BY rev, id').all();
    for (const { key, entries, value } of rows as readonly { key: string; entries: string; value: string }[]) {
      const indexes = (JSON.parse(entries) as [string, string][]).map(([index, sort]) => ({ index, sort }));
      const outcome = await store.commit([{ kind: 'put', key, expect: 'absent', value: JSON.parse(value), indexes }]);
      if (!outcome.ok) throw new Error(`${key} is there already`);
    }
  } finally {
    database.close();
  }
}

/** JSON has no maps, sets and bytes: they stand as {map}, {set} and {bytes} of one field. */
function revive(_name: string, value: unknown): unknown {
  if (value === null || typeof value !== 'object' || Array.isArray(value)) return value;
  if (Object.keys(value).length !== 1) return value;
  if ('map' in value) return new Map(value.map as [unknown, unknown][]);
  if ('set' in value) return new Set(value.set as unknown[]);
  if ('bytes' in value) return new Uint8Array(Buffer.from(String(value.bytes), 'base64'));
  return value;
}
