import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, chown, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { exportSecretUuid } from '../../src/storage-utils/connectors/rbd.js';
import { StorageUtilsError, type StorageUtilsErrorKind } from '../../src/storage-utils/errors.js';
import { mountTimeoutSeconds } from '../../src/storage-utils/host/ceph-conf.js';
import { findOpenKeyrings, keyringPath, readKeyring } from '../../src/storage-utils/host/keyring.js';
import { withLock } from '../../src/storage-utils/host/locks.js';

const KEY = 'AQCOxzNnAAAAABAAqZn2S3b0m0jJ0h5rIxk3qA==';

async function refusal(action: () => Promise<unknown>, kind: StorageUtilsErrorKind): Promise<string> {
  try {
    await action();
  } catch (error) {
    expect(error).to.be.instanceOf(StorageUtilsError).with.property('kind', kind);
    expect((error as Error).message).not.to.contain(KEY);
    return (error as Error).message;
  }
  throw new Error('was not refused');
}

describe('storage-utils: ceph.conf', () => {
  let directory: string;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'moorage-ceph-conf-'));
  });
  afterEach(() => rm(directory, { recursive: true, force: true }));

  for (const [text, seconds] of [
    ['[client]\nclient_mount_timeout = 10\n', 10],
    ['[global]\nfsid = x\nclient mount timeout=7.5 # why\n', 7.5],
    ['[client]\n client-mount-timeout = 10\n[global]\nclient_mount_timeout = 60\n', 10],
    ['[osd]\nclient_mount_timeout = 10\n[client.other]\nclient_mount_timeout = 10\n', undefined],
    ['[client]\n# client_mount_timeout = 10\n', undefined],
  ] as const) {
    it(`${JSON.stringify(text)} gives up connecting after ${seconds ?? 'its usual'} seconds`, async () => {
      await writeFile(join(directory, 'ceph.conf'), text);
      expect(await mountTimeoutSeconds(directory)).to.equal(seconds);
    });
  }

  it('one that is not there says nothing', async () => {
    expect(await mountTimeoutSeconds(directory)).to.equal(undefined);
  });
});

describe('storage-utils: keyring', () => {
  let directory: string;
  let path: string;
  let kvm: number;
  beforeEach(async () => {
    kvm = Number(/^kvm:[^:]*:([0-9]+):/m.exec(await readFile('/etc/group', 'utf8'))?.[1]);
    directory = await mkdtemp(join(tmpdir(), 'moorage-keyring-'));
    path = keyringPath('nodes', directory);
    await writeFile(
      path,
      `[client.other]\n\tkey = AQAAAA==\n[client.nodes]\n\tkey = ${KEY}\n\tcaps mon = "profile rbd"\n`,
    );
    await chown(path, 0, kvm);
    await chmod(path, 0o640);
  });
  afterEach(() => rm(directory, { recursive: true, force: true }));

  it('is read when it is root:kvm and 0640 or tighter', async () => {
    for (const mode of [0o640, 0o600, 0o440, 0o400]) {
      await chmod(path, mode);
      expect((await readKeyring('nodes', directory)).toString('base64')).to.equal(KEY);
    }
    expect(await findOpenKeyrings(directory)).to.deep.equal([]);
  });

  it('is refused with a looser mode: file, owner, mode and remedy are named', async () => {
    for (const mode of [0o644, 0o641, 0o660, 0o750, 0o604]) {
      await chmod(path, mode);
      const message = await refusal(() => readKeyring('nodes', directory), 'refused');
      expect(message)
        .to.contain(path)
        .and.to.contain(`0:${kvm}`)
        .and.to.contain(`0${mode.toString(8)}`);
      expect(message).to.contain(`chown root:kvm ${path}`).and.to.contain(`chmod 0640 ${path}`);
    }
    await chmod(path, 0o644);
    await symlink(join(directory, 'nowhere'), keyringPath('dangling', directory));
    expect(await findOpenKeyrings(directory)).to.deep.equal([path]);
  });

  it('is refused with another owner or group', async () => {
    await chown(path, 1, kvm);
    expect(await refusal(() => readKeyring('nodes', directory), 'refused')).to.contain('owner must be root');
    await chown(path, 0, 0);
    expect(await refusal(() => readKeyring('nodes', directory), 'refused')).to.contain('group must be kvm');
  });

  it('is refused when missing, a link, or without the key of the user', async () => {
    expect(await refusal(() => readKeyring('nobody', directory), 'not-found')).to.contain('ceph.client.nobody.keyring');
    await symlink(path, keyringPath('linked', directory));
    await refusal(() => readKeyring('linked', directory), 'refused');
    await writeFile(path, `[client.other]\n\tkey = ${KEY}\n`);
    expect(await refusal(() => readKeyring('nodes', directory), 'refused')).to.contain('[client.nodes]');
  });
});

describe('storage-utils: locks between processes', () => {
  let directory: string;
  const children: ChildProcess[] = [];
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'moorage-locks-'));
  });
  afterEach(async () => {
    for (const child of children.splice(0)) {
      child.kill('SIGKILL');
    }
    await rm(directory, { recursive: true, force: true });
  });

  async function holder(): Promise<ChildProcess> {
    const module = fileURLToPath(new URL('../../src/storage-utils/host/locks.ts', import.meta.url));
    const script = `import { withLock } from ${JSON.stringify(module)};
      await withLock(${JSON.stringify(directory)}, 'export', 'exp-a', 1000, () => { console.log('held'); return new Promise(() => setInterval(() => {}, 1000)); });`;
    const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    children.push(child);
    await once(child.stdout, 'data');
    return child;
  }

  it('lets one work at a time in one process too', async () => {
    let inside = 0;
    let most = 0;
    await Promise.all(
      Array.from({ length: 10 }, () =>
        withLock(directory, 'export', 'exp-a', 60_000, async () => {
          inside++;
          most = Math.max(most, inside);
          await new Promise((resolve) => setImmediate(resolve));
          inside--;
        }),
      ),
    );
    expect(most).to.equal(1);
  });

  it('waits for another process, and says so when it takes too long; families do not wait for each other', async () => {
    await holder();
    const message = await refusal(() => withLock(directory, 'export', 'exp-a', 50, async () => undefined), 'busy');
    expect(message).to.contain('exp-a');
    expect(await withLock(directory, 'domain', 'exp-a', 50, async () => 'free')).to.equal('free');
  });

  it('is free when its holder is killed', async () => {
    const child = await holder();
    child.kill('SIGKILL');
    expect(await withLock(directory, 'export', 'exp-a', 60_000, async () => 'free')).to.equal('free');
  });

  it('is free after the work failed', async () => {
    await withLock(directory, 'export', 'exp-a', 50, () => Promise.reject(new Error('work failed'))).catch(
      () => undefined,
    );
    expect(await withLock(directory, 'export', 'exp-a', 50, async () => 'free')).to.equal('free');
  });
});

describe('storage-utils: the UUID of an export’s secret', () => {
  it('is UUID v5 of the cluster and the export', () => {
    // RFC 9562, appendix A.4: the name "www.example.com" in the namespace of DNS.
    const dns = { cluster_id: '6ba7b810-9dad-11d1-80b4-00c04fd430c8', ceph_pool: 'p', monitors: ['a:1'] };
    expect(exportSecretUuid(dns, 'www.example.com')).to.equal('2ed6657d-e927-568b-95e1-2665a8aea6a2');
  });
});
