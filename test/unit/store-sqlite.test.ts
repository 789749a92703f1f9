import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { expect } from 'chai';
import { CURRENT_VERSION, migrate, migrations } from '../../src/store/sqlite/migrations.js';
import { openDatabase } from '../../src/store/sqlite/open.js';

/** Everything that the schema is made of. */
function schemaOf(database: Database.Database): unknown {
  return database.prepare('SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name').all();
}

describe('the SQLite store: its settings and its schema', () => {
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'moorage-store-'));
  });
  afterEach(() => rmSync(directory, { recursive: true }));

  it('waits for the disk at each commit and keeps others out', () => {
    const { database } = openDatabase(join(directory, 'store.db'));
    try {
      const setting = (name: string) => database.pragma(name, { simple: true });
      expect(setting('journal_mode')).to.equal('wal');
      expect(setting('locking_mode')).to.equal('exclusive');
      // 2: FULL. No kill shows what is lost without it, only a power cut.
      expect(setting('synchronous')).to.equal(2);
      expect(setting('user_version')).to.equal(CURRENT_VERSION);
    } finally {
      database.close();
    }
  });

  for (let version = 0; version < CURRENT_VERSION; version += 1) {
    it(`brings a store of version ${version} to the current schema`, () => {
      const path = join(directory, `${version}.db`);
      const earlier = new Database(path);
      migrate(earlier, migrations.slice(0, version));
      expect(earlier.pragma('user_version', { simple: true })).to.equal(version);
      earlier.close();
      chmodSync(path, 0o600);
      const fresh = new Database(':memory:');
      migrate(fresh);
      const { database } = openDatabase(path);
      expect(database.pragma('user_version', { simple: true })).to.equal(CURRENT_VERSION);
      expect(schemaOf(database)).to.deep.equal(schemaOf(fresh));
      database.close();
      fresh.close();
    });
  }

  it('leaves a store at the version before the step that fails, with nothing of that step', () => {
    const database = new Database(':memory:');
    migrate(database);
    const before = schemaOf(database);
    const broken = (broken: Database.Database) => {
      broken.exec('CREATE TABLE half (x)');
      throw new Error('planned');
    };
    expect(() => migrate(database, [...migrations, broken])).to.throw('planned');
    expect(database.pragma('user_version', { simple: true })).to.equal(CURRENT_VERSION);
    expect(schemaOf(database)).to.deep.equal(before);
    migrate(database, [...migrations, (next) => next.exec('CREATE TABLE whole (x)')]);
    expect(database.pragma('user_version', { simple: true })).to.equal(CURRENT_VERSION + 1);
    database.close();
  });
});
