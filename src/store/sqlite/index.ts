/** The embedded store: one SQLite file, one controller. */
export { restoreSqliteStore } from './copy.js';
export { openSqliteStore, type SqliteStoreOptions } from './store.js';
