import { status } from '@grpc/grpc-js';
import { expect } from 'chai';
import { createImage } from '../../src/agents/rbd/librbd/create.js';
import { CephError } from '../../src/agents/rbd/librbd/errors.js';
import { RbdImage } from '../../src/agents/rbd/librbd/image.js';
import { createSnapshot } from '../../src/agents/rbd/librbd/snapshot.js';
import type { Image__Output } from '../../src/generated/moorage/backend/v1/Image.js';
import { type Access, cloneChain, type FenceFixture, fenceFixture, unique } from './agent-fence-harness.js';
import { failure } from './agent-rbd-harness.js';

/** Name of the errno that a call into Ceph fails with. */
async function errnoOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof CephError) return error.errnoName;
    throw error;
  }
  return 'none';
}

describe('role fence: access to one image', function () {
  this.timeout(300_000);
  let fixture: FenceFixture;
  let other: Image__Output;
  let chain: Awaited<ReturnType<typeof cloneChain>>;
  before(async () => {
    fixture = await fenceFixture();
    const { data } = fixture;
    other = await data.create(`vol-${unique()}`, 64 * 2 ** 20);
    chain = await cloneChain(data, async (image) => {
      const access = await fixture.grant(`exp-${unique()}`, image);
      const connection = await fixture.connect(access);
      await connection.withPool('moorage', (pool) =>
        RbdImage.with(pool, { name: image.name }, {}, async (open) => {
          await open.write(0n, Buffer.alloc(8192, 'o'));
        }),
      );
    });
    await data.step('TrashImage', { image: chain.origin, defermentSeconds: 0 });
  });
  after(async () => {
    try {
      await fixture?.data.purge(chain.volume, chain.snapshot, chain.origin, other);
    } finally {
      await fixture?.end();
    }
  });

  const grantChain = (readOnly = false): Promise<Access> =>
    fixture.grant(`exp-${unique()}`, chain.volume, { ancestors: [chain.snapshot, chain.origin], readOnly });

  it('its image opens, reads and writes, a clone whose origin is in the trash', async () => {
    const connection = await fixture.connect(await grantChain());
    await connection.withPool('moorage', (pool) =>
      RbdImage.with(pool, { name: chain.volume.name }, {}, async (image) => {
        expect((await image.read(0n, 4096)).toString()).to.equal('o'.repeat(4096));
        await image.write(0n, Buffer.alloc(4096, 'n'));
        // The copy-up brought the rest of the object along.
        expect((await image.read(0n, 8192)).toString()).to.equal('n'.repeat(4096) + 'o'.repeat(4096));
        await image.flush();
      }),
    );
  });

  it('refuses everything else', async () => {
    const access = await grantChain();
    const connection = await fixture.connect(access, { rbd_cache: 'false' });
    await connection.withPool('moorage', async (pool) => {
      expect(await errnoOf(RbdImage.open(pool, { name: other.name })), 'open another').to.equal('EPERM');
      expect(await errnoOf(RbdImage.open(pool, { id: other.backendId })), 'open another by id').to.equal('EPERM');
      expect(await errnoOf(createImage(pool, `vol-${unique()}`, 2n ** 20n)), 'create').to.equal('EPERM');
      expect(await errnoOf(pool.read(`rbd_header.${other.backendId}`, 10)), "another's header").to.equal('EPERM');
      expect(await errnoOf(pool.read(`rbd_data.${other.backendId}.0000000000000000`, 10)), "another's data").to.equal(
        'EPERM',
      );
      expect(await errnoOf(pool.writeFull(`rbd_data.${other.backendId}.0000000000000000`, Buffer.from('x')))).to.equal(
        'EPERM',
      );
      expect(
        await errnoOf(pool.writeFull(`rbd_data.${chain.snapshot.backendId}.0000000000000000`, Buffer.from('x'))),
        "an ancestor's data",
      ).to.equal('EPERM');
      expect(
        await errnoOf(pool.omapSet(`rbd_header.${chain.snapshot.backendId}`, [{ key: 'x', value: Buffer.from('x') }])),
        "an ancestor's header",
      ).to.equal('EPERM');
      expect(await errnoOf(pool.omapList('rbd_directory', '', '', 10)), 'the list of images').to.equal('EPERM');
      expect(await errnoOf(pool.omapList('moorage.access', '', '', 10)), 'the list of exports').to.equal('EPERM');
      expect(await errnoOf(pool.writeFull(`elsewhere-${unique()}`, Buffer.from('x'))), 'any object').to.equal('EPERM');
      expect(await errnoOf(pool.removeSelfManagedSnapshot(1n)), 'removal of a snapshot id').to.be.oneOf([
        'EPERM',
        'EACCES',
      ]);
      await RbdImage.with(pool, { name: chain.volume.name }, {}, async (image) => {
        await image.flush();
        expect(await errnoOf(createSnapshot(image, 'mine')), 'snapshot').to.be.oneOf(['EPERM', 'EACCES']);
        expect(await errnoOf(image.grow(2n ** 30n)), 'grow').to.equal('EPERM');
      });
    });
    for (const command of [
      ['ls', 'moorage'],
      ['trash', 'ls', 'moorage'],
      ['rm', `moorage/${chain.volume.name}`],
      ['rm', `moorage/${other.name}`],
      ['snap', 'create', `moorage/${other.name}@x`],
      ['trash', 'mv', `moorage/${chain.volume.name}`],
      ['mv', `moorage/${chain.volume.name}`, 'moorage/elsewhere'],
    ]) {
      const error = await fixture.rbdAs(access, ...command).then(
        () => undefined,
        (failed: Error) => failed,
      );
      expect(error?.message, command.join(' ')).to.match(/Operation not permitted|Permission denied/);
    }
    expect(await errnoOf(connection.monCommand({ prefix: 'auth get', entity: 'client.admin' }))).to.equal('EACCES');
    const blocklist = { prefix: 'osd blocklist', blocklistop: 'add', expire: 60.5 };
    for (const addr of ['10.9.8.7:0/0', '10.9.8.7', '10.9.8.7:6800/77']) {
      expect(await errnoOf(connection.monCommand({ ...blocklist, addr })), addr).to.equal('EACCES');
    }
    const still = await fixture.data.step<{ images: readonly { name: string }[] }>('ListImages', { limit: 1000 });
    expect(still.images.map((image) => image.name)).to.include.members([chain.volume.name, other.name]);
  });

  it('reads only, when asked so: an open by reader or writer, no write, no lock', async () => {
    const connection = await fixture.connect(await grantChain(true), { rbd_cache: 'false' });
    await connection.withPool('moorage', async (pool) => {
      // QEMU opens for writing what it only reads.
      for (const readOnly of [true, false]) {
        await RbdImage.with(pool, { name: chain.volume.name }, { readOnly }, async (image) => {
          expect((await image.read(4096n, 4096)).toString()).to.equal('o'.repeat(4096));
          expect(await errnoOf(image.write(0n, Buffer.alloc(4096)))).to.be.oneOf(['EROFS', 'EPERM']);
        });
      }
      const data = `rbd_data.${chain.volume.backendId}.0000000000000000`;
      expect(await errnoOf(pool.writeFull(data, Buffer.from('x')))).to.equal('EPERM');
      const lock = pool.exec(`rbd_header.${chain.volume.backendId}`, 'lock', 'lock', Buffer.alloc(0));
      expect(await errnoOf(lock)).to.equal('EPERM');
      const blocklist = { prefix: 'osd blocklist', blocklistop: 'add', expire: 60.5, addr: '10.9.8.7:0/77' };
      expect(await errnoOf(connection.monCommand(blocklist))).to.equal('EACCES');
    });
  });

  it('the same again gives the same key; other rights are set on the same user', async () => {
    const exportId = `exp-${unique()}`;
    const first = await fixture.grant(exportId, other, { readOnly: true });
    expect(first).to.include({ mode: 'managed', user: `moorage-${exportId}` });
    expect(await fixture.grant(exportId, other, { readOnly: true })).to.deep.equal(first);
    expect(await fixture.grant(exportId, other)).to.deep.equal(first);
    const { stdout } = await fixture.cluster.ceph('auth', 'get', `client.${first.user}`, '-f', 'json');
    const [{ caps }] = JSON.parse(stdout) as [{ caps: { mon: string; osd: string } }];
    const id = other.backendId;
    expect(caps.osd).to.equal(
      `allow object_prefix rbd_data.${id}. rwx, allow object_prefix rbd_header.${id} rw class-read, ` +
        `allow object_prefix rbd_header.${id} class lock, allow object_prefix rbd_id.${other.name} r class-read, ` +
        'allow object_prefix rbd_info class rbd metadata_list, allow object_prefix rbd_directory class rbd dir_get_name, ' +
        'allow object_prefix rbd_trash class rbd trash_get',
    );
    expect(caps.osd).not.to.contain('pool=');
  });

  it('lists the users that exist; a revoked one is gone, revoking again is OK', async () => {
    const exportId = `exp-${unique()}`;
    const access = await fixture.grant(exportId, other);
    const list = async () => (await fixture.step<{ exportIds: string[] }>('ListAccess', {})).exportIds;
    expect(await list()).to.include(exportId);
    // As a crash between the two halves of a grant would leave it.
    await fixture.cluster.ceph('auth', 'del', `client.${access.user}`);
    expect(await list()).not.to.include(exportId);
    await fixture.grant(exportId, other);
    await fixture.step('RevokeAccess', { exportId });
    await fixture.step('RevokeAccess', { exportId });
    expect(await list()).not.to.include(exportId);
    expect(await errnoOf(fixture.connect(access))).to.be.oneOf(['EACCES', 'EPERM', 'ENOENT']);
  });

  it('refuses names that would add rights of their own', async () => {
    const exportId = `exp-${unique()}`;
    const wrong = [
      { ...other, name: 'x rwx, allow *' },
      { ...other, backendId: 'a.' },
      { ...other, backendId: '' },
      { ...other, name: 'x\n' },
    ];
    for (const image of wrong) {
      const error = await failure(fixture.step('GrantAccess', { exportId, image }));
      expect(error).to.include({ code: status.INVALID_ARGUMENT, reason: 'INVALID_FIELD' });
    }
    for (const id of ['', '../x', 'a b', 'x'.repeat(65), 'a,b']) {
      const error = await failure(fixture.step('GrantAccess', { exportId: id, image: other }));
      expect(error.metadata.field, id).to.equal('export_id');
      expect((await failure(fixture.step('RevokeAccess', { exportId: id }))).metadata.field).to.equal('export_id');
    }
    expect((await failure(fixture.step('GrantAccess', { exportId }))).metadata.field).to.equal('image');
  });
});
