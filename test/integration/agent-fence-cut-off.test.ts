import { status } from '@grpc/grpc-js';
import { expect } from 'chai';
import { objectHash, placementGroup } from '../../src/agents/rbd/fence/placement.js';
import { CephError } from '../../src/agents/rbd/librbd/errors.js';
import { RbdImage } from '../../src/agents/rbd/librbd/image.js';
import type { Image__Output } from '../../src/generated/moorage/backend/v1/Image.js';
import { cleanUp } from '../helpers/clean-up.js';
import { waitFor } from '../helpers/wait.js';
import { type Access, type FenceFixture, fenceFixture, unique, Writer } from './agent-fence-harness.js';
import { failure } from './agent-rbd-harness.js';

const DAY = 86_400;

describe('role fence: cutting clients off', function () {
  this.timeout(300_000);
  let fixture: FenceFixture;
  // A cluster of its own, removed with all that is made on it: one of its OSDs is frozen.
  before(async () => {
    fixture = await fenceFixture({ name: 'cut-off', osds: 3 });
  });
  after(async () => {
    await cleanUp(
      () => fixture?.end(),
      () => fixture?.cluster.remove(),
    );
  });

  async function exported(): Promise<{ image: Image__Output; exportId: string; access: Access }> {
    const image = await fixture.data.create(`vol-${unique()}`, 64 * 2 ** 20);
    const exportId = `exp-${unique()}`;
    return { image, exportId, access: await fixture.grant(exportId, image) };
  }

  const clients = async (exportId: string, image: Image__Output | null) =>
    (await fixture.step<{ addresses: string[] }>('ListClients', { exportId, image })).addresses;

  it('finds a client by its user, by its lock and watch, and each address once', async () => {
    const { image, exportId, access } = await exported();
    expect(await clients(exportId, image)).to.deep.equal([]);
    const writer = await Writer.start(fixture.cluster, access, image.name, 'a');
    try {
      expect(await clients(exportId, null)).to.deep.equal([writer.address]);
      expect(await clients('', image)).to.deep.equal([writer.address]);
      expect(await clients(exportId, image)).to.deep.equal([writer.address]);
      // A client that opened nothing.
      const connection = await fixture.connect(access);
      expect(await clients(exportId, image)).to.have.members([writer.address, ...connection.addresses()]);
      expect(await clients('', image)).to.deep.equal([writer.address]);
      await connection.close();
    } finally {
      await writer.end();
    }
  });

  it('a frozen writer writes nothing when it wakes; after its lock is broken the next client writes at once', async () => {
    const { image, exportId, access } = await exported();
    const writer = await Writer.start(fixture.cluster, access, image.name, 'a');
    try {
      writer.freeze();
      await fixture.step('RevokeAccess', { exportId });
      const addresses = await clients(exportId, image);
      expect(addresses).to.deep.equal([writer.address]);
      await fixture.step('CutOff', { addresses, expirySeconds: DAY });
      await fixture.step('CutOff', { addresses, expirySeconds: DAY });
      const broken = { image, ownerAddresses: ['127.0.0.1:0/1'] };
      expect(await fixture.step('BreakLocks', broken), 'of another').to.deep.equal({ broken: 0 });
      expect(await fixture.step('BreakLocks', { image, ownerAddresses: addresses })).to.deep.equal({ broken: 1 });
      expect(await fixture.step('BreakLocks', { image, ownerAddresses: addresses })).to.deep.equal({ broken: 0 });
      expect(await clients('', image)).to.deep.equal([]);

      const next = await fixture.connect(await fixture.grant(`exp-${unique()}`, image));
      await next.withPool('moorage', (pool) =>
        RbdImage.with(pool, { name: image.name }, {}, async (open) => {
          await open.write(0n, Buffer.alloc(4096, 'b'));
          await open.flush();
          const before = writer.answers.length;
          writer.wake();
          await waitFor('the old client is refused', () => writer.answers.at(-1)?.startsWith('failed'));
          // At most what was answered before it froze can still have been in its pipe.
          expect(writer.answers.slice(before).filter((line) => line === 'ok').length).to.be.at.most(1);
          expect(writer.answers.at(-1)).to.equal('failed ESHUTDOWN');
          expect((await open.read(0n, 4096)).toString()).to.equal('b'.repeat(4096));
        }),
      );
    } finally {
      await writer.end();
    }
  });

  it('an OSD that does not answer means not yet: the outcome is unknown until it does', async () => {
    const { image, exportId, access } = await exported();
    const writer = await Writer.start(fixture.cluster, access, image.name, 'a');
    try {
      const addresses = await clients(exportId, image);
      await fixture.cluster.pauseOsd(1);
      try {
        const error = await failure(fixture.step('CutOff', { addresses, expirySeconds: DAY }, 4));
        expect(error.code).to.equal(status.DEADLINE_EXCEEDED);
      } finally {
        await fixture.cluster.resumeOsd(1);
      }
      await fixture.step('CutOff', { addresses, expirySeconds: DAY });
      await waitFor('it is refused', () => writer.answers.at(-1) === 'failed ESHUTDOWN');
    } finally {
      await writer.end();
    }
  });

  it('lists what is cut off with its expiry, and takes it back; again is OK', async () => {
    const address = '10.9.8.7:0/424242';
    const six = '[fd00::7]:0/77';
    await fixture.step('CutOff', { addresses: [address, six], expirySeconds: 2 * DAY });
    const list = async () =>
      (await fixture.step<{ entries: { address: string; expireTime: { seconds: string } }[] }>('ListCutOff', {}))
        .entries;
    const entry = (await list()).find((each) => each.address === address);
    expect(Number(entry?.expireTime.seconds) - Date.now() / 1000).to.be.closeTo(2 * DAY, 300);
    expect((await list()).map((each) => each.address)).to.include(six);
    await fixture.step('LiftCutOff', { addresses: [address, six] });
    await fixture.step('LiftCutOff', { addresses: [address, six] });
    expect((await list()).map((each) => each.address)).not.to.include.members([address, six]);
  });

  it('refuses entries that expire early, wrong addresses, and itself', async () => {
    const cut = (addresses: string[], expirySeconds = DAY) =>
      failure(fixture.step('CutOff', { addresses, expirySeconds }));
    expect((await cut(['10.9.8.7:0/1'], DAY - 1)).metadata.field).to.equal('expiry_seconds');
    for (const wrong of [
      '10.0.0.5:6801/1234567',
      '',
      'host',
      '10.9.8.7',
      '10.9.8.7:0',
      '10.9.8.7:0/x',
      '10.9.8.7:0/1,10.9.8.8:0/1',
    ]) {
      expect((await cut([wrong])).code, wrong).to.equal(status.INVALID_ARGUMENT);
      expect((await failure(fixture.step('LiftCutOff', { addresses: [wrong] }))).code).to.equal(
        status.INVALID_ARGUMENT,
      );
    }
    const own = fixture.fence.hello?.addresses[0] ?? '';
    expect(await cut([own])).to.include({ code: status.FAILED_PRECONDITION, reason: 'CUTS_OFF_ITSELF' });
    expect((await cut(['127.0.0.1:0/0'])).reason).to.equal('CUTS_OFF_ITSELF');
  });

  it('an image whose header is not as recorded is not opened, and its clients are found all the same', async () => {
    const { image, exportId, access } = await exported();
    const writer = await Writer.start(fixture.cluster, access, image.name, 'a');
    try {
      const connection = await fixture.connect(access);
      await connection.withPool('moorage', async (pool) => {
        const header = `rbd_header.${image.backendId}`;
        const value = (await pool.omapGet(header, ['features'])).get('features') as Buffer;
        // The feature MIGRATING: whoever opens it would follow what the header says.
        const forged = Buffer.from(value);
        forged.writeUInt8(forged.readUInt8(0) | 0, 0);
        forged.writeUInt8(forged.readUInt8(1) | 2, 1);
        await pool.omapSet(header, [{ key: 'features', value: forged }]);
        expect(await clients(exportId, image)).to.have.members([writer.address, ...connection.addresses()]);
        await pool.omapSet(header, [{ key: 'features', value }]);
      });
    } finally {
      await writer.end();
    }
  });

  it('computes the placement group of a name as Ceph does', async () => {
    for (const name of ['a', 'rbd_header.1', 'moorage.probe.17', 'ü'.repeat(9), 'x'.repeat(77)]) {
      const { stdout } = await fixture.cluster.ceph('osd', 'map', 'moorage', name, '-f', 'json');
      const { raw_pgid, pgid } = JSON.parse(stdout) as { raw_pgid: string; pgid: string };
      const placed = (text: string) => Number.parseInt(text.slice(text.indexOf('.') + 1), 16);
      expect(objectHash(name), name).to.equal(placed(raw_pgid));
      expect(placementGroup(objectHash(name), 32)).to.equal(placed(pgid));
    }
  });

  it('the user "fence" may not do more than its work', async () => {
    const { stdout } = await fixture.cluster.ceph('auth', 'get-key', `client.${fixture.fenceUser}`);
    const connection = await fixture.connect({ mode: '', user: fixture.fenceUser, key: stdout.trim() });
    const reader = ['mon', 'profile simple-rados-client', 'osd', 'allow object_prefix x r'];
    for (const command of [
      { prefix: 'auth get', entity: 'client.admin' },
      { prefix: 'auth ls' },
      { prefix: 'auth del', entity: `client.${fixture.dataUser}` },
      { prefix: 'auth get-or-create', entity: 'client.somebody', caps: reader },
      { prefix: 'auth get-or-create', entity: 'client.moorage-exp-a', caps: ['mon', 'allow *', ...reader.slice(2)] },
      { prefix: 'auth get-or-create', entity: 'client.moorage-exp-a', caps: [...reader.slice(0, 2), 'osd', 'allow *'] },
      { prefix: 'auth caps', entity: 'client.moorage-exp-a', caps: ['mon', 'allow *', ...reader.slice(2)] },
      { prefix: 'osd pool delete', pool: 'moorage' },
    ]) {
      const error = await connection.monCommand(command).then(
        () => undefined,
        (failed: unknown) => failed,
      );
      expect(error, JSON.stringify(command)).to.be.instanceOf(CephError);
      expect((error as CephError).errnoName, JSON.stringify(command)).to.equal('EACCES');
    }
    const { image } = await exported();
    await connection.withPool('moorage', async (pool) => {
      for (const attempt of [
        () => pool.read(`rbd_data.${image.backendId}.0000000000000000`, 10),
        () => pool.omapSet(`rbd_header.${image.backendId}`, [{ key: 'x', value: Buffer.from('x') }]),
        () => pool.writeFull(`rbd_data.${image.backendId}.0000000000000000`, Buffer.from('x')),
        () => pool.omapList('moorage.catalogue', '', '', 10),
      ]) {
        const error = await attempt().then(
          () => undefined,
          (failed: unknown) => failed,
        );
        expect((error as CephError | undefined)?.errnoName, String(attempt)).to.equal('EPERM');
      }
    });
  });
});
