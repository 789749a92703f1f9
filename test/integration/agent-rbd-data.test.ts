import { expect } from 'chai';
import type { Cluster as Connection } from '../../src/agents/rbd/librbd/cluster.js';
import { Encoder } from '../../src/agents/rbd/librbd/encoding.js';
import { headerObject, readHeader, readImageId, removeFromDirectory } from '../../src/agents/rbd/librbd/header.js';
import { RbdImage } from '../../src/agents/rbd/librbd/image.js';
import type { GetPoolResponse__Output } from '../../src/generated/moorage/backend/v1/GetPoolResponse.js';
import type { GetUsageResponse__Output } from '../../src/generated/moorage/backend/v1/GetUsageResponse.js';
import type { Image__Output } from '../../src/generated/moorage/backend/v1/Image.js';
import type { ListCatalogueEntriesResponse__Output } from '../../src/generated/moorage/backend/v1/ListCatalogueEntriesResponse.js';
import type { ListImagesResponse__Output } from '../../src/generated/moorage/backend/v1/ListImagesResponse.js';
import type { Point__Output } from '../../src/generated/moorage/backend/v1/Point.js';
import type { TakePointResponse__Output } from '../../src/generated/moorage/backend/v1/TakePointResponse.js';
import { type Cluster, startCluster } from '../helpers/cluster.js';
import { waitFor } from '../helpers/wait.js';
import { connectAdmin, failure, objectsWith, parentOf, TestAgent, uniqueName } from './agent-rbd-harness.js';

const MIB = 1024 * 1024;
const SIZE = 64 * MIB;

describe('RBD agent, role data', function () {
  this.timeout(300_000);
  let cluster: Cluster;
  let agent: TestAgent;
  let admin: Connection;
  const made: Image__Output[] = [];

  before(async () => {
    cluster = await startCluster();
    admin = await connectAdmin(cluster);
    agent = await new TestAgent(cluster).ready();
  });

  after(async () => {
    // Clones before what they were made from.
    for (const image of made.reverse()) await agent.purge(image).catch(() => undefined);
    await agent.kill();
    await admin.close();
  });

  const create = async (kind: string, sizeBytes = SIZE, more: object = {}): Promise<Image__Output> => {
    const image = await agent.create(uniqueName(kind), sizeBytes, more);
    made.push(image);
    return image;
  };
  const takePoint = (image: Image__Output, pointName: string): Promise<TakePointResponse__Output> =>
    agent.withConnection((connectionId) => agent.step('TakePoint', { connectionId, image, pointName }));
  const removePoint = (image: Image__Output, point: Point__Output | null): Promise<object> =>
    agent.withConnection((connectionId) => agent.step('RemovePoint', { connectionId, image, point }));
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

  it('says what a node needs to connect, and the capacity', async () => {
    const pool = await agent.step<GetPoolResponse__Output>('GetPool', {});
    expect(pool.connector).to.equal('rbd');
    const connector = JSON.parse(pool.connectorJson.toString());
    expect(connector).to.deep.equal({
      cluster_id: cluster.fsid,
      ceph_pool: 'moorage',
      monitors: cluster.monitors.map((each) => `${each.host}:${each.v2Port}`),
    });
    expect(Number(pool.capacityBytes)).to.be.at.least(Number(pool.freeBytes));
    expect(Number(pool.freeBytes)).to.be.greaterThan(0);
    expect(await failure(agent.step('GetPool', {}, 10, 'no-such-pool'))).to.include({ code: 5, reason: 'ENOENT' });
  });

  it('makes an image with these features and nothing else, once, and answers the same again', async () => {
    const image = await create('vol');
    const header = await admin.withPool('moorage', (pool) => readHeader(pool, image.backendId));
    expect(header).to.deep.include({ sizeBytes: BigInt(SIZE), features: 0x25n, order: 22, parent: undefined });
    expect(await agent.create(image.name, SIZE)).to.deep.equal(image);
    const another = await agent.createOutcome(image.name, 2 * SIZE);
    expect(another.unusable?.reason).to.include(String(SIZE));
    expect(another.unusable?.image?.backendId).to.equal(image.backendId);
  });

  it('refuses what is wrong and names the field', async () => {
    for (const [field, request] of [
      ['name', { name: 'a/b' }],
      ['name', { name: `a${'x'.repeat(200)}` }],
      ['size_bytes', { sizeBytes: 0 }],
      ['size_bytes', { sizeBytes: -1 }],
      ['size_bytes', { sizeBytes: '9223372036854775807' }],
      ['point_name', { pointName: 'a@b' }],
      ['catalogue_entry', { catalogueEntry: null }],
      ['parent.backend_id', { parent: { name: 'a', backendId: '../x', point: { name: 'p', backendId: '1' } } }],
    ] as const) {
      const valid = { catalogueEntry: { key: 'k', value: Buffer.alloc(1) }, name: 'a', sizeBytes: SIZE, pointName: '' };
      const answer = await failure(agent.step('CreateImage', { ...valid, ...request }));
      expect(answer, field).to.include({ code: 3, reason: 'INVALID_FIELD' });
      expect(answer.metadata.field).to.equal(field);
    }
  });

  it('takes a point, clones it, and the clone outlives the point', async () => {
    const volume = await create('vol');
    await write(volume, 'first');
    const taken = await takePoint(volume, 'snap-1');
    expect(taken.sizeBytes).to.equal(String(SIZE));
    expect(await takePoint(volume, 'snap-1')).to.deep.equal(taken);
    await write(volume, 'later');
    const parent = parentOf(volume, taken.point as Point__Output);
    const snapshot = await create('snap', SIZE, { parent, pointName: 'base' });
    expect(snapshot.points.map((point) => point.name)).to.deep.equal(['base']);
    expect(await agent.create(snapshot.name, SIZE, { parent, pointName: 'base' })).to.deep.equal(snapshot);
    await removePoint(volume, taken.point);
    await removePoint(volume, taken.point);
    expect(await read(snapshot, 5)).to.equal('first');
    expect(await read(volume, 5)).to.equal('later');
    // The point is in the trash namespace now: nothing new is cloned from it.
    expect(await failure(agent.create(uniqueName('vol'), SIZE, { parent }))).to.include({ code: 5 });

    const larger = await create('vol', 2 * SIZE, { parent: parentOf(snapshot) });
    expect(larger.sizeBytes).to.equal(String(2 * SIZE));
    expect(await read(larger, 5)).to.equal('first');
    const smaller = await failure(agent.create(uniqueName('vol'), SIZE - 1, { parent: parentOf(snapshot) }));
    expect(smaller).to.include({ code: 11, reason: 'SMALLER_THAN_PARENT' });
    volume.points.push(taken.point as Point__Output);
  });

  it('removes a point that has no id on record by its name, also what a removal that was cut short left of it', async () => {
    const volume = await create('vol');
    const taken = await takePoint(volume, 'pt-lost');
    const other = await takePoint(volume, 'pt-other');
    const id = BigInt(taken.point?.backendId ?? '');
    // The first half of RBD's own removal: into the trash namespace, under another name.
    await admin.withPool('moorage', (pool) =>
      pool.exec(headerObject(volume.backendId), 'rbd', 'snapshot_trash_add', new Encoder().u64(id).bytes()),
    );
    const names = async (): Promise<string[] | undefined> =>
      (await admin.withPool('moorage', (pool) => readHeader(pool, volume.backendId)))?.snapshots.map(
        ({ name }) => name,
      );
    expect(await names())
      .to.have.length(2)
      .and.not.include('pt-lost');
    await removePoint(volume, { name: 'pt-lost', backendId: '' });
    expect(await names()).to.deep.equal(['pt-other']);
    await removePoint(volume, { name: 'pt-other', backendId: '' });
    expect(await names()).to.deep.equal([]);
    volume.points.push(taken.point as Point__Output, other.point as Point__Output);
  });

  it('grows, and never shrinks', async () => {
    const volume = await create('vol');
    const expand = (sizeBytes: number): Promise<{ sizeBytes: string }> =>
      agent.withConnection((connectionId) => agent.step('ExpandImage', { connectionId, image: volume, sizeBytes }));
    expect((await expand(2 * SIZE)).sizeBytes).to.equal(String(2 * SIZE));
    expect((await expand(SIZE)).sizeBytes).to.equal(String(2 * SIZE));
    volume.largestSizeBytes = String(2 * SIZE);
  });

  it('names who has an image open, refuses to trash it then, and leaves its own connections out', async () => {
    const volume = await create('vol');
    const pool = await admin.openPool('moorage');
    const open = await RbdImage.open(pool, { id: volume.backendId });
    await open.write(0n, Buffer.from('x'));
    const usage = await agent.step<GetUsageResponse__Output>('GetUsage', { image: volume });
    expect(usage.holders).to.have.length(1);
    expect(usage.holders[0]).to.deep.include({ address: admin.addresses()[0], watches: true, locks: true });
    const refusal = await failure(agent.step('TrashImage', { image: volume, defermentSeconds: 60 }));
    expect(refusal).to.include({ code: 9, reason: 'IN_USE' });
    expect(refusal.metadata.holders).to.include(admin.addresses()[0]);
    expect(await failure(agent.purge(volume))).to.include({ code: 9, reason: 'IN_USE' });
    await open.close();
    pool.close();
    expect((await agent.step<GetUsageResponse__Output>('GetUsage', { image: volume })).holders).to.deep.equal([]);
  });

  it('trashes, restores under a new name, and does either again', async () => {
    const volume = await create('vol');
    await write(volume, 'kept');
    const trash = (): Promise<object> => agent.step('TrashImage', { image: volume, defermentSeconds: 3600 });
    await trash();
    await trash();
    const { stdout } = await cluster.rbd('trash', 'ls', '--pool', 'moorage', '--all', '--format', 'json');
    expect(JSON.parse(stdout).map((each: { id: string }) => each.id)).to.include(volume.backendId);
    const restore = (newName: string): Promise<object> =>
      agent.step('RestoreImage', {
        catalogueEntry: { key: volume.name, value: Buffer.alloc(1) },
        image: volume,
        newName,
      });
    const taken = await create('vol');
    expect(await failure(restore(taken.name))).to.include({ code: 9, reason: 'NAME_TAKEN' });
    await restore(`${volume.name}.2`);
    await restore(`${volume.name}.2`);
    expect(await admin.withPool('moorage', (pool) => readImageId(pool, `${volume.name}.2`))).to.equal(volume.backendId);
    expect(await read(volume, 4)).to.equal('kept');
    const { stdout: info } = await cluster.rbd('info', `moorage/${volume.name}.2`, '--format', 'json');
    expect(JSON.parse(info).id).to.equal(volume.backendId);
  });

  it('purges from the record and leaves nothing, half destroyed ones too', async () => {
    const volume = await agent.create(uniqueName('vol'), SIZE);
    await write(volume, 'data');
    const { point } = await takePoint(volume, 'snap-1');
    volume.points = [point as Point__Output];
    const snapshot = await agent.create(uniqueName('snap'), SIZE, {
      parent: parentOf(volume),
      pointName: 'base',
    });
    await write(snapshot, 'copy-up');
    await removePoint(volume, point);
    expect(await failure(agent.purge(volume))).to.include({ code: 9, reason: 'HAS_CHILDREN' });
    await agent.step('TrashImage', { image: snapshot, defermentSeconds: 3600 });
    await agent.purge(snapshot);
    // The point waited for its last clone.
    const parentHeader = await admin.withPool('moorage', (pool) => readHeader(pool, volume.backendId));
    expect(parentHeader?.snapshots).to.deep.equal([]);
    // As a purge that was cut short leaves it: no header, no entry in the list.
    await admin.withPool('moorage', async (pool) => {
      await pool.remove(`rbd_header.${volume.backendId}`);
      await removeFromDirectory(pool, volume.name, volume.backendId);
    });
    await agent.purge(volume);
    await agent.purge(volume);
    await waitFor('no object of theirs is left', async () => {
      const left = await objectsWith(
        admin,
        'moorage',
        volume.backendId,
        volume.name,
        snapshot.backendId,
        snapshot.name,
      );
      return left.length === 0;
    });
    const keys = await catalogueKeys();
    expect(keys).to.not.include(volume.name).and.to.not.include(snapshot.name);
  });

  const catalogueKeys = async (limit = 7): Promise<string[]> => {
    const keys: string[] = [];
    for (let cursor = ''; ; ) {
      const request = { cursor, limit };
      const page = await agent.step<ListCatalogueEntriesResponse__Output>('ListCatalogueEntries', request);
      expect(page.entries.length).to.be.at.most(limit);
      keys.push(...page.entries.map((entry) => entry.key));
      if (page.nextCursor === '') return keys;
      cursor = page.nextCursor;
    }
  };

  it('lists the catalogue and the images in pages, each entry once', async () => {
    const entries = Array.from({ length: 40 }, (_, index) => `exp-list-${process.pid}-${index}`);
    await Promise.all(
      entries.map((key) => agent.step('PutCatalogueEntry', { entry: { key, value: Buffer.from(key) } })),
    );
    const keys = await catalogueKeys();
    expect(new Set(keys).size).to.equal(keys.length);
    expect(keys).to.include.members(entries);
    await Promise.all([...entries, 'exp-absent'].map((key) => agent.step('RemoveCatalogueEntry', { key })));
    expect(await catalogueKeys()).to.not.include.members(entries);

    const [live, trashed] = [await create('vol'), await create('vol')];
    await agent.step('TrashImage', { image: trashed, defermentSeconds: 60 });
    const images: string[] = [];
    for (let cursor = ''; ; ) {
      const page = await agent.step<ListImagesResponse__Output>('ListImages', { cursor, limit: 3 });
      images.push(...page.images.map((each) => `${each.name} ${each.backendId} ${each.trashed}`));
      if (page.nextCursor === '') break;
      cursor = page.nextCursor;
    }
    expect(new Set(images).size).to.equal(images.length);
    expect(images).to.include(`${live.name} ${live.backendId} false`);
    expect(images).to.include(`${trashed.name} ${trashed.backendId} true`);
    expect(await failure(agent.step('ListImages', { cursor: 'nonsense', limit: 3 }))).to.include({ code: 3 });
  });

  it('says that a full pool is full, and makes room for a purge', async () => {
    const name = `full-${process.pid}`;
    await cluster.ceph('osd', 'pool', 'create', name, '8', '8');
    await cluster.rbd('pool', 'init', name);
    const full = await new TestAgent(cluster, { pool: name }).ready();
    try {
      const image = await full.create(uniqueName('vol'), SIZE);
      await cluster.ceph('osd', 'pool', 'set-quota', name, 'max_objects', '1');
      const refusal = await waitFor('the pool is full', async () => {
        const outcome = await full.create(uniqueName('vol'), SIZE).catch((error: unknown) => error as { code: number });
        return 'code' in outcome ? outcome : undefined;
      });
      expect(refusal).to.include({ code: 8, reason: 'EDQUOT' });
      await full.purge(image);
    } finally {
      await full.kill();
      await cluster.ceph('osd', 'pool', 'delete', name, name, '--yes-i-really-really-mean-it');
    }
  });
});
