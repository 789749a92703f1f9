import { spawn } from 'node:child_process';
import { readlinkSync } from 'node:fs';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import type { Cluster as Connection } from '../../src/agents/rbd/librbd/cluster.js';
import { Encoder } from '../../src/agents/rbd/librbd/encoding.js';
import { isCephError } from '../../src/agents/rbd/librbd/errors.js';
import { flattenImage } from '../../src/agents/rbd/librbd/flatten.js';
import { RbdImage } from '../../src/agents/rbd/librbd/image.js';
import { removeSnapshot } from '../../src/agents/rbd/librbd/snapshot.js';
import type { Image__Output } from '../../src/generated/moorage/backend/v1/Image.js';
import { cleanUp } from '../helpers/clean-up.js';
import { waitFor } from '../helpers/wait.js';
import { type Access, cloneChain, type FenceFixture, fenceFixture, unique } from './agent-fence-harness.js';
import { connectAdmin, failure, parentOf } from './agent-rbd-harness.js';

const SIZE = 64 * 2 ** 20;
const REFUSED = { code: 9, reason: 'HEADER_DIFFERS' };

/**
 * Root on a node may write the header of its own image raw. Each attack is made with the key of an export and seen to
 * succeed first, with what the controller would do if it trusted the header (done here, with its rights and more); then the
 * agents are given the same.
 */
describe('headers that a node has forged', function () {
  this.timeout(300_000);
  let fixture: FenceFixture;
  let admin: Connection;
  let directory: string;
  before(async () => {
    fixture = await fenceFixture();
    admin = await connectAdmin(fixture.cluster);
    directory = await mkdtemp(join(tmpdir(), 'moorage-headers-'));
  });
  after(async () => {
    await cleanUp(
      () => admin?.close(),
      () => fixture?.end(),
      () => rm(directory, { recursive: true, force: true }),
    );
  });

  const write = (image: Image__Output, text: string): Promise<void> =>
    admin.withPool('moorage', (pool) =>
      RbdImage.with(pool, { id: image.backendId }, {}, (open) => open.write(0n, Buffer.from(text))),
    );
  const read = (image: Image__Output, length: number): Promise<string> =>
    admin.withPool('moorage', (pool) =>
      RbdImage.with(pool, { id: image.backendId }, { readOnly: true }, async (open) =>
        (await open.read(0n, length)).toString(),
      ),
    );
  const header = (image: Image__Output): string => `rbd_header.${image.backendId}`;
  const headerValue = (image: Image__Output, key: string): Promise<Buffer> =>
    admin.withPool('moorage', async (pool) => {
      const value = (await pool.omapGet(header(image), [key])).get(key);
      if (value === undefined) throw new Error(`${image.name} has no ${key}`);
      return value;
    });
  /** A volume of the attacker's, and the writing of its header with nothing but its own key. */
  const attacker = async (ancestors: readonly Image__Output[] = [], volume?: Image__Output) => {
    const image = volume ?? (await fixture.data.create(`vol-${unique()}`, SIZE));
    const access = await fixture.grant(`exp-${unique()}`, image, { ancestors });
    const connection = await fixture.connect(access);
    const forge = (values: Readonly<Record<string, Buffer>>): Promise<void> =>
      connection.withPool('moorage', (pool) =>
        pool.omapSet(
          header(image),
          Object.entries(values).map(([key, value]) => ({ key, value })),
        ),
      );
    return { image, access, forge };
  };
  /** Somebody else's volume with a point, and a snapshot's image that is cloned from that; the volume goes on after it. */
  const victim = async (): Promise<{ origin: Image__Output; snapshot: Image__Output; pointId: string }> => {
    const { origin, snapshot } = await cloneChain(fixture.data, (image) => write(image, 'secret'));
    await write(origin, 'public');
    return { origin, snapshot, pointId: origin.points[0]?.backendId ?? '' };
  };
  const parentKey = (image: Image__Output, pointId: string): Promise<Buffer> =>
    admin.withPool('moorage', async (pool) =>
      new Encoder()
        .structure(2, 1, (body) => {
          body.u64(pool.poolId()).text('').text(image.backendId).u64(BigInt(pointId)).u8(1).u64(BigInt(SIZE));
        })
        .bytes(),
    );
  const take = (image: Image__Output): Promise<unknown> =>
    fixture.data.withConnection((connectionId) =>
      fixture.data.step('TakePoint', { connectionId, image, pointName: `pt-${unique()}` }),
    );
  const expand = (image: Image__Output): Promise<unknown> =>
    fixture.data.withConnection((connectionId) =>
      fixture.data.step('ExpandImage', { connectionId, image, sizeBytes: 2 * SIZE }),
    );
  const readAsItself = async (access: Access, image: Image__Output): Promise<string> => {
    const connection = await fixture.connect(access);
    return connection.withPool('moorage', (pool) =>
      RbdImage.with(pool, { name: image.name }, { readOnly: true }, async (open) =>
        (await open.read(0n, 6)).toString(),
      ),
    );
  };

  it("another's image as parent: a flatten would copy its data", async () => {
    const { origin, pointId } = await victim();
    const { image, access, forge } = await attacker();
    await forge({ parent: await parentKey(origin, pointId) });
    for (const refusal of [fixture.data.step('FlattenImage', { image }), take(image), expand(image)]) {
      expect((await failure(refusal)).code).to.equal(9);
    }
    expect(await failure(take(image))).to.include(REFUSED);
    expect(await failure(readAsItself(access, image)), 'the node itself').to.have.property('errnoName', 'EPERM');
    // Without the look at the header: with the controller's rights it is opened and flattened.
    await admin.withPool('moorage', (pool) =>
      RbdImage.with(pool, { id: image.backendId }, {}, (open) => flattenImage(open, () => true)),
    );
    expect(await readAsItself(access, image)).to.equal('secret');
  });

  it("another's image as the parent of an ancestor: what is made from it would read that", async () => {
    const { origin, pointId } = await victim();
    const own = await cloneChain(fixture.data, (image) => write(image, ''));
    const { forge } = await attacker([], own.origin);
    const point = snapshotKey(own.origin.points[0]?.backendId ?? '');
    await forge({
      parent: await parentKey(origin, pointId),
      [point]: withOverlap(await headerValue(own.origin, point)),
    });
    expect(await read(own.snapshot, 6), 'without the look').to.equal('secret');
    const parent = parentOf(own.snapshot);
    const name = `vol-${unique()}`;
    expect(await failure(fixture.data.create(name, SIZE, { parent }))).to.include(REFUSED);
    expect(await failure(fixture.data.step('FlattenImage', { image: own.snapshot }))).to.include(REFUSED);
    expect(await failure(take(own.volume))).to.include(REFUSED);
  });

  it("another's data as its own: a removal would destroy them", async () => {
    const first = await victim();
    const { image, forge } = await attacker();
    await forge({ object_prefix: await headerValue(first.origin, 'object_prefix') });
    await fixture.cluster.rbd('rm', `moorage/${image.name}`);
    expect(await read(first.origin, 6)).to.equal('\0'.repeat(6));

    const second = await victim();
    const again = await attacker();
    await again.forge({ object_prefix: await headerValue(second.origin, 'object_prefix') });
    expect(await failure(take(again.image))).to.include(REFUSED);
    expect(await failure(expand(again.image))).to.include(REFUSED);
    await fixture.data.step('TrashImage', { image: again.image, defermentSeconds: '0', cutOffAddresses: [] });
    await fixture.data.purge(again.image);
    expect(await read(second.origin, 6)).to.equal('public');
  });

  it("another's snapshot as its own: the removal of its snapshots would destroy it", async () => {
    const first = await victim();
    const { image, forge } = await attacker();
    const key = snapshotKey(first.pointId);
    const snapshotId = Buffer.alloc(8);
    snapshotId.writeBigUInt64LE(BigInt(first.pointId));
    await forge({ [key]: withoutChildren(await headerValue(first.origin, key)), snap_seq: snapshotId });
    const name = first.origin.points[0]?.name ?? '';
    await admin.withPool('moorage', (pool) =>
      RbdImage.with(pool, { id: image.backendId }, {}, (open) => removeSnapshot(open, name)),
    );
    await waitFor('the snapshot to be lost', async () => (await read(first.snapshot, 6)) !== 'secret');

    const second = await victim();
    const again = await attacker();
    const secondKey = snapshotKey(second.pointId);
    await again.forge({ [secondKey]: withoutChildren(await headerValue(second.origin, secondKey)) });
    await fixture.data.step('TrashImage', { image: again.image, defermentSeconds: '0', cutOffAddresses: [] });
    await fixture.data.purge(again.image);
    expect(await read(second.snapshot, 6)).to.equal('secret');
  });

  it('a migration from a file: whoever opens it would read that file of its own machine', async () => {
    const file = join(directory, 'private');
    await writeFile(file, 'private'.padEnd(2 ** 20, '\0'), { mode: 0o600 });
    const { image, forge } = await attacker();
    const features = Buffer.from(await headerValue(image, 'features'));
    features.writeUInt8(features.readUInt8(1) | 2, 1);
    const source = { type: 'raw', stream: { type: 'file', file_path: file } };
    const migration = new Encoder()
      .structure(3, 3, (body) => {
        // Destination; no source image; no snapshots; overlap; neither flattened nor mirrored; prepared.
        body
          .u8(2)
          .u64(-1n)
          .text('')
          .text('')
          .text('')
          .u32(0)
          .u64(BigInt(2 ** 20));
        body.u8(0).u8(0).u8(3).text('').u8(0).text(JSON.stringify(source));
      })
      .bytes();
    await forge({ features, migration });
    const asController = (emptyRoot: boolean): Promise<string> =>
      openInProcess({
        configurationFile: fixture.cluster.configurationFile,
        user: fixture.dataUser,
        keyringFile: join(fixture.directory, 'data.keyring'),
        pool: 'moorage',
        imageId: image.backendId,
        emptyRoot,
      });
    expect(await asController(false), 'with the root of the machine').to.contain('private');
    expect(await asController(true), 'in an empty root').not.to.contain('private');
    expect(await failure(take(image))).to.include(REFUSED);
    const holders = await fixture.data.step<{ holders: object[] }>('GetUsage', { image });
    expect(holders.holders).to.deep.equal([]);
  });

  it('both agents are in an empty root', async () => {
    for (const { process: agent } of [fixture.data, fixture.fence]) {
      const root = `/proc/${agent.pid}/root`;
      expect(readlinkSync(root)).to.match(/\/root-(data|fence)$/);
      expect(await readdir(root)).to.deep.equal([]);
    }
  });

  it('garbage, and itself as parent: refused in time, and it can still be deleted', async () => {
    for (const forged of ['garbage', 'circle', 'other'] as const) {
      const { image, forge } = await attacker();
      if (forged === 'garbage') await forge({ features: Buffer.from('x'), parent: Buffer.from('y') });
      if (forged === 'circle') await forge({ parent: await parentKey(image, '1') });
      if (forged === 'other') await forge({ metadata_conf_rbd_cache: Buffer.from('true') });
      expect(await failure(take(image)), forged).to.include(REFUSED);
      expect(await failure(expand(image)), forged).to.include(REFUSED);
      await fixture.data.step('TrashImage', { image, defermentSeconds: '0', cutOffAddresses: [] });
      await fixture.data.purge(image);
    }
  });

  it('a snapshot of the pool by its id: refused, where rights on the pool would let it', async () => {
    const { origin, snapshot, pointId } = await victim();
    const { access } = await attacker();
    const connection = await fixture.connect(access);
    const remove = (by: Connection): Promise<void> =>
      by.withPool('moorage', (pool) => pool.removeSelfManagedSnapshot(BigInt(pointId)));
    expect(await failure(remove(connection))).to.satisfy((error: unknown) => isCephError(error, 'EPERM', 'EACCES'));
    expect(await read(snapshot, 6)).to.equal('secret');
    const user = `test-wide-${unique()}`;
    const { stdout } = await fixture.cluster.ceph(
      ...['auth', 'get-or-create-key', `client.${user}`, 'mon', 'profile simple-rados-client'],
      ...['osd', `allow rwx pool=moorage object_prefix rbd_data.${origin.backendId}.`],
    );
    try {
      await remove(await fixture.connect({ mode: '', user, key: stdout.trim() }));
      await waitFor('the snapshot to be lost', async () => (await read(snapshot, 6)) !== 'secret');
    } finally {
      await fixture.cluster.ceph('auth', 'del', `client.${user}`);
    }
  });

  it('whom a node may cut off: one client by address and nonce; with the usual profile, everybody', async () => {
    const { access } = await attacker();
    const connection = await fixture.connect(access);
    const cut = (by: Connection, addr: string) =>
      by.monCommand({ prefix: 'osd blocklist', blocklistop: 'add', addr, expire: 60.5 });
    for (const addr of ['10.1.2.3:0/0', '10.1.2.3', '10.1.2.3:6800/77']) {
      expect(await failure(cut(connection, addr)), addr).to.have.property('errnoName', 'EACCES');
    }
    await cut(connection, '10.1.2.3:0/77');
    const user = `test-profile-${unique()}`;
    const { stdout } = await fixture.cluster.ceph(
      ...['auth', 'get-or-create-key', `client.${user}`, 'mon', 'profile rbd', 'osd', 'allow object_prefix x r'],
    );
    try {
      await cut(await fixture.connect({ mode: '', user, key: stdout.trim() }), '10.1.2.3:0/0');
    } finally {
      for (const addr of ['10.1.2.3:0/0', '10.1.2.3:0/77']) await fixture.cluster.ceph('osd', 'blocklist', 'rm', addr);
      await fixture.cluster.ceph('auth', 'del', `client.${user}`);
    }
  });
});

const snapshotKey = (pointId: string): string => `snapshot_${BigInt(pointId).toString(16).padStart(16, '0')}`;

/** A snapshot's record (cls_rbd_snap) ends with the number of its clones and how much it shares with a parent, if anything. */
function withOverlap(record: Buffer): Buffer {
  const longer = Buffer.concat([record.subarray(0, -1), new Encoder().u8(1).u64(BigInt(SIZE)).bytes()]);
  longer.writeUInt32LE(record.readUInt32LE(2) + 8, 2);
  return longer;
}

function withoutChildren(record: Buffer): Buffer {
  return Buffer.concat([record.subarray(0, -5), Buffer.alloc(5)]);
}

async function openInProcess(task: object): Promise<string> {
  const script = fileURLToPath(new URL('agent-headers-reader.ts', import.meta.url));
  const reader = spawn(process.execPath, ['--import', 'tsx', script], { stdio: ['pipe', 'pipe', 'inherit'] });
  reader.stdin.write(`${JSON.stringify(task)}\n`);
  let output = '';
  reader.stdout.on('data', (data: Buffer) => {
    output += data.toString();
  });
  await new Promise((resolve) => reader.once('close', resolve));
  return (JSON.parse(output) as { outcome: string }).outcome;
}
