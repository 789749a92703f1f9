import { expect } from 'chai';
import { freshName, refusal } from './client.js';
import { Images, SIZE } from './images.js';
import type { Suite } from './suite.js';

/** Looking at images, entries and users without changing them, and putting lists of children right. */
export function describeLooking(suite: Suite): void {
  describe('looking, for check and repair', () => {
    let images: Images;
    before(() => {
      images = new Images(suite.client);
    });
    after(() => images.purgeAll());

    const inspect = async (...queries: readonly object[]) =>
      (await suite.client.data('InspectImages', { images: [...queries] })).images;

    it('InspectImages tells what there is, in the order asked, by id and by name', async () => {
      const parent = await images.make({ pointName: 'base' });
      const clone = await images.make({ parent, size: 2 * SIZE });
      const point = parent.points[0];
      const query = { name: clone.name, parent: clone.parent };
      const [byName, byId, nothing, above] = await inspect(
        query,
        { backendId: clone.backendId },
        { name: freshName() },
        { name: parent.name, backendId: parent.backendId },
      );
      expect(byName).to.deep.include({ backendId: clone.backendId, listedName: clone.name, trashedName: '' });
      expect(byName?.parentListsIt).to.equal(true);
      expect(byName?.header).to.deep.include({
        sizeBytes: String(2 * SIZE),
        parentBackendId: parent.backendId,
        parentPointBackendId: point?.backendId,
      });
      expect({ ...byId, parentListsIt: true }).to.deep.equal(byName);
      expect(nothing).to.deep.include({ backendId: '', listedName: '', trashedName: '', header: null });
      expect(above?.header?.points).to.deep.equal([
        {
          name: 'base',
          backendId: point?.backendId,
          trashed: false,
          children: [clone.backendId],
          missingChildren: [],
        },
      ]);
    });

    it('InspectImages finds an image in the trash by the name that it had', async () => {
      const image = await images.make();
      await suite.client.data('TrashImage', { image, defermentSeconds: '3600' });
      const [found] = await inspect({ name: image.name });
      expect(found).to.deep.include({ backendId: image.backendId, listedName: '', trashedName: image.name });
      const kept = Number(found?.keptUntilTime?.seconds) - Number(found?.trashTime?.seconds);
      expect(kept).to.equal(3600);
    });

    it('SetChild takes a clone off that is not there, never one that is, and puts one on', async () => {
      const parent = await images.make({ pointName: 'base' });
      const clone = await images.make({ parent });
      const point = { name: parent.name, backendId: parent.backendId, point: parent.points[0] ?? null };
      const set = (childBackendId: string, listed: boolean) =>
        suite.client.data('SetChild', { parent: point, childBackendId, listed });
      for (const _again of [1, 2]) await set(clone.backendId, true);
      expect((await refusal(set(clone.backendId, false))).code).to.equal('FAILED_PRECONDITION');
      for (const _again of [1, 2]) await set('feedbeef', true);
      const [stale] = await inspect({ backendId: parent.backendId });
      expect(stale?.header?.points[0]?.missingChildren).to.deep.equal(['feedbeef']);
      for (const _again of [1, 2]) await set('feedbeef', false);
      const [right] = await inspect({ backendId: parent.backendId });
      expect(right?.header?.points[0]?.children).to.deep.equal([clone.backendId]);
    });

    it('GetCatalogueEntries answers with those that are there', async () => {
      const keys = [freshName(), freshName(), freshName()];
      const [first = '', second = '', third = ''] = keys;
      for (const key of [first, third]) {
        await suite.client.data('PutCatalogueEntry', { entry: { key, value: Buffer.from(`of ${key}`) } });
      }
      const { entries } = await suite.client.data('GetCatalogueEntries', { keys });
      expect(entries.map(({ key, value }) => `${key} ${value.toString()}`).sort()).to.deep.equal(
        [first, third].map((key) => `${key} of ${key}`).sort(),
      );
      for (const key of keys) await suite.client.data('RemoveCatalogueEntry', { key });
      expect((await suite.client.data('GetCatalogueEntries', { keys: [second] })).entries).to.deep.equal([]);
    });

    it('InspectAccess tells whether a user is there, with its rights and its key, and changes nothing', async () => {
      const image = await images.make();
      const exportId = freshName('exp');
      const request = { exportId, image, ancestors: [], readOnly: false };
      const look = (more: object = {}) => suite.client.fence('InspectAccess', { ...request, ...more });
      expect(await look()).to.deep.equal({ exists: false, rightsMatch: false, accessMatches: false });
      const { accessJson } = await suite.client.fence('GrantAccess', request);
      expect(await look({ accessJson })).to.deep.equal({ exists: true, rightsMatch: true, accessMatches: true });
      expect(await look({ readOnly: true })).to.deep.equal({ exists: true, rightsMatch: false, accessMatches: false });
      expect((await look({ image: null })).exists).to.equal(true);
      await suite.client.fence('RevokeAccess', { exportId });
      expect((await look({ accessJson })).exists).to.equal(false);
    });
  });
}
