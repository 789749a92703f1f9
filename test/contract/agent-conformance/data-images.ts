import { expect } from 'chai';
import { freshName, PERMANENT, refusal } from './client.js';
import { Images, SIZE } from './images.js';
import type { Suite } from './suite.js';

/** Making, trashing, restoring and purging images. */
export function describeImages(suite: Suite): void {
  describe('DataService: images', () => {
    let images: Images;
    before(() => {
      images = new Images(suite.client);
    });
    after(() => images.purgeAll());

    it('GetPool tells capacity and what nodes need to know', async () => {
      const pool = await suite.client.data('GetPool', {});
      expect(Number(pool.capacityBytes)).to.be.greaterThan(0);
      expect(Number(pool.freeBytes)).to.be.at.least(0).and.at.most(Number(pool.capacityBytes));
      expect(pool.connector).not.to.equal('');
      expect(JSON.parse(pool.connectorJson.toString('utf8'))).to.be.an('object');
    });

    it('CreateImage again answers with the same image; the catalogue has its entry', async () => {
      const name = freshName();
      const first = await images.make({ name, pointName: 'base' });
      expect(first).to.include({ name, sizeBytes: String(SIZE) });
      expect(first.backendId).not.to.equal('');
      expect(first.points.map((point) => point.name)).to.deep.equal(['base']);
      expect(first.points[0]?.backendId).not.to.equal('');
      expect(await images.make({ name, pointName: 'base' })).to.deep.equal(first);
      expect((await images.entry(name))?.toString()).to.equal(`entry of ${name}`);
      expect(await images.listed(name)).to.deep.equal([{ name, backendId: first.backendId, trashed: false }]);
    });

    it('a clone knows its parent, may be larger, and is the same when asked for again', async () => {
      const parent = await images.make({ pointName: 'base' });
      const name = freshName();
      const clone = await images.make({ name, parent, size: 2 * SIZE });
      expect(clone.sizeBytes).to.equal(String(2 * SIZE));
      expect(await images.make({ name, parent, size: 2 * SIZE })).to.deep.equal(clone);
      expect((await refusal(images.purge(parent))).code, 'it has a child').to.equal('FAILED_PRECONDITION');
    });

    it('several that are asked for at once are all made, one name only once', async () => {
      const names = Array.from({ length: 6 }, () => freshName());
      const made = await Promise.all([...names, ...names].map((name) => images.make({ name })));
      for (const [index, name] of names.entries()) {
        expect(made[index + names.length]?.backendId, name).to.equal(made[index]?.backendId);
      }
      expect(new Set(made.map((image) => image.backendId)).size).to.equal(names.length);
    });

    it('what is there and is not what was asked for is not adopted', async () => {
      const name = freshName();
      const empty = await images.make({ name });
      const parent = await images.make({ pointName: 'base' });
      const asClone = await images.ask({ name, parent });
      expect(asClone.outcome).to.equal('unusable');
      expect(asClone.unusable?.image?.name).to.equal(name);
      expect(asClone.unusable?.reason).not.to.equal('');
      await images.purge(asClone.unusable?.image ?? empty);
      const second = await images.make({ name: `${name}.2`, parent });
      expect(second.backendId).not.to.equal(empty.backendId);
    });

    it('refuses for good what can never be made, and leaves no image', async () => {
      const parent = await images.make({ pointName: 'base' });
      const absent = { name: 'no-such-point', backendId: '999999' };
      for (const [what, wanted] of Object.entries({
        'no size': { size: 0 },
        'a negative size': { size: -1 },
        'no name': { name: '' },
        'a point that is not there': { parent, point: absent },
        'a clone smaller than its parent': { parent, size: SIZE / 2 },
      })) {
        const name = freshName();
        expect(PERMANENT, what).to.include((await refusal(images.ask({ name, ...wanted }))).code);
        expect(await images.listed(name), what).to.deep.equal([]);
      }
    });

    it('TrashImage and RestoreImage, each twice; a restored image keeps its identity', async () => {
      const image = await images.make();
      for (const _again of [1, 2]) await suite.client.data('TrashImage', { image, defermentSeconds: '0' });
      expect(await images.listed(image.name)).to.deep.equal([
        { name: image.name, backendId: image.backendId, trashed: true },
      ]);
      const newName = `${image.name}.2`;
      const request = { catalogueEntry: { key: newName, value: Buffer.from('restored') }, image, newName };
      for (const _again of [1, 2]) await suite.client.data('RestoreImage', request);
      expect(await images.listed(newName)).to.deep.equal([
        { name: newName, backendId: image.backendId, trashed: false },
      ]);
      expect(await images.listed(image.name)).to.deep.equal([]);
      expect((await images.entry(newName))?.toString()).to.equal('restored');
      await suite.client.data('PurgeImage', {
        image: { ...image, name: newName },
        formerNames: [image.name],
        catalogueKey: newName,
      });
      expect(await images.listed(newName)).to.deep.equal([]);
    });

    it('RestoreImage under a name that is taken is refused for good', async () => {
      const [image, taken] = [await images.make(), await images.make()];
      await suite.client.data('TrashImage', { image, defermentSeconds: '0' });
      const catalogueEntry = { key: taken.name, value: Buffer.from(`entry of ${taken.name}`) };
      const restore = suite.client.data('RestoreImage', { catalogueEntry, image, newName: taken.name });
      expect(PERMANENT).to.include((await refusal(restore)).code);
      expect(await images.listed(taken.name)).to.deep.equal([
        { name: taken.name, backendId: taken.backendId, trashed: false },
      ]);
    });

    it('an image with a child can be trashed, and its child still cloned from', async () => {
      const parent = await images.make({ pointName: 'base' });
      const child = await images.make({ parent, pointName: 'base' });
      await suite.client.data('TrashImage', { image: parent, defermentSeconds: '0' });
      await images.make({ parent: child });
    });

    it('PurgeImage twice: of a trashed image, of one that is not, of one whose id is not known, of nothing', async () => {
      const trashed = await images.make();
      await suite.client.data('TrashImage', { image: trashed, defermentSeconds: '0' });
      const whole = await images.make({ pointName: 'base' });
      const unknownId = { ...(await images.make()), backendId: '' };
      const nothing = { ...trashed, name: freshName(), backendId: '' };
      for (const image of [trashed, whole, unknownId, nothing]) {
        for (const _again of [1, 2]) await images.purge(image);
        expect(await images.listed(image.name)).to.deep.equal([]);
        expect(await images.entry(image.name)).to.equal(undefined);
      }
    });

    it('a purged image can be purged again after another has its name no more', async () => {
      const first = await images.make();
      await images.purge(first);
      const other = await images.make();
      await images.purge({ ...first, name: first.name });
      expect(await images.listed(other.name)).to.have.length(1);
    });
  });
}
