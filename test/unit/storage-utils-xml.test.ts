import { spawnSync } from 'node:child_process';
import { expect } from 'chai';
import { XMLParser } from 'fast-xml-parser';
import { StorageUtilsError } from '../../src/storage-utils/errors.js';
import { secretXml } from '../../src/storage-utils/libvirt/secrets.js';
import {
  BUSES,
  checkDiskOptions,
  type DiskOptions,
  detachXml,
  guestSerial,
  nextTarget,
  parseDomainDisks,
  type RbdDisk,
  rbdDiskXml,
} from '../../src/storage-utils/libvirt/xml.js';

const SCHEMAS = '/usr/share/libvirt/schemas';
const VOLUME = 'vol-fedcba98765432100';

const disk: RbdDisk = {
  source: {
    name: `volumes/${VOLUME}`,
    hosts: [
      { name: '10.0.0.1', port: 3300 },
      { name: 'fd00::1', port: 6789 },
      { name: 'mon-c.example.org', port: 3300 },
    ],
    user: 'nodes',
    secretUuid: '4f645e3f-e116-5790-a6a0-3f206ec9527c',
  },
  serial: VOLUME,
  target: 'vdb',
  readOnly: false,
  shareable: false,
};

function wrapped(...disks: string[]): string {
  return `<domain type='kvm'><name>web1</name><memory>1</memory><os><type>hvm</type></os><devices>${disks.join('')}</devices></domain>`;
}

function validate(schema: string, xml: string): { ok: boolean; said: string } {
  const run = spawnSync('xmllint', ['--noout', '--relaxng', `${SCHEMAS}/${schema}`, '-'], {
    input: xml,
    encoding: 'utf8',
  });
  expect(run.error).to.equal(undefined);
  return { ok: run.status === 0, said: run.stderr };
}

const everything: DiskOptions = {
  cache: 'writeback',
  io: 'io_uring',
  discard: 'ignore',
  detectZeroes: 'unmap',
  iotune: { total_iops_sec: 1000, read_bytes_sec: 1_000_000, write_bytes_sec: 2_000_000, total_iops_sec_max: 2000 },
  address: { type: 'pci', domain: '0x0000', bus: '0x04', slot: '0x00', function: '0x0' },
  bootOrder: 2,
};

describe('storage-utils: disk XML', () => {
  it("is valid against libvirt's schema, plain and with everything, on every bus", () => {
    const shapes: [string, RbdDisk, DiskOptions][] = [
      ['plain', disk, {}],
      ['everything', { ...disk, readOnly: true, shareable: true }, everything],
      ...BUSES.map((bus): [string, RbdDisk, DiskOptions] => [bus, { ...disk, target: nextTarget(bus, []) }, { bus }]),
    ];
    for (const [name, each, options] of shapes) {
      const result = validate('domain.rng', wrapped(rbdDiskXml(each, options)));
      expect(result.ok, `${name}: ${result.said}`).to.equal(true);
      expect(
        validate('domain.rng', wrapped(detachXml({ target: each.target, bus: options.bus ?? 'virtio' }))).ok,
      ).to.equal(true);
    }
    expect(validate('domain.rng', wrapped('<disk type="network"/>')).ok, 'the schema refuses nonsense').to.equal(false);
  });

  it("has one thing that libvirt's parser takes and its schema does not: a dot in the cephx user", () => {
    const withUser = (user: string) => wrapped(rbdDiskXml({ ...disk, source: { ...disk.source, user } }, {}));
    expect(validate('domain.rng', withUser('moorage.exp-0123456789abcdef0')).ok).to.equal(false);
    expect(validate('domain.rng', withUser('moorage-exp-0123456789abcdef0')).ok).to.equal(true);
  });

  it('says what was asked', () => {
    const parsed = new XMLParser({ ignoreAttributes: false, attributeNamePrefix: '@' }).parse(
      rbdDiskXml({ ...disk, readOnly: true, shareable: true }, everything),
    ).disk;
    expect(parsed.driver).to.deep.equal({
      '@name': 'qemu',
      '@type': 'raw',
      '@cache': 'writeback',
      '@io': 'io_uring',
      '@discard': 'ignore',
      '@detect_zeroes': 'unmap',
    });
    expect(parsed.source['@name']).to.equal(`volumes/${VOLUME}`);
    expect(parsed.source.host).to.deep.equal([
      { '@name': '10.0.0.1', '@port': '3300' },
      { '@name': 'fd00::1', '@port': '6789' },
      { '@name': 'mon-c.example.org', '@port': '3300' },
    ]);
    expect(parsed.source.auth).to.deep.equal({
      secret: { '@type': 'ceph', '@uuid': disk.source.secretUuid },
      '@username': 'nodes',
    });
    expect(parsed.serial).to.equal(VOLUME);
    expect(parsed.target).to.deep.equal({ '@dev': 'vdb', '@bus': 'virtio' });
    expect(parsed.boot).to.deep.equal({ '@order': '2' });
    expect(parsed.iotune.read_bytes_sec).to.equal(1_000_000);
    expect(parsed.address['@type']).to.equal('pci');
    expect(parsed).to.have.keys(
      'driver',
      'source',
      'target',
      'iotune',
      'readonly',
      'shareable',
      'serial',
      'boot',
      'address',
      '@type',
      '@device',
    );
  });

  it('escapes whatever a name holds', () => {
    const name = `pool"'<&>]]>\u00e9\u{1F4BE}/image`;
    const xml = rbdDiskXml({ ...disk, source: { ...disk.source, name } }, {});
    expect(parseDomainDisks(wrapped(xml))[0]?.sourceName).to.equal(name);
    expect(validate('domain.rng', wrapped(xml)).ok).to.equal(true);
  });

  it('reads the disks of a domain back', () => {
    const xml = wrapped(
      rbdDiskXml(disk, {}),
      "<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>",
    );
    expect(parseDomainDisks(xml)).to.deep.equal([
      {
        target: 'vdb',
        bus: 'virtio',
        serial: VOLUME,
        protocol: 'rbd',
        sourceName: `volumes/${VOLUME}`,
        secretUuid: disk.source.secretUuid,
        shareable: false,
      },
      { target: 'sda', bus: 'sata', shareable: false },
    ]);
    expect(parseDomainDisks(wrapped(rbdDiskXml({ ...disk, shareable: true }, {})))[0]?.shareable).to.equal(true);
    expect(parseDomainDisks(wrapped())).to.deep.equal([]);
    expect(
      parseDomainDisks('<domain><name>a</name><devices><emulator>/usr/bin/kvm</emulator></devices></domain>'),
    ).to.deep.equal([]);
  });

  it('reads the disks of a domain of any kind: long descriptions full of entities, sources that are not networks', () => {
    const others = `
      <description>${'&quot;a&quot; &amp; &lt;b&gt; '.repeat(3_000)}</description>
      <devices>
        <disk type='nvme' device='disk'><source type='pci' managed='yes' namespace='1'><address domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></source><target dev='vda' bus='virtio'/></disk>
        <disk type='volume' device='disk'><source pool='a' volume='b'/><target dev='vdb' bus='virtio'/><serial/></disk>
        <disk type='file' device='floppy'><target dev='fda' bus='fdc'/></disk>
        <disk type='network' device='disk'><source protocol='nbd' tls='no'><host transport='unix' socket='/s'/></source><target dev='vdc'/></disk>
      </devices>`;
    expect(parseDomainDisks(`<domain><name>a</name>${others}</domain>`).map((each) => each.target)).to.deep.equal([
      'vda',
      'vdb',
      'fda',
      'vdc',
    ]);
  });

  it('chooses the next free device name', () => {
    expect(nextTarget('virtio', [])).to.equal('vda');
    expect(nextTarget('virtio', ['vda', 'vdc', 'sdb'])).to.equal('vdb');
    const first26 = [...'abcdefghijklmnopqrstuvwxyz'].map((letter) => `sd${letter}`);
    expect(nextTarget('scsi', first26)).to.equal('sdaa');
    expect(nextTarget('sata', [...first26, 'sdaa'])).to.equal('sdab');
  });

  it('says what the guest sees of the serial number', () => {
    expect(guestSerial(VOLUME, 'virtio')).to.equal('vol-fedcba9876543210');
    expect(guestSerial(VOLUME, 'scsi')).to.equal(VOLUME);
  });

  it('refuses wrong options, and names the field', () => {
    for (const [options, field] of [
      [{ target: '../../etc' }, 'target'],
      [{ bus: 'floppy' }, 'bus'],
      [{ cache: 'none"/><x' }, 'cache'],
      [{ iotune: { total_iops_sec: -1 } }, 'iotune.total_iops_sec'],
      [{ iotune: { total_iops_sec: 1, read_iops_sec: 1 } }, 'iotune'],
      [{ iotune: { cookies: 1 } }, 'cookies'],
      [{ address: { bus: '0x00' } }, 'address'],
      [{ address: { type: 'pci"' } }, 'address.type'],
      [{ bootOrder: 0 }, 'bootOrder'],
      [{ weather: 1 }, 'weather'],
    ] as const) {
      expect(() => checkDiskOptions(options), field)
        .to.throw(StorageUtilsError, field)
        .with.property('kind', 'usage');
    }
  });
});

describe('storage-utils: secret XML', () => {
  it("is valid against libvirt's schema, ephemeral and private, and names export and volume", () => {
    const xml = secretXml({ uuid: disk.source.secretUuid, exportId: 'exp-0123456789abcdef0', volumeId: VOLUME });
    const result = validate('secret.rng', xml);
    expect(result.ok, result.said).to.equal(true);
    const { secret } = new XMLParser({ ignoreAttributes: false, attributeNamePrefix: '@' }).parse(xml);
    expect(secret['@ephemeral']).to.equal('yes');
    expect(secret['@private']).to.equal('yes');
    expect(secret.usage.name).to.contain('exp-0123456789abcdef0').and.to.contain(VOLUME);
  });
});
