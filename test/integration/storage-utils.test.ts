import { execFile } from 'node:child_process';
import { chmod, chown, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { DescriptorError } from '../../src/descriptor/index.js';
import {
  attach,
  connect,
  detach,
  disconnect,
  doctor,
  extend,
  inspect,
  LibvirtError,
  StorageUtilsError,
} from '../../src/storage-utils/index.js';
import { developmentDirectory } from '../helpers/cluster.js';
import { type Guest, type GuestAnswer, startGuest } from '../helpers/guest.js';
import { type ExportedVolume, type Fixture, startFixture } from './storage-utils-fixture.js';

const MIB = 2 ** 20;
const EXPIRED = { expires_at: '2020-01-01T00:00:00Z' };

async function failure(promise: Promise<unknown>): Promise<Error> {
  try {
    await promise;
  } catch (error) {
    return error as Error;
  }
  throw new Error('did not fail');
}

/** QEMU of a domain of this checkout's: other checkouts on this machine may have one of the same name. */
async function guestProcess(domain: string): Promise<number> {
  for (const entry of await readdir('/proc')) {
    const text = /^[0-9]+$/.test(entry) ? await readFile(`/proc/${entry}/cmdline`, 'utf8').catch(() => '') : '';
    if (text.includes(`guest=${domain},`) && text.includes(`${developmentDirectory}/`)) return Number(entry);
  }
  throw new Error(`no QEMU runs ${domain}`);
}

describe('storage-utils on a libvirt host and a running guest', function () {
  this.timeout(300_000);
  let fixture: Fixture;
  let guest: Guest;
  let volume: ExportedVolume;
  const domain = 'web1';

  before(async () => {
    fixture = await startFixture('node-utils');
    guest = await startGuest({ host: fixture.host, name: domain });
  });
  after(async () => {
    await guest?.destroy();
    await fixture?.remove();
  });
  beforeEach(async () => {
    volume = await fixture.exportVolume(64 * MIB);
  });
  afterEach(async () => {
    await detach({ volumeId: volume.volumeId }, { ...fixture.node, domain });
    await disconnect({ volumeId: volume.volumeId }, fixture.node);
    expect(await fixture.secrets()).to.deep.equal([]);
  });

  it('attaches, works, shows the new size, detaches and disconnects; each a second time with the same answer', async () => {
    const descriptor = volume.descriptor();
    const first = await attach(descriptor, { ...fixture.node, domain });
    expect(first).to.include({
      target: 'vda',
      volumeId: volume.volumeId,
      exportId: volume.exportId,
      wasAttached: false,
    });
    expect(first.guestSerial).to.equal(volume.volumeId.slice(0, 20));
    const again = await attach(descriptor, { ...fixture.node, domain });
    expect(again).to.deep.equal({ ...first, wasAttached: true });

    const disk = await guest.waitForDisk(volume.volumeId);
    expect(disk).to.include({ serial: first.guestSerial, size_bytes: 64 * MIB, read_only: false });
    expect((await guest.command(`write-pattern ${disk.name} 7 0 ${MIB}`)).ok).to.equal(true);

    await volume.expand(96 * MIB);
    const sizes = { ...fixture.node, domain, sizeBytes: 96 * MIB };
    for (const expired of [{}, EXPIRED]) {
      expect(await extend(volume.descriptor(expired), sizes)).to.include({ target: 'vda', sizeBytes: 96 * MIB });
    }
    expect(await guest.command<GuestAnswer>(`write-pattern ${disk.name} 8 ${95 * MIB} ${MIB}`)).to.have.property(
      'ok',
      true,
    );
    expect(await guest.command<GuestAnswer>(`read-pattern ${disk.name} 7 0 ${MIB}`)).to.have.property('ok', true);
    const smaller = await failure(extend(descriptor, { ...sizes, sizeBytes: 64 * MIB }));
    expect(smaller).to.be.instanceOf(StorageUtilsError).with.property('kind', 'refused');

    const detached = await detach({ descriptor: volume.descriptor(EXPIRED) }, { ...fixture.node, domain });
    expect(detached.wasAttached).to.equal(true);
    expect((await guest.disks()).map((each) => each.serial)).not.to.include(first.guestSerial);
    expect((await detach({ descriptor }, { ...fixture.node, domain })).wasAttached).to.equal(false);
    expect((await disconnect({ descriptor }, fixture.node)).disconnected).to.deep.equal([volume.exportId]);
    expect((await disconnect({ descriptor }, fixture.node)).disconnected).to.deep.equal([]);
  });

  it('connects from several processes at once, and the XML that it prints is what libvirt takes', async () => {
    const descriptor = volume.descriptor();
    const all = await Promise.all(
      Array.from({ length: 6 }, () => command(['connect', '--target', 'vdb', '--json'], descriptor)),
    );
    for (const { status, stdout, stderr } of all) {
      expect(status, stderr).to.equal(0);
      expect(JSON.parse(stdout)).to.deep.equal(JSON.parse(all[0]?.stdout ?? ''));
    }
    const { diskXml, secretUuid } = JSON.parse(all[0]?.stdout ?? '') as { diskXml: string; secretUuid: string };
    expect(await fixture.secrets()).to.deep.equal([secretUuid]);
    await guest.attachDisk(diskXml);
    await guest.waitForDisk(volume.volumeId);
    const other = await failure(attach(descriptor, { ...fixture.node, domain, target: 'vdc' }));
    expect(other.message).to.contain('as vdb, not vdc');
    expect(await fixture.secrets(), 'a refused attach leaves the secret of the disk in use').to.deep.equal([
      secretUuid,
    ]);
  });

  it('attaches two volumes at once, each under a name of its own, on scsi with its whole id as serial number', async () => {
    const second = await fixture.exportVolume(32 * MIB);
    const results = await Promise.all(
      [volume, second].map((each) => attach(each.descriptor(), { ...fixture.node, domain, bus: 'scsi' })),
    );
    expect(results.map((each) => each.target).sort()).to.deep.equal(['sda', 'sdb']);
    for (const each of [volume, second]) {
      expect((await guest.waitForDisk(each.volumeId)).serial).to.equal(each.volumeId);
    }
    await detach({ volumeId: second.volumeId }, { ...fixture.node, domain });
    await disconnect({ exportId: second.exportId }, fixture.node);
  });

  it('lets a guest only read a volume that is exported so', async () => {
    await attach(volume.descriptor({ read_only: true }), { ...fixture.node, domain });
    expect(await guest.waitForDisk(volume.volumeId)).to.have.property('read_only', true);
  });

  it('leaves no secret behind when attaching fails', async () => {
    const missing = volume.descriptor({ image: { name: `${volume.volumeId}.missing` } });
    const absent = await failure(attach(missing, { ...fixture.node, domain }));
    expect(absent).to.have.property('kind', 'libvirt');
    expect(absent.message).to.contain('cannot be opened').and.not.to.contain(volume.key);
    expect(await fixture.secrets()).to.deep.equal([]);
    const address = { type: 'pci', domain: '0x0000', bus: '0xfe', slot: '0x00', function: '0x0' };
    const failed = await failure(attach(volume.descriptor(), { ...fixture.node, domain, address }));
    expect(failed).to.be.instanceOf(LibvirtError);
    expect(failed.message).not.to.contain(volume.key);
    expect(await fixture.secrets()).to.deep.equal([]);
    const nowhere = await failure(attach(volume.descriptor(), { ...fixture.node, domain: 'web9' }));
    expect(nowhere).to.have.property('kind', 'not-found');
    const taken = await failure(connect(volume.descriptor(EXPIRED), { ...fixture.node, target: 'vdb' }));
    expect(taken).to.be.instanceOf(DescriptorError).with.property('code', 'expired');
    expect(await fixture.secrets()).to.deep.equal([]);
  });

  it('refuses a descriptor whose export was withdrawn, and the guest does not wait for it', async () => {
    const descriptor = volume.descriptor();
    await fixture.cluster.ceph('auth', 'del', `client.${volume.user}`);
    const refused = await failure(attach(descriptor, { ...fixture.node, domain, timeoutMs: 3_000 }));
    expect(refused).to.have.property('kind', 'timeout');
    expect(refused.message).to.contain('call Export again').and.not.to.contain(volume.key);
    // QEMU's monitor answers: nothing in it waits for Ceph.
    await fixture.host.virsh('qemu-monitor-command', domain, '--hmp', 'info status');
    expect(await fixture.secrets()).to.deep.equal([]);
  });

  it('says that the secret stays when libvirt does not attach in time', async () => {
    const pid = await guestProcess(domain);
    process.kill(pid, 'SIGSTOP');
    try {
      const late = await failure(attach(volume.descriptor(), { ...fixture.node, domain, timeoutMs: 3_000 }));
      expect(late).to.have.property('kind', 'timeout');
      expect(late.message).to.contain(`secret of ${volume.exportId} stays`);
      expect(await fixture.secrets()).to.have.lengthOf(1);
    } finally {
      process.kill(pid, 'SIGCONT');
    }
    const again = await attach(volume.descriptor(), { ...fixture.node, domain });
    expect(again.secretUuid).to.be.a('string');
    await guest.waitForDisk(volume.volumeId);
  });

  it('refuses a disk that is attached through another export', async () => {
    await attach(volume.descriptor(), { ...fixture.node, domain });
    const other = volume.descriptor({ export_id: 'exp-00000000000000000' });
    expect((await failure(attach(other, { ...fixture.node, domain }))).message).to.contain('another export');
    expect(await fixture.secrets()).to.have.lengthOf(1);
  });

  it('says when the guest does not let go of a disk, and detaches it when it does', async () => {
    await attach(volume.descriptor(), { ...fixture.node, domain });
    await guest.waitForDisk(volume.volumeId);
    await fixture.host.virsh('suspend', domain);
    try {
      const kept = await failure(
        detach({ volumeId: volume.volumeId }, { ...fixture.node, domain, releaseTimeoutMs: 500 }),
      );
      expect(kept).to.have.property('kind', 'timeout');
      expect(kept.message).to.contain('has not let go').and.to.contain('vda');
    } finally {
      await fixture.host.virsh('resume', domain);
    }
    expect((await detach({ volumeId: volume.volumeId }, { ...fixture.node, domain })).wasAttached).to.equal(true);
    expect((await fixture.host.virsh('dumpxml', domain)).stdout).not.to.contain(volume.volumeId);
  });

  it('uses a keyring of the node, and refuses one that others may read', async () => {
    const kvm = Number(/^kvm:[^:]*:([0-9]+):/m.exec(await readFile('/etc/group', 'utf8'))?.[1]);
    const path = join(fixture.node.keyringDirectory ?? '', `ceph.client.${volume.user}.keyring`);
    const descriptor = volume.descriptor({ access: { mode: 'keyring', user: volume.user } });
    expect(await failure(attach(descriptor, { ...fixture.node, domain }))).to.have.property('kind', 'not-found');
    await writeFile(path, `[client.${volume.user}]\n\tkey = ${volume.key}\n`);
    await chown(path, 0, kvm);
    await chmod(path, 0o644);
    const refused = await failure(attach(descriptor, { ...fixture.node, domain }));
    expect(refused).to.have.property('kind', 'refused');
    expect(refused.message).to.contain(path).and.to.contain('0644');
    expect((await doctor({ ...fixture.node, descriptor })).healthy).to.equal(false);
    expect(await fixture.secrets()).to.deep.equal([]);
    await chmod(path, 0o640);
    const attached = await attach(descriptor, { ...fixture.node, domain });
    expect(attached.warnings.join()).to.contain('keyring access');
    await guest.waitForDisk(volume.volumeId);
    const diagnosis = await doctor({ ...fixture.node, descriptor });
    expect(diagnosis.checks.filter((check) => check.result === 'wrong')).to.deep.equal([]);
    expect(diagnosis.checks.map((check) => check.name)).to.include.members(['libvirt', 'qemu-rbd', 'keyring', 'clock']);
  });

  it('ends in time while libvirtd hangs', async () => {
    const pid = await fixture.host.pid();
    process.kill(pid, 'SIGSTOP');
    try {
      const { status, stderr } = await command(['connect', '--target', 'vdb', '--timeout', '1'], volume.descriptor());
      expect(status, stderr).to.equal(7);
      expect(stderr).to.contain('did not answer within 1000 ms');
    } finally {
      process.kill(pid, 'SIGCONT');
    }
  });

  it('shows the key nowhere: no argument, no environment, no file, no output', async () => {
    const descriptor = volume.descriptor();
    const needles = [volume.key, Buffer.from(volume.key, 'base64').toString('hex')];
    let found: string[] = [];
    let looking = true;
    const watcher = (async () => {
      while (looking) found = found.concat(await processesThatShow(needles));
    })();
    const outputs = [
      await command(['attach', '--domain', domain], descriptor),
      await command(['connect', '--target', 'vda', '--json'], descriptor),
      await command(['inspect'], descriptor),
      await command(['doctor'], descriptor),
    ];
    looking = false;
    await watcher;
    expect(found).to.deep.equal([]);
    for (const { status, stdout, stderr } of outputs) {
      expect(status, stderr).to.equal(0);
      expect(needles.some((needle) => (stdout + stderr).includes(needle))).to.equal(false);
    }
    expect(JSON.stringify(await inspect(descriptor, fixture.node))).not.to.contain(volume.key);
    for (const folder of [fixture.directory, fixture.host.directory]) {
      expect(await filesThatHold(folder, needles)).to.deep.equal([]);
    }
    const uuid = (await fixture.secrets())[0] ?? '';
    expect((await failure(fixture.host.virsh('secret-get-value', uuid))).message).to.match(/private/);
  });

  function command(parameters: string[], input: string): Promise<{ status: number; stdout: string; stderr: string }> {
    const program = fileURLToPath(new URL('../../src/bin/storage-utils.ts', import.meta.url));
    const { keyFile = '', libvirtUri = '', lockDirectory = '' } = fixture.node;
    const places = ['--connect-uri', libvirtUri, '--lock-directory', lockDirectory];
    const where = parameters[0] === 'inspect' ? [] : places;
    const all = ['--import', 'tsx', program, ...parameters, '--descriptor', '-', '--key-file', keyFile, ...where];
    return new Promise((resolve) => {
      const child = execFile(process.execPath, all, (error, stdout, stderr) => {
        resolve({ status: error === null ? 0 : Number(error.code), stdout, stderr });
      });
      child.stdin?.end(input);
    });
  }
});

async function processesThatShow(needles: readonly string[]): Promise<string[]> {
  const found: string[] = [];
  for (const pid of (await readdir('/proc')).filter((name) => /^[0-9]+$/.test(name))) {
    for (const file of ['cmdline', 'environ']) {
      // A process may end while it is looked at.
      const text = await readFile(`/proc/${pid}/${file}`, 'latin1').catch(() => '');
      if (needles.some((needle) => text.includes(needle))) found.push(`${file} of ${pid}: ${text.slice(0, 60)}`);
    }
  }
  return found;
}

async function filesThatHold(directory: string, needles: readonly string[]): Promise<string[]> {
  const found: string[] = [];
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    const text = await readFile(path, 'latin1');
    if (needles.some((needle) => text.includes(needle))) found.push(path);
  }
  return found;
}
