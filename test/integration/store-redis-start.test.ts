import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { defaultRedisOptions, type RedisPlace, restoreRedisStore } from '../../src/store/redis/index.js';
import { commit, keysOf, put, rejection, remove } from '../contract/store-helpers.js';
import { type RedisGroup, startRedis } from '../helpers/redis.js';
import { waitFor } from '../helpers/wait.js';
import { Stores, sentinelsOf, serverOf } from './store-redis-harness.js';

/** The users that docs/operations/redis.md shows, of servers and of Sentinels. */
function documentedUsers(): { readonly servers: readonly string[]; readonly sentinels: readonly string[] } {
  const page = readFileSync(new URL('../../docs/operations/redis.md', import.meta.url), 'utf8');
  const [servers = [], sentinels = []] = [...page.matchAll(/^user default off\n(?:user .*\n)+/gm)].map(([text]) =>
    text.trimEnd().split('\n'),
  );
  return { servers, sentinels };
}

/** The rights of a controller's user at a server. */
function documentedRules(): string {
  const line = documentedUsers().servers.find((user) => user.startsWith('user moorage '));
  return /~\S+ .*$/.exec(line ?? '')?.[0] ?? '';
}

/** What the store looks at before it uses a server, and who it is to that server. */
describe('the Redis store and who it trusts', function () {
  this.timeout(60_000);
  let group: RedisGroup;
  let stores: Stores;
  let folder: string;
  beforeEach(() => {
    stores = new Stores();
    folder = mkdtempSync(join(tmpdir(), 'moorage-redis-test-'));
  });
  afterEach(async () => {
    await stores.close();
    await group.remove();
    rmSync(folder, { recursive: true });
  });

  it('refuses a volatile server with what to set, unless a setting says otherwise', async () => {
    group = await startRedis({ settings: { appendonly: 'no', 'maxmemory-policy': 'allkeys-lru', appendfsync: 'no' } });
    const [server] = group.servers;
    const problem = async (persistence: 'always' | 'everysec' = 'always'): Promise<string> => {
      const error = await rejection(stores.open(serverOf(group), { persistence }));
      expect(error).to.have.property('kind', 'unavailable');
      return `${error}`;
    };
    expect(await problem())
      .to.contain('set "appendonly yes"')
      .and.contain('set "maxmemory-policy noeviction"')
      .and.contain('set "appendfsync always"')
      .and.contain('store.redis.persistence');
    await server?.call('CONFIG', 'SET', 'appendonly', 'yes');
    await server?.call('CONFIG', 'SET', 'maxmemory-policy', 'noeviction');
    expect(await problem())
      .to.contain('set "appendfsync always"')
      .and.not.contain('appendonly');
    expect(await problem('everysec')).to.contain('set "appendfsync everysec" or "always"');
    await server?.call('CONFIG', 'SET', 'appendfsync', 'everysec');
    expect(await problem()).to.contain('appendfsync everysec');
    await commit(await stores.open(serverOf(group), { persistence: 'everysec' }), put('a', 1));
    await server?.call('CONFIG', 'SET', 'appendfsync', 'always');
    await server?.call('CONFIG', 'SET', 'no-appendfsync-on-rewrite', 'yes');
    expect(await problem()).to.contain('set "no-appendfsync-on-rewrite no"');
    await server?.call('CONFIG', 'SET', 'appendonly', 'no');
    await server?.call('CONFIG', 'SET', 'no-appendfsync-on-rewrite', 'no');
    expect(await problem('everysec')).to.contain('appendonly');
    expect(await (await stores.open(serverOf(group), { persistence: 'unchecked' })).get('a')).to.have.property(
      'value',
      1,
    );
  });

  it('refuses a replica, and a primary with too few replicas', async () => {
    group = await startRedis({ replicas: 1 });
    const [primary, replica] = group.servers;
    const onReplica = await rejection(stores.open({ kind: 'server', address: replica?.address ?? '' }));
    expect(`${onReplica}`).to.contain('is a replica now, not the primary');
    const tooFew = await rejection(stores.open(serverOf(group), { leastReplicas: 2, callTimeoutMilliseconds: 700 }));
    expect(`${tooFew}`)
      .to.contain(primary?.address ?? '')
      .and.contain('has 1 promotable replicas in sync, and store.redis.replicas asks for 2');
    await commit(await stores.open(serverOf(group), { leastReplicas: 1 }), put('a', 1));
  });

  it('refuses a volatile replica, which could be the next primary', async () => {
    group = await startRedis({ replicas: 1 });
    const [, replica] = group.servers;
    await replica?.call('CONFIG', 'SET', 'appendonly', 'no');
    const error = await rejection(stores.open(serverOf(group), { leastReplicas: 1 }));
    expect(`${error}`)
      .to.contain(replica?.address ?? '')
      .and.contain('set "appendonly yes"');
    await stores.open(serverOf(group), { leastReplicas: 1, persistence: 'unchecked' });
  });

  it('says at once that a server is away', async () => {
    group = await startRedis();
    await group.servers[0]?.kill();
    const error = await rejection(stores.open(serverOf(group)));
    expect(error).to.have.property('kind', 'unavailable');
    expect(`${error}`)
      .to.contain('ECONNREFUSED')
      .and.contain(group.servers[0]?.address ?? '');
  });

  it('works as a user that reaches its prefix only, and says which right is missing', async () => {
    group = await startRedis({ password: 'of-the-administrator', user: { rules: documentedRules() }, replicas: 1 });
    const access = { user: 'moorage', passwordFile: group.userPasswordFile };
    const store = await stores.open(serverOf(group), { access, leastReplicas: 1 });
    await commit(store, put('a', 1, { indexes: [{ index: 'i', sort: '1' }] }));
    await commit(store, put('a', 2, { indexes: [{ index: 'i', sort: '2' }] }), put('b', 1));
    await commit(store, remove('b'));
    expect([await keysOf(store, 'i'), await store.count('i')]).to.deep.equal([['a'], 1]);
    // Copies, and stores made of them, too.
    const copy = join(folder, 'copy.db');
    await store.backup(copy, [put('of-the-copy', 1)]);
    const options = { ...defaultRedisOptions, place: serverOf(group), access, leastReplicas: 1 };
    await group.servers[0]?.call('FLUSHALL');
    await restoreRedisStore(options, copy);
    const restored = await stores.open(serverOf(group), { access, leastReplicas: 1 });
    expect(await restored.getMany(['a', 'of-the-copy'])).to.have.nested.property('[1].value', 1);
    await commit(restored, put('b', 1));

    const elsewhere = await rejection(stores.open(serverOf(group), { access, prefix: 'other:' }));
    expect(`${elsewhere}`).to.contain('refuses this user').and.contain('docs/operations/redis.md');
    // A right that only some commits need is missed at the start, not in the middle of one.
    await group.servers[0]?.call('ACL', 'SETUSER', 'moorage', '-zrem');
    expect(`${await rejection(stores.open(serverOf(group), { access }))}`).to.contain('refuses this user');
    await group.servers[0]?.call('ACL', 'SETUSER', 'moorage', '+zrem', '-config|get');
    expect(`${await rejection(stores.open(serverOf(group), { access }))}`).to.contain('+config|get');
    await stores.open(serverOf(group), { access, persistence: 'unchecked' });
  });

  it('works with the users that the documentation shows, a change of the primary included', async () => {
    group = await startRedis({ acl: documentedUsers(), replicas: 1, sentinels: 3 });
    const passwordOf = (name: string, password: string): { user: string; passwordFile: string } => {
      writeFileSync(join(folder, name), `${password}\n`, { mode: 0o600 });
      return { user: 'moorage', passwordFile: join(folder, name) };
    };
    const store = await stores.open(
      { ...sentinelsOf(group), access: passwordOf('sentinels', 'PASSWORD-AT-SENTINELS') } as RedisPlace,
      { access: passwordOf('servers', 'PASSWORD') },
    );
    const rev = await commit(store, put('a', 1));
    await group.servers[0]?.kill();
    await waitFor('the store on the other server', () => store.get('a').then(Boolean), { timeoutMilliseconds: 45_000 });
    expect(await commit(store, put('a', 2))).to.be.greaterThan(rev);
  });

  it('takes a password from a file that nobody else reads, and says it to nobody', async () => {
    group = await startRedis({ password: 'of-the-administrator', replicas: 1, sentinels: 3 });
    const access = { passwordFile: group.passwordFile };
    await commit(await stores.open(serverOf(group), { access }), put('a', 1));
    await commit(await stores.open(sentinelsOf(group), { access, leastReplicas: 1 }), put('a', 2));

    const wrong = join(folder, 'wrong');
    const problems: unknown[] = [];
    const problem = async (passwordFile: string | undefined): Promise<string> => {
      const error = await rejection(
        stores.open(serverOf(group), passwordFile === undefined ? {} : { access: { passwordFile } }),
      );
      problems.push(error);
      return `${error}`;
    };
    writeFileSync(wrong, 'not-the-password\n', { mode: 0o600 });
    expect(await problem(wrong)).to.contain('WRONGPASS');
    chmodSync(wrong, 0o640);
    expect(await problem(wrong)).to.contain(`chmod 600 ${wrong}`);
    expect(await problem(join(folder, 'none'))).to.contain('ENOENT');
    expect(await problem(folder)).to.contain('not a regular file');
    writeFileSync(wrong, '', { mode: 0o600 });
    chmodSync(wrong, 0o600);
    expect(await problem(wrong)).to.contain('is empty');
    expect(await problem(undefined)).to.contain('NOAUTH');
    const { sentinels } = group;
    const noSentinelPassword = await rejection(
      stores.open(
        { kind: 'sentinels', name: 'moorage', addresses: sentinels.map(({ address }) => address) },
        { access },
      ),
    );
    expect(`${noSentinelPassword}`).to.contain('no majority').and.contain('NOAUTH');
    const wrongName = await rejection(stores.open({ ...sentinelsOf(group), name: 'nobody' } as never, { access }));
    expect(`${wrongName}`).to.contain('knows no primary "nobody"');
    const said = JSON.stringify([stores.notices, problems.map(allOf)]);
    expect(said).to.not.contain('not-the-password').and.not.contain('of-the-administrator');
  });

  it('speaks TLS to servers and Sentinels, with a certificate of its own', async () => {
    group = await startRedis({ tls: true, replicas: 1, sentinels: 1 });
    const tls = group.clientTls;
    if (tls === undefined) throw new Error('no TLS');
    const store = await stores.open(sentinelsOf(group), { tls, leastReplicas: 1 });
    await commit(store, put('a', 1));
    expect(await rejection(stores.open(serverOf(group)))).to.have.property('kind', 'unavailable');
    const { ca } = tls;
    expect(await rejection(stores.open(serverOf(group), { tls: { ca } }))).to.have.property('kind', 'unavailable');
    const { TestAuthority } = await import('../helpers/certificates.js');
    const other = new TestAuthority(folder, 'other');
    const foreign = await rejection(stores.open(serverOf(group), { tls: { ...tls, ca: other.certificate } }));
    expect(`${foreign}`).to.match(/certificate|signature/);
    chmodSync(tls.key, 0o644);
    expect(`${await rejection(stores.open(serverOf(group), { tls }))}`).to.contain(`chmod 600 ${tls.key}`);
  });

  it('remembers over a restart what was acknowledged, and refuses a server that is emptied or older', async () => {
    group = await startRedis();
    const [server] = group.servers;
    const stateFile = join(folder, 'redis-store.json');
    const store = await stores.open(serverOf(group), { stateFile });
    for (let n = 0; n < 5; n += 1) await commit(store, put(`k${n}`, n));
    await stores.close();
    expect(statSync(stateFile).mode & 0o777).to.equal(0o600);
    const whole = await stores.open(serverOf(group), { stateFile });
    await commit(whole, put('a', 1));

    // While it is open...
    await server?.kill();
    server?.empty();
    await server?.start();
    for (;;) {
      const error = await rejection(whole.get('a'));
      if (error instanceof Error && 'kind' in error && error.kind === 'lost-commits') {
        expect(error.message).to.contain('holds nothing of the store').and.contain('it is not used');
        break;
      }
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    await stores.close();
    // ...and at the next start; nothing is made there.
    const again = await rejection(stores.open(serverOf(group), { stateFile }));
    expect(again).to.have.property('kind', 'lost-commits');
    expect(await server?.call('DBSIZE')).to.equal(0);
    writeFileSync(stateFile, 'no note');
    expect(await rejection(stores.open(serverOf(group), { stateFile }))).to.have.property('kind', 'corrupt');
    rmSync(stateFile);
    await commit(await stores.open(serverOf(group), { stateFile }), put('a', 1));
    await stores.close();
    expect(existsSync(stateFile)).to.equal(true);
  });

  it('refuses a store of a newer version', async () => {
    group = await startRedis();
    await commit(await stores.open(serverOf(group)), put('a', 1));
    await group.servers[0]?.call('HSET', 'moorage:meta', 'format', '99');
    const error = await rejection(stores.open(serverOf(group)));
    expect(error).to.have.property('kind', 'newer-version');
    expect(`${error}`).to.contain('99');
  });
});

/** All that an error says, with its causes. */
function allOf(error: unknown): string {
  return error instanceof Error ? `${error.stack} ${allOf(error.cause)}` : String(error);
}
