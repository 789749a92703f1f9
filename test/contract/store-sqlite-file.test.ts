import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import Database from 'better-sqlite3';
import { expect } from 'chai';
import { type Store, StoreError } from '../../src/core/ports/store.js';
import { openSqliteStore } from '../../src/store/sqlite/index.js';
import { commit, keysOf, put, rejection } from './store-helpers.js';

const program = (name: string) => fileURLToPath(new URL(name, import.meta.url));
const kindOf = (error: unknown) => (error instanceof StoreError ? error.kind : `${error}`);
const modeOf = (path: string) => statSync(path).mode & 0o777;

/** What only a store that is one file does: whose it is, and what becomes of it on bad days. */
describe('the SQLite store and its file', () => {
  let directory: string;
  let path: string;
  let stores: Store[];
  const open = async (where = path): Promise<Store> => {
    const store = await openSqliteStore({ path: where });
    stores.push(store);
    return store;
  };
  const closeAll = async () => {
    for (const store of stores.splice(0)) await store.close();
  };
  /** A store with enough in it to have many pages, closed. */
  const fill = async () => {
    const store = await open();
    const indexes = (n: number) => [{ index: 'i', sort: `${n}`.padStart(5, '0') }];
    await commit(
      store,
      ...Array.from({ length: 2000 }, (_, n) => put(`k${n}`, 'x'.repeat(300), { indexes: indexes(n) })),
    );
    await closeAll();
  };

  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'moorage-store-'));
    path = join(directory, 'store.db');
    stores = [];
  });
  afterEach(async () => {
    await closeAll();
    rmSync(directory, { recursive: true });
  });

  describe('access', () => {
    it('makes the file and its log 0600 and a directory 0700, whatever the umask', async () => {
      const before = process.umask(0);
      try {
        const store = await open(join(directory, 'new', 'store.db'));
        await commit(store, put('a', 1));
      } finally {
        process.umask(before);
      }
      expect(modeOf(join(directory, 'new'))).to.equal(0o700);
      expect(modeOf(join(directory, 'new', 'store.db'))).to.equal(0o600);
      expect(modeOf(join(directory, 'new', 'store.db-wal'))).to.equal(0o600);
    });

    it('refuses a file that others can read, and says what to do', async () => {
      await fill();
      chmodSync(path, 0o640);
      const error = await rejection(open());
      expect(kindOf(error)).to.equal('unavailable');
      expect(`${error}`).to.contain('0640').and.contain(`chmod 600 ${path}`);
      chmodSync(path, 0o600);
      expect(await (await open()).count('i')).to.equal(2000);
    });

    it('refuses a directory that everybody can write in, behind a symbolic link too', async () => {
      const open777 = join(directory, 'shared');
      mkdirSync(open777);
      chmodSync(open777, 0o1777);
      expect(kindOf(await rejection(open(join(open777, 'store.db'))))).to.equal('unavailable');
      expect(existsSync(join(open777, 'store.db'))).to.equal(false);
      writeFileSync(join(open777, 'planted.db'), '', { mode: 0o600 });
      symlinkSync(join(open777, 'planted.db'), path);
      expect(`${await rejection(open())}`).to.contain('everybody can write');
    });

    it('refuses what is not a file', async () => {
      mkdirSync(path);
      expect(`${await rejection(open())}`).to.contain('not a regular file');
      writeFileSync(join(directory, 'file'), '');
      expect(kindOf(await rejection(open(join(directory, 'file', 'store.db'))))).to.equal('unavailable');
      symlinkSync(join(directory, 'nowhere'), join(directory, 'dangling'));
      expect(kindOf(await rejection(open(join(directory, 'dangling'))))).to.equal('unavailable');
    });
  });

  describe('exclusive use', () => {
    let child: ChildProcess | undefined;
    afterEach(async () => {
      if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
      const ended = once(child, 'exit');
      child.kill('SIGKILL');
      await ended;
    });

    it('refuses a second store in this process, and the first goes on', async () => {
      const store = await open();
      await commit(store, put('a', 1));
      expect(kindOf(await rejection(open()))).to.equal('in-use');
      symlinkSync(path, join(directory, 'alias.db'));
      expect(kindOf(await rejection(open(join(directory, 'alias.db'))))).to.equal('in-use');
      await commit(store, put('a', 2));
    });

    it('refuses a file that another process has, names that process, and opens it once that was killed', async () => {
      child = spawn(process.execPath, ['--import', 'tsx', program('./store-writer.ts'), 'sqlite', path, '0'], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      if (child.stdout === null) throw new Error('no pipe');
      await once(child.stdout, 'data');
      child.stdout.resume();
      const error = await rejection(open());
      expect(kindOf(error)).to.equal('in-use');
      expect(`${error}`).to.contain(`process ${child.pid}`).and.contain('stop that one first');
      const ended = once(child, 'exit');
      child.kill('SIGKILL');
      await ended;
      expect(await (await open()).count('written')).to.be.greaterThan(0);
    });

    it('lets one of several processes win that make the store at the same time', async () => {
      const outcomes = await Promise.all(
        Array.from({ length: 4 }, async () => {
          const racer = spawn(process.execPath, ['--import', 'tsx', program('./store-racer.ts'), path], {
            stdio: ['pipe', 'pipe', 'inherit'],
          });
          let said = '';
          racer.stdout.on('data', (data) => {
            said += String(data);
            if (said.includes('\n')) finished();
          });
          const ended = once(racer, 'close');
          return { racer, ended, said: () => said.trim() };
        }),
      );
      // Those that have the store keep it until all have said what they got.
      let waitingFor = outcomes.length;
      let allSaid: () => void = () => {};
      const everybody = new Promise<void>((resolve) => {
        allSaid = resolve;
      });
      function finished(): void {
        waitingFor -= 1;
        if (waitingFor === 0) allSaid();
      }
      await everybody;
      for (const { racer, ended } of outcomes) {
        racer.stdin.end();
        await ended;
      }
      expect(outcomes.map(({ said }) => said()).sort()).to.deep.equal(['in-use', 'in-use', 'in-use', 'open']);
      expect(await (await open()).get('a')).to.equal(undefined);
    });
  });

  describe('a damaged file', () => {
    const expectCorrupt = async () => {
      const error = await rejection(open());
      expect(kindOf(error), `${error}`).to.equal('corrupt');
      expect(`${error}`).to.contain(path).and.contain('damaged');
    };

    it('is found at the start: no database, a header overwritten, an end cut off', async () => {
      writeFileSync(path, 'something else '.repeat(1000), { mode: 0o600 });
      await expectCorrupt();
      rmSync(path);
      await fill();
      const whole = readFileSync(path);
      writeFileSync(path, Buffer.concat([Buffer.alloc(100, 0xff), whole.subarray(100)]));
      await expectCorrupt();
      writeFileSync(path, whole);
      truncateSync(path, Math.floor(whole.length / 2));
      await expectCorrupt();
      writeFileSync(path, whole);
      expect(await (await open()).count('i')).to.equal(2000);
    });

    it('is found at the start: a page overwritten, wherever it is', async () => {
      await fill();
      const whole = readFileSync(path);
      const pages = whole.length / 4096;
      for (const page of [1, 2, 3, 5, Math.floor(pages / 2), pages - 1]) {
        const damaged = Buffer.from(whole);
        damaged.fill(0xa5, page * 4096, (page + 1) * 4096);
        writeFileSync(path, damaged);
        await expectCorrupt();
        expect(readFileSync(path).equals(damaged), 'it was left as it was').to.equal(true);
      }
    });

    it("is refused when it is another program's database, and left alone", async () => {
      const foreign = new Database(path);
      foreign.exec('CREATE TABLE theirs (x)');
      foreign.close();
      chmodSync(path, 0o600);
      const before = readFileSync(path);
      await expectCorrupt();
      expect(readFileSync(path).equals(before)).to.equal(true);
    });

    it('is refused when only its log is there, which SQLite would delete', async () => {
      writeFileSync(`${path}-wal`, Buffer.alloc(8192), { mode: 0o600 });
      await expectCorrupt();
      expect(statSync(`${path}-wal`).size).to.equal(8192);
    });
  });

  it('refuses a store of a newer version, and leaves it alone', async () => {
    await fill();
    const newer = new Database(path);
    newer.pragma('user_version = 99');
    newer.pragma('journal_mode = DELETE');
    newer.close();
    const before = readFileSync(path);
    const error = await rejection(open());
    expect(kindOf(error)).to.equal('newer-version');
    expect(`${error}`).to.contain('99').and.contain('run that version');
    expect(readFileSync(path).equals(before)).to.equal(true);
  });

  describe('a full disk', () => {
    let mount: string;
    let filler: string;
    beforeEach(() => {
      mount = join(directory, 'disk');
      mkdirSync(mount);
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=4m,mode=0700', 'tmpfs', mount]);
      filler = join(mount, 'filler');
      path = join(mount, 'store.db');
    });
    afterEach(async () => {
      await closeAll();
      execFileSync('umount', [mount]);
    });
    const fillDisk = () => {
      const { bavail, bsize } = JSON.parse(
        execFileSync('stat', ['-f', '-c', '{"bavail":%a,"bsize":%S}', mount], { encoding: 'utf8' }),
      ) as { bavail: number; bsize: number };
      writeFileSync(filler, Buffer.alloc(bavail * bsize));
    };

    it('gives "full", writes nothing, answers reads, and takes commits again once there is space', async () => {
      const store = await open();
      const indexes = [{ index: 'i', sort: 's' }];
      const rev = await commit(store, put('a', 1, { indexes }));
      fillDisk();
      for (let round = 0; round < 3; round += 1) {
        const error = await rejection(
          store.commit([put('b', 'x'.repeat(50_000), { indexes }), put('a', 2, { indexes })]),
        );
        expect(kindOf(error)).to.equal('full');
        expect(`${error}`).to.contain('nothing was written');
        expect(await store.getMany(['a', 'b'])).to.deep.equal([{ key: 'a', rev, value: 1 }, undefined]);
        expect([await keysOf(store, 'i'), await store.count('i')]).to.deep.equal([['a'], 1]);
      }
      rmSync(filler);
      const next = await commit(
        store,
        put('b', 'x'.repeat(50_000), { indexes }),
        put('a', 2, { indexes, expect: rev }),
      );
      expect(next).to.be.greaterThan(rev);
      await store.close();
      const again = await open();
      expect([(await again.get('a'))?.rev, await again.count('i')]).to.deep.equal([next, 2]);
    });

    it('takes the commits of one turn that fit, and refuses alone the one that does not', async () => {
      const store = await open();
      const outcomes = await Promise.allSettled([
        store.commit([put('a', 1)]),
        store.commit([put('big', 'x'.repeat(8_000_000))]),
        store.commit([put('b', 1)]),
      ]);
      expect(outcomes.map(({ status }) => status)).to.deep.equal(['fulfilled', 'rejected', 'fulfilled']);
      expect((await store.getMany(['a', 'big', 'b'])).map((document) => document?.value)).to.deep.equal([
        1,
        undefined,
        1,
      ]);
    });

    it('loses nothing that was acknowledged when it stays full over a restart, and refuses to make a store', async () => {
      const store = await open();
      let acknowledged = 0;
      let error: unknown;
      while (error === undefined) {
        try {
          await commit(store, put(`k${acknowledged}`, 'x'.repeat(20_000), { indexes: [{ index: 'i', sort: 's' }] }));
          acknowledged += 1;
        } catch (caught) {
          error = caught;
        }
      }
      expect(kindOf(error)).to.equal('full');
      fillDisk();
      await closeAll();
      const again = await open();
      expect(await again.count('i')).to.equal(acknowledged);
      expect(kindOf(await rejection(open(join(mount, 'other.db'))))).to.equal('full');
    });
  });

  it('says "unknown" when the disk fails inside a commit, then refuses everything until it is opened again', async () => {
    // The limit on a file's size fails a write of the log with EFBIG, which is no full disk to SQLite.
    const script = `trap '' XFSZ; ulimit -f 2000; exec "$0" --import tsx "$1" "$2"`;
    const said = execFileSync('bash', ['-c', script, process.execPath, program('./store-disk-failure.ts'), path], {
      encoding: 'utf8',
    });
    const { kinds, acknowledged } = JSON.parse(said) as { kinds: string[]; acknowledged: number };
    expect(kinds).to.deep.equal(['unknown', 'unavailable', 'unavailable', 'unavailable']);
    expect(acknowledged).to.be.greaterThan(10);
    const store = await open();
    expect(await store.count('i')).to.be.within(acknowledged, acknowledged + 1);
  });
});
