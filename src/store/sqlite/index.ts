/** The embedded store: one SQLite file, one controller. */
export { openSqliteStore, type SqliteStoreOptions } from './store.js';
