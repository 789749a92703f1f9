import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { parse } from 'yaml';
import { ConfigurationError, configurationJsonSchema, loadConfiguration } from '../../src/config/index.js';

const example = fileURLToPath(new URL('../../examples/controller.yaml', import.meta.url));
const redisExample = fileURLToPath(new URL('../../examples/controller-redis.yaml', import.meta.url));

const least = `
listeners: [{address: "127.0.0.1:0", plaintext: {role: admin}}]
master_key: {file: master.key}
`;

describe('the configuration', () => {
  let folder: string;
  let file: string;
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'moorage-config-'));
    file = join(folder, 'controller.yaml');
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  function load(text: string, environment = {}, flags: readonly string[] = []) {
    writeFileSync(file, text);
    return loadConfiguration({ file, environment, flags });
  }

  function problems(text: string, environment = {}, flags: readonly string[] = []): string {
    try {
      load(text, environment, flags);
    } catch (error) {
      expect(error).to.be.instanceOf(ConfigurationError);
      return (error as Error).message;
    }
    throw new Error('it was taken');
  }

  describe('examples/controller.yaml', () => {
    it('is a configuration', () => {
      const configuration = loadConfiguration({ file: example, environment: {}, flags: [] });
      expect(configuration.clusters).to.have.property('main');
      expect(configuration.journal.beat_timeout).to.equal(10_000);
    });

    it('shows what applies without it, where it is not required', () => {
      const shown = loadConfiguration({ file: example, environment: {}, flags: [] });
      const defaults = load(least);
      for (const section of [
        'journal',
        'deadlines',
        'reaper',
        'limits',
        'agents',
        'fencing',
        'log',
        'shutdown',
        'store',
      ] as const) {
        expect(shown[section], section).to.deep.equal(defaults[section]);
      }
    });

    it('has one beside it for Redis, which shows what applies there', () => {
      const shown = loadConfiguration({ file: redisExample, environment: {}, flags: [] }).store.redis;
      const defaults = load(`${least}\nstore: {redis: {server: "redis:6379"}}`).store.redis;
      const { replicas, persistence, prefix, commit_timeout, call_timeout, replica_timeout } = defaults ?? {};
      expect(shown).to.include({ replicas, persistence, prefix, commit_timeout, call_timeout, replica_timeout });
      expect(shown?.sentinel?.servers).to.have.length(3);
    });

    it('has every setting of the schema', () => {
      interface Schema {
        properties?: Record<string, Schema>;
        items?: Schema;
        additionalProperties?: Schema | false;
      }
      const collect = (schema: Schema, path: string): string[] => {
        if (schema.properties !== undefined)
          return Object.entries(schema.properties).flatMap(([key, child]) => collect(child, `${path}.${key}`));
        if (schema.items !== undefined) return collect(schema.items, `${path}[]`);
        if (schema.additionalProperties) return collect(schema.additionalProperties, `${path}.<name>`);
        return [path];
      };
      const shown = new Set<string>();
      const walk = (value: unknown, path: string): void => {
        if (Array.isArray(value)) for (const item of value) walk(item, `${path}[]`);
        else if (typeof value === 'object' && value !== null)
          for (const [key, child] of Object.entries(value))
            walk(child, path === '.clusters' ? `${path}.<name>` : `${path}.${key}`);
        else shown.add(path);
      };
      const text = readFileSync(example, 'utf8');
      walk(parse(text), '');
      walk(parse(readFileSync(redisExample, 'utf8')), '');
      const settings = collect(configurationJsonSchema() as Schema, '');
      expect(settings.length).to.be.above(30);
      for (const setting of settings) {
        // Those that exclude another stand in a comment.
        if (setting === '.master_key.file_descriptor') expect(text).to.contain('file_descriptor: 3');
        else if (setting === '.store.redis.server') {
          expect(readFileSync(redisExample, 'utf8')).to.contain('server: redis.example.net:6379');
        } else expect([...shown], setting).to.include(setting);
      }
    });
  });

  it('needs no more than a listener and a master key, and finds paths beside itself', () => {
    const configuration = load(least);
    expect(configuration.master_key).to.deep.equal({ file: join(folder, 'master.key') });
    expect(configuration.limits).to.include({ message_size: 1_048_576, clone_depth: 14 });
    expect(configuration.listeners[0]?.plaintext).to.deep.equal({ role: 'admin', socket_mode: '0600' });
  });

  it('takes the environment over the file, and flags over both', () => {
    const text = `${least}\nlog: {level: warn}\njournal: {beat_timeout: 2s}\n`;
    expect(load(text).log.level).to.equal('warn');
    const environment = {
      MOORAGE_LOG__LEVEL: 'debug',
      MOORAGE_LIMITS__MESSAGE_SIZE: '4MiB',
      MOORAGE_LISTENERS: '[{address: "unix:/run/m.sock", plaintext: {role: reader}}]',
      MOORAGE_ENDPOINT: 'unix:/of-the-client.sock',
      MOORAGE_SOMETHING_OF_A_SCRIPT: '1',
      PATH: '/bin',
    };
    const configuration = load(text, environment, ['log.level=error', 'clusters={}']);
    expect(configuration.log.level).to.equal('error');
    expect(configuration.limits.message_size).to.equal(4 * 1024 * 1024);
    expect(configuration.listeners[0]?.address).to.equal('unix:/run/m.sock');
    expect(configuration.journal.beat_timeout).to.equal(2000);
  });

  it('finds what the store on Redis reads beside itself', () => {
    const redis =
      '{sentinel: {name: m, servers: ["a:1"], user: s, password_file: s.pw}, user: u, password_file: u.pw, tls: {ca: c}}';
    const { store } = load(`${least}\nstore: {redis: ${redis}}`);
    expect(store.sqlite).to.equal(undefined);
    expect(store.redis).to.include({ password_file: join(folder, 'u.pw'), replicas: 1 });
    expect(store.redis?.sentinel?.password_file).to.equal(join(folder, 's.pw'));
    expect(store.redis?.tls).to.deep.equal({ ca: join(folder, 'c') });
  });

  const onRedis = (settings: string): string => `${least}\nstore: {redis: {${settings}}}`;
  const refused: [string, string, ...string[]][] = [
    ['two stores', `${least}\nstore: {sqlite: {path: a}, redis: {server: "a:1"}}`, 'either sqlite or redis'],
    ['no store', `${least}\nstore: {}`, 'either sqlite or redis'],
    ['Redis without a place', onRedis(''), 'either server or sentinel'],
    ['Redis on a socket', onRedis('server: "unix:/run/redis.sock"'), 'store.redis.server', 'host:port'],
    ['no Sentinels', onRedis('sentinel: {name: m, servers: []}'), 'store.redis.sentinel.servers'],
    ['a Redis user without a password', onRedis('server: "a:1", user: u'), 'store.redis.password_file'],
    ['half a certificate for Redis', onRedis('server: "a:1", tls: {ca: c, key: k}'), 'store.redis.tls', 'both'],
    ['a prefix that ACLs take for a pattern', onRedis('server: "a:1", prefix: "m*:"'), 'store.redis.prefix'],
    [
      'commits that take longer than a beat',
      `${onRedis('server: "a:1", commit_timeout: 6s')}\njournal: {beat_timeout: 10s}`,
      ...['store.redis.commit_timeout', 'journal.beat_timeout'],
    ],
    ['an unknown setting', `${least}\nlimits: {mesage_size: 4MiB}`, 'limits.mesage_size', 'message_size'],
    ['an unknown section', `${least}\nlimit: {}`, '"limit"', 'limits'],
    ['an unknown setting of a cluster', `${least}\nclusters: {a: {conf: x}}`, 'clusters.a'],
    ['a duration without a unit', `${least}\njournal: {beat_timeout: 10}`, 'journal.beat_timeout', '10s'],
    ['a duration in a unit that is none', `${least}\njournal: {beat_timeout: 10m}`, 'journal.beat_timeout', 'min'],
    ['a duration too short', `${least}\njournal: {beat_timeout: 1ms}`, 'between 100ms and 5min'],
    ['a negative duration', `${least}\nreaper: {interval: -1s}`, 'reaper.interval'],
    ['a size in a unit that is none', `${least}\nlimits: {message_size: 4MB}`, 'limits.message_size', '4MiB'],
    ['a fractional number', `${least}\nlimits: {clone_depth: 1.5}`, 'limits.clone_depth', 'whole number'],
    ['a clone depth that the kernel cannot open', `${least}\nlimits: {clone_depth: 15}`, 'at most 14'],
    ['a lane as wide as the threads', `${least}\nagents: {threads: 8, lane: 8}`, 'agents.lane', 'less than threads'],
    ['a level that is none', `${least}\nlog: {level: loud}`, 'log.level', 'debug'],
    ['metrics for the whole network', `${least}\nmetrics: {address: "0.0.0.0:9"}`, 'metrics.address', 'loopback'],
    ['a cut-off shorter than a day', `${least}\nfencing: {cut_off_expiry: 1h}`, 'fencing.cut_off_expiry'],
    ['no listener', 'master_key: {file: k}', 'listeners'],
    ['no master key', 'listeners: [{address: "127.0.0.1:0", plaintext: {role: admin}}]', 'master_key', 'required'],
    ['two master keys', `${least.replace('file: master.key', 'file: k, file_descriptor: 3')}`, 'either file or'],
    [
      'a listener without security',
      'listeners: [{address: "127.0.0.1:1"}]\nmaster_key: {file: k}',
      'one of tls, enrollment and plaintext',
    ],
    ['plain text beyond this host', least.replace('127.0.0.1:0', '10.0.0.1:1'), 'listeners.0.plaintext', 'loopback'],
    ['an address that is none', least.replace('127.0.0.1:0', '127.0.0.1'), 'listeners.0.address', 'host:port'],
    ['a port that is none', least.replace('127.0.0.1:0', '127.0.0.1:99999'), 'listeners.0.address'],
    ['a socket path too long', least.replace('127.0.0.1:0', `unix:/${'x'.repeat(110)}`), 'at most 107'],
    ['a role that is none', least.replace('role: admin', 'role: root'), 'admin, node or reader'],
    [
      'a Ceph user with its prefix',
      `${least}\nclusters: {a: {ceph_configuration: c, data: {user: client.x, keyring: k}, fence: {user: y, keyring: k}}}`,
      'clusters.a.data.user',
      'without "client."',
    ],
    ['YAML that is none', 'listeners: [', 'controller.yaml'],
    ['a key that comes twice', `${least}\nlog: {level: info}\nlog: {level: debug}`, 'unique'],
    ['a list', '[1, 2]', 'must be settings'],
  ];
  for (const [what, text, ...expected] of refused) {
    it(`refuses ${what}`, () => {
      const message = problems(text);
      for (const part of expected) expect(message).to.contain(part);
    });
  }

  it('says which variable or flag is wrong', () => {
    expect(problems(least, { MOORAGE_LOG__LEVEL: 'loud' })).to.contain('MOORAGE_LOG__LEVEL');
    expect(problems(least, { MOORAGE_LOGS__LEVEL: 'info' })).to.contain('MOORAGE_LOGS__LEVEL');
    expect(problems(least, {}, ['log.level=loud'])).to.contain('--set');
    expect(problems(least, {}, ['log.level'])).to.contain('setting=value');
    expect(problems(least, {}, ['__proto__.polluted=1'])).to.contain('__proto__');
    expect(({} as Record<string, unknown>).polluted).to.equal(undefined);
  });

  it('does not quote a file that is no configuration: it may be a keyring', () => {
    expect(problems('[client.admin]\n\tkey = AQCOxzNnAAAAABAAqZn2S3b0m0jJ0h5rIxk3qA==\n')).not.to.contain('AQCO');
  });

  it('reports everything that is wrong at once', () => {
    const message = problems(`${least}\nlog: {level: loud}\nlimits: {clone_depth: 99}`);
    expect(message).to.contain('log.level').and.to.contain('limits.clone_depth');
  });

  it('names a file that is not there', () => {
    expect(() => loadConfiguration({ file: join(folder, 'none.yaml'), environment: {}, flags: [] })).to.throw(
      ConfigurationError,
      'none.yaml',
    );
  });
});
