import { randomUUID } from 'node:crypto';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'chai';
import { type Cluster, startCluster } from '../helpers/cluster.js';
import { execute } from '../helpers/exec.js';
import { type Guest, type RecordsReport, startGuest, type WriterStatus } from '../helpers/guest.js';
import { type LibvirtHost, startLibvirtHost } from '../helpers/libvirt-host.js';
import { waitFor } from '../helpers/wait.js';

const mebibyte = 1024 * 1024;

describe('the test guest on a libvirt host of its own', () => {
  const secretUuid = randomUUID();
  const image = `guest-test-${process.pid}`;
  let cluster: Cluster;
  let host: LibvirtHost;
  let guest: Guest | undefined;

  function disk(name: string, target: string, serial: string): string {
    const hosts = cluster.monitors.map((each) => `<host name='${each.host}' port='${each.v1Port}'/>`).join('');
    const bus = target.startsWith('sd') ? 'scsi' : 'virtio';
    return `<disk type='network' device='disk'><driver name='qemu' type='raw' cache='none' discard='unmap'/>
      <auth username='admin'><secret type='ceph' uuid='${secretUuid}'/></auth>
      <source protocol='rbd' name='moorage/${name}'>${hosts}</source>
      <target dev='${target}' bus='${bus}'/><serial>${serial}</serial></disk>`;
  }

  before(async function () {
    this.timeout(300_000);
    cluster = await startCluster();
    host = await startLibvirtHost('test-guest');
    const secretFile = join(host.directory, 'secret');
    const xml = `<secret ephemeral='yes' private='yes'><uuid>${secretUuid}</uuid><usage type='ceph'><name>test</name></usage></secret>`;
    await host.virshWithXml(xml, 'secret-define', '/dev/stdin');
    const key = (await cluster.ceph('auth', 'get-key', 'client.admin')).stdout;
    await writeFile(secretFile, key, { mode: 0o600 });
    try {
      await host.virsh('secret-set-value', secretUuid, '--file', secretFile);
    } finally {
      await rm(secretFile);
    }
    for (const suffix of ['a', 'b', 'c']) await cluster.rbd('create', '--size', '64', `moorage/${image}-${suffix}`);
    guest = await startGuest({ host, name: 'test-guest', disksXml: [disk(`${image}-a`, 'vda', 'first')] });
  });

  after(async function () {
    this.timeout(300_000);
    await guest?.destroy();
    await host?.remove();
    for (const suffix of ['a', 'b', 'c']) await cluster?.rbd('rm', '--no-progress', `moorage/${image}-${suffix}`);
  });

  function running(): Guest {
    if (guest === undefined) throw new Error('there is no guest');
    return guest;
  }

  it('has its own host name and its own /etc/ceph', async () => {
    expect((await host.run('hostname', [])).stdout.trim()).to.equal('test-guest');
    await writeFile(join(host.cephDirectory, 'mark'), '');
    expect((await host.run('ls', ['/etc/ceph'])).stdout.trim()).to.equal('mark');
    expect((await execute('hostname', [])).stdout.trim()).not.to.equal('test-guest');
  });

  it('writes a pattern on its disk and reads it back, and finds what differs', async () => {
    expect(await running().disks()).to.deep.equal([
      { name: 'vda', size_bytes: 64 * mebibyte, serial: 'first', read_only: false },
    ]);
    const written = await running().command(`write-pattern vda 7 ${8 * mebibyte} ${8 * mebibyte}`);
    expect(written).to.include({ ok: true, bytes: 8 * mebibyte });
    expect(await running().command(`read-pattern vda 7 ${8 * mebibyte} ${8 * mebibyte}`)).to.include({ ok: true });
    await running().command(`write-pattern vda 8 ${12 * mebibyte} 512`);
    expect(await running().command(`read-pattern vda 7 ${8 * mebibyte} ${8 * mebibyte}`)).to.include({
      ok: false,
      mismatch: 12 * mebibyte,
    });
    const first = await running().command(`checksum vda 0 ${16 * mebibyte}`);
    expect(await running().command(`checksum vda 0 ${16 * mebibyte}`)).to.deep.equal(first);
  });

  it('takes disks while it runs, virtio and SCSI, writes on all at once, and lets go of them', async () => {
    const added = [disk(`${image}-b`, 'vdb', 'second'), disk(`${image}-c`, 'sda', 'third')];
    for (const xml of added) await running().attachDisk(xml);
    const second = (await running().waitForDisk('second')).name;
    const third = (await running().waitForDisk('third')).name;
    const names = ['vda', second, third];
    for (const name of names) {
      expect(await running().command(`start-writer ${name} 1`)).to.include({ ok: true, running: true });
    }
    for (const name of names) {
      await waitFor(`the writer on ${name} wrote 50 records`, async () => {
        const status = await running().command<WriterStatus>(`writer-status ${name}`);
        return status.records >= 50;
      });
    }
    for (const name of names) {
      const status = await running().command<WriterStatus>(`stop-writer ${name}`);
      expect(status).to.include({ ok: true, running: false, errors: 0 });
      const report = await running().command<RecordsReport>(`check-records ${name}`);
      expect(report).to.include({ ok: true, highest: status.last_number, corrupt: 0 });
    }
    for (const xml of added) await running().detachDisk(xml);
    expect(await running().disks()).to.have.length(1);
  });

  it('notices a record that was written over', async () => {
    const report = await running().command<RecordsReport>('check-records vda');
    expect(report).to.include({ ok: true });
    await running().command('write-pattern vda 1 4096 4096');
    expect(await running().command('check-records vda')).to.include({
      ok: false,
      corrupt: 1,
      out_of_order: 1,
      first_bad_slot: 1,
    });
  });

  it('says what went wrong', async () => {
    expect(await running().command('size /dev/nothing')).to.include({ ok: false, errno: 2 });
    expect((await running().command('dance')).error).to.contain('no such command');
    expect((await running().command('read-pattern vda -1 0 512')).error).to.contain('not a number');
  });
});
