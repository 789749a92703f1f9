import { randomUUID } from 'node:crypto';
import { expect } from 'chai';
import { attach, connect, detach, disconnect, StorageUtilsError } from '../../src/storage-utils/index.js';
import { type Guest, startGuest } from '../helpers/guest.js';
import { type ExportedVolume, type Fixture, startFixture } from './storage-utils-fixture.js';

const MIB = 2 ** 20;
const DOMAINS = ['web1', 'web2'] as const;

describe('storage-utils with two domains on one node', function () {
  this.timeout(300_000);
  let fixture: Fixture;
  let guests: Guest[] = [];
  let volume: ExportedVolume;

  before(async () => {
    fixture = await startFixture('node-two');
    for (const name of DOMAINS) guests.push(await startGuest({ host: fixture.host, name }));
  });
  after(async () => {
    for (const guest of guests) await guest.destroy();
    guests = [];
    await fixture?.remove();
  });
  beforeEach(async () => {
    volume = await fixture.exportVolume(16 * MIB);
  });
  afterEach(async () => {
    for (const domain of DOMAINS) await detach({ volumeId: volume.volumeId }, { ...fixture.node, domain });
    await disconnect({ volumeId: volume.volumeId }, fixture.node);
  });

  const attachTo = (domain: (typeof DOMAINS)[number], changes?: Parameters<ExportedVolume['descriptor']>[0]) =>
    attach(volume.descriptor(changes), { ...fixture.node, domain });

  it('gives a volume to the second domain only when the first one has it no more', async () => {
    const first = await attachTo('web1');
    await refusedFor('web1', attachTo('web2'));
    expect(await disksOf('web2')).not.to.contain(volume.volumeId);
    expect(await fixture.secrets(), 'the secret of the disk in use stays').to.deep.equal([first.secretUuid]);
    expect((await attachTo('web1')).wasAttached, 'the domain that has it gets the same answer').to.equal(true);

    await detach({ volumeId: volume.volumeId }, { ...fixture.node, domain: 'web1' });
    expect((await attachTo('web2')).wasAttached).to.equal(false);
    await refusedFor('web2', attachTo('web1'));
  });

  it('lets one of two win that ask at once', async () => {
    const results = await Promise.allSettled(DOMAINS.map((domain) => attachTo(domain)));
    const winner = DOMAINS[results.findIndex((result) => result.status === 'fulfilled')] ?? 'none';
    const lost = results.flatMap((result) => (result.status === 'rejected' ? [result.reason as unknown] : []));
    expect(lost, `${winner} won`).to.have.lengthOf(1);
    await refusedFor(winner, Promise.reject(lost[0]));
    expect((await Promise.all(DOMAINS.map(disksOf))).filter((xml) => xml.includes(volume.volumeId))).to.have.lengthOf(
      1,
    );
  });

  it('knows the RBD image under any serial number, in the same domain too', async () => {
    const { diskXml } = await connect(volume.descriptor(), { ...fixture.node, target: 'vdc' });
    const foreign = diskXml.replace(/<serial>[^<]*<\/serial>/, '');
    await guests[0]?.attachDisk(foreign);
    await refusedFor('web1', attachTo('web2'));
    await refusedFor('web1', attachTo('web1'));
    await guests[0]?.detachDisk(foreign);
    await attachTo('web2');
  });

  it('lets disks through that are all shareable, and none beside one that is not', async () => {
    const shared = { multi_attach: true };
    await attachTo('web1', shared);
    await attachTo('web2', shared);
    expect(await disksOf('web2')).to.contain(volume.volumeId);
    await detach({ volumeId: volume.volumeId }, { ...fixture.node, domain: 'web2' });
    await refusedFor('web1', attach(volume.descriptor(), { ...fixture.node, domain: 'web2', shareable: false }));

    await detach({ volumeId: volume.volumeId }, { ...fixture.node, domain: 'web1' });
    await attachTo('web1');
    await refusedFor('web1', attachTo('web2', shared));
  });

  it('counts a definition that a domain would start with, and not one that is left from an earlier export', async () => {
    const { diskXml, secretUuid = '' } = await connect(volume.descriptor(), { ...fixture.node, target: 'vdc' });
    await disconnect({ volumeId: volume.volumeId }, fixture.node);
    await define(diskXml);
    try {
      const refusal = await refusedFor('web3', attachTo('web1'));
      expect(refusal.message).to.contain('definition');
      expect(await fixture.secrets()).to.deep.equal([]);
      await define(diskXml.replace(secretUuid, randomUUID()));
      await attachTo('web1');
    } finally {
      await fixture.host.virsh('undefine', 'web3');
    }
  });

  async function define(diskXml: string): Promise<void> {
    const xml = `<domain type='qemu'><name>web3</name><uuid>5b3b4a5e-8f0a-4c1e-9d55-0d3f6c3a9b11</uuid><memory unit='MiB'>64</memory>
      <os><type arch='x86_64' machine='pc'>hvm</type></os><devices>${diskXml}</devices></domain>`;
    await fixture.host.virshWithXml(xml, 'define', '/dev/stdin');
  }

  async function disksOf(domain: string): Promise<string> {
    return (await fixture.host.virsh('dumpxml', domain)).stdout;
  }

  async function refusedFor(holder: string, attaching: Promise<unknown>): Promise<Error> {
    const outcome = await attaching.then(
      () => new Error('it was attached'),
      (error: unknown) => error as Error,
    );
    expect(outcome.message).to.contain(`"${holder}"`).and.to.contain(volume.volumeId);
    expect(outcome).to.be.instanceOf(StorageUtilsError).with.property('kind', 'refused');
    return outcome;
  }
});
