import { chmod, chown, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'chai';
import { cleanUp } from '../helpers/clean-up.js';
import { type Guest, startGuest } from '../helpers/guest.js';
import { failureOf, HypervisorNode, moorage } from '../helpers/node.js';
import { type System, startSystem } from '../helpers/system.js';

const MEBIBYTE = 2 ** 20;

describe('a pool with keyring access', function () {
  this.timeout(300_000);
  const user = 'e2e-keyring-node';
  let system: System;
  let node: HypervisorNode;
  let guest: Guest;
  let keyring: string;
  let key: string;

  before(async () => {
    system = await startSystem({ name: 'e2e-keyring', keyringUser: user });
    const { stdout } = await system.cluster.ceph(
      ...['auth', 'get-or-create-key', `client.${user}`],
      ...['mon', 'profile rbd', 'osd', `profile rbd pool=${system.cephPool}`],
    );
    key = stdout.trim();
    node = await HypervisorNode.enrol(system, 'keyring-a');
    keyring = join(node.host.cephDirectory, `ceph.client.${user}.keyring`);
    guest = await startGuest({ host: node.host, name: 'web1' });
  });
  after(async () => {
    await cleanUp(
      () => node?.remove(),
      () => system?.cluster.ceph('auth', 'del', `client.${user}`),
      () => system?.remove(),
    );
  });

  it('uses the keyring of the node, and refuses one that is missing or that others may read', async () => {
    const { volume } = await system.client.createVolume({ poolId: 'main', sizeBytes: 16 * MEBIBYTE });
    const volumeId = volume?.id ?? '';
    const users = (await system.cluster.ceph('auth', 'ls')).stdout;
    const exported = await node.export(volumeId);
    expect(exported.payload.access).to.deep.equal({ mode: 'keyring', user });
    expect(users, 'Export makes no user').not.to.contain(exported.exportId);
    expect(await readFile(exported.file, 'utf8')).not.to.contain(key);
    const attach = () => node.storageUtils('attach', '--descriptor', exported.file, '--domain', 'web1', '--json');

    const missing = await failureOf(attach());
    expect(missing.exitCode, missing.message).to.equal(6);
    expect(missing.stderr).to.contain(`/etc/ceph/ceph.client.${user}.keyring`);
    await writeFile(keyring, `[client.${user}]\n\tkey = ${key}\n`);
    const kvm = Number(/^kvm:[^:]*:([0-9]+):/m.exec(await readFile('/etc/group', 'utf8'))?.[1]);
    for (const [owner, group, mode] of [
      [0, kvm, 0o644],
      [0, kvm, 0o660],
      [0, 0, 0o640],
      [65534, kvm, 0o640],
    ] as const) {
      await chown(keyring, owner, group);
      await chmod(keyring, mode);
      const refused = await failureOf(attach());
      expect(refused.exitCode, refused.message).to.equal(4);
      expect(refused.stderr).to.contain('chown root:kvm').and.not.to.contain(key);
      const { exitCode, stdout } = await failureOf(node.storageUtils('doctor', '--descriptor', exported.file));
      expect(exitCode, stdout).to.equal(1);
    }
    expect(await node.secrets()).to.deep.equal([]);

    await chown(keyring, 0, kvm);
    await chmod(keyring, 0o640);
    const { stdout: diagnosis } = await node.storageUtils('doctor', '--descriptor', exported.file);
    expect(diagnosis)
      .to.match(/^ok +keyring /m)
      .and.to.match(/^ok +ceph-conf .* 5 s$/m);
    const attached = await attach();
    expect(attached.stdout).not.to.contain(key);
    const disk = await guest.waitForDisk(volumeId);
    expect(await guest.command(`write-pattern ${disk.name} 3 0 ${8 * MEBIBYTE}`)).to.include({ ok: true });
    expect(await guest.command(`read-pattern ${disk.name} 3 0 ${8 * MEBIBYTE}`)).to.include({ ok: true });
    const open = await failureOf(moorage(system, 'unexport', exported.exportId));
    expect(open.exitCode, open.message).to.equal(4);
    await node.release(exported, 'web1');
    expect(await node.secrets()).to.deep.equal([]);
    expect((await system.cluster.ceph('auth', 'get-key', `client.${user}`)).stdout.trim()).to.equal(key);
  });
});
