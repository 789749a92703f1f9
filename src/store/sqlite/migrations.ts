import type Database from 'better-sqlite3';

/*
 * The schema. A migration that was released is never changed, a change of the schema is one more at the end; a store of any
 * earlier version goes through all that it lacks, each in a transaction of its own, and there is no way back.
 */

/** One step of the schema: from its place in the list to the next. */
export type Migration = (database: Database.Database) => void;

/** "Moor" in ASCII: tells our files from other SQLite databases. */
export const APPLICATION_ID = 0x4d6f6f72;

export const migrations: readonly Migration[] = [
  (database) => {
    database.exec(`
      -- "entries" holds the document's own index entries ([[index, sort], ...]), so that a write finds those to replace.
      CREATE TABLE documents (
        id INTEGER PRIMARY KEY,
        key TEXT NOT NULL UNIQUE,
        rev INTEGER NOT NULL,
        entries TEXT NOT NULL,
        value TEXT NOT NULL
      ) STRICT;

      -- The default collation compares the bytes of the UTF-8, which is the order that the port asks for.
      CREATE TABLE entries (
        index_name TEXT NOT NULL,
        sort TEXT NOT NULL,
        key TEXT NOT NULL,
        document INTEGER NOT NULL,
        PRIMARY KEY (index_name, sort, key)
      ) STRICT, WITHOUT ROWID;

      -- Counting a million entries would take as long as reading them.
      CREATE TABLE index_sizes (
        index_name TEXT PRIMARY KEY,
        entries INTEGER NOT NULL
      ) STRICT, WITHOUT ROWID;

      CREATE TABLE commits (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        last INTEGER NOT NULL
      ) STRICT;
      INSERT INTO commits (id, last) VALUES (1, 0);
    `);
  },
];

/** The schema's version that this program writes. */
export const CURRENT_VERSION = migrations.length;

/**
 * Brings a store from the version it has to the one that `steps` lead to. A step that fails leaves the store at the version
 * before it.
 */
export function migrate(database: Database.Database, steps: readonly Migration[] = migrations): void {
  const found = Number(database.pragma('user_version', { simple: true }));
  for (const [version, step] of steps.entries()) {
    if (version < found) continue;
    database.transaction(() => {
      step(database);
      database.pragma(`application_id = ${APPLICATION_ID}`);
      database.pragma(`user_version = ${version + 1}`);
    })();
  }
}
