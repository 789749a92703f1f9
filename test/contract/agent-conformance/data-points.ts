import { randomBytes } from 'node:crypto';
import { expect } from 'chai';
import { freshName, PERMANENT, refusal } from './client.js';
import { Images, SIZE } from './images.js';
import type { Suite } from './suite.js';

/** Points in time, growth, connections, and the catalogue. */
export function describePoints(suite: Suite): void {
  describe('DataService: points, growth, connections', () => {
    let images: Images;
    before(() => {
      images = new Images(suite.client);
    });
    after(() => images.purgeAll());

    it('TakePoint again answers with the same point; it can be cloned', async () => {
      const image = await images.make();
      await images.connected(async (connectionId) => {
        const request = { connectionId, image, pointName: 'p-1' };
        const first = await suite.client.data('TakePoint', request);
        expect(first.point?.name).to.equal('p-1');
        expect(first.point?.backendId).not.to.equal('');
        expect(first.sizeBytes).to.equal(String(SIZE));
        expect(Number(first.time?.seconds)).to.be.greaterThan(1_600_000_000);
        expect(await suite.client.data('TakePoint', request)).to.deep.equal(first);
        const other = await suite.client.data('TakePoint', { ...request, pointName: 'p-2' });
        expect(other.point?.backendId).not.to.equal(first.point?.backendId);
        const clone = await images.make({ parent: image, ...(first.point ? { point: first.point } : {}) });
        // One with a clone goes with it; to the caller it is removed.
        for (const point of [first.point, other.point]) {
          for (const _again of [1, 2]) await suite.client.data('RemovePoint', { connectionId, image, point });
        }
        expect(await images.listed(clone.name)).to.have.length(1);
        await images.purge(clone);
        await images.purge(
          image,
          [first.point, other.point].filter((point) => point !== null),
        );
      });
    });

    it('ExpandImage grows, again does nothing, and never shrinks', async () => {
      const image = await images.make();
      await images.connected(async (connectionId) => {
        const grow = async (size: number) =>
          Number((await suite.client.data('ExpandImage', { connectionId, image, sizeBytes: String(size) })).sizeBytes);
        expect(await grow(2 * SIZE)).to.equal(2 * SIZE);
        expect(await grow(2 * SIZE)).to.equal(2 * SIZE);
        expect(await grow(SIZE)).to.equal(2 * SIZE);
        const { sizeBytes } = await suite.client.data('TakePoint', { connectionId, image, pointName: 'p' });
        expect(Number(sizeBytes)).to.equal(2 * SIZE);
      });
      await images.purge({ ...image, largestSizeBytes: String(2 * SIZE), points: [{ name: 'p', backendId: '' }] });
    });

    it('connections differ; closing twice, or what never was, is OK', async () => {
      const [one, two] = [await suite.client.data('OpenConnection', {}), await suite.client.data('OpenConnection', {})];
      expect(one.connectionId).not.to.equal(two.connectionId);
      for (const address of one.addresses) expect(two.addresses).not.to.include(address);
      for (const connectionId of [one.connectionId, one.connectionId, two.connectionId, 'never-was']) {
        await suite.client.data('CloseConnection', { connectionId });
      }
    });

    it('a step on a connection that is not open is refused with UNKNOWN_CONNECTION, not for good', async () => {
      const image = await images.make();
      const { connectionId } = await suite.client.data('OpenConnection', {});
      await suite.client.data('CloseConnection', { connectionId });
      for (const step of [
        suite.client.data('TakePoint', { connectionId, image, pointName: 'p' }),
        suite.client.data('ExpandImage', { connectionId, image, sizeBytes: String(2 * SIZE) }),
        suite.client.data('RemovePoint', { connectionId, image, point: { name: 'p', backendId: '1' } }),
      ]) {
        const error = await refusal(step);
        expect(error.reason).to.equal('UNKNOWN_CONNECTION');
        expect(PERMANENT).not.to.include(error.code);
      }
    });

    it('steps on an image that is not there', async () => {
      const image = await images.make();
      await images.purge(image);
      await images.connected(async (connectionId) => {
        const take = suite.client.data('TakePoint', { connectionId, image, pointName: 'p' });
        expect((await refusal(take)).code).to.equal('NOT_FOUND');
        const grow = suite.client.data('ExpandImage', { connectionId, image, sizeBytes: String(2 * SIZE) });
        expect((await refusal(grow)).code).to.equal('NOT_FOUND');
        await suite.client.data('RemovePoint', { connectionId, image, point: { name: 'p', backendId: '1' } });
      });
    });

    it('nobody uses an image that nobody has open', async () => {
      expect((await suite.client.data('GetUsage', { image: await images.make() })).holders).to.deep.equal([]);
    });
  });

  describe('DataService: catalogue and lists', () => {
    it('keeps what is put, any bytes; replaces; removes twice', async () => {
      const images = new Images(suite.client);
      const key = freshName('exp');
      for (const value of [randomBytes(3000), Buffer.from([0, 255, 0]), Buffer.alloc(0)]) {
        for (const _again of [1, 2]) await suite.client.data('PutCatalogueEntry', { entry: { key, value } });
        expect(await images.entry(key)).to.deep.equal(value);
      }
      for (const _again of [1, 2]) await suite.client.data('RemoveCatalogueEntry', { key });
      expect(await images.entry(key)).to.equal(undefined);
    });

    it('gives each entry once over pages of any size', async () => {
      const keys = Array.from({ length: 25 }, () => freshName('exp'));
      for (const key of keys) {
        await suite.client.data('PutCatalogueEntry', { entry: { key, value: Buffer.from(key) } });
      }
      try {
        const found: string[] = [];
        for (let cursor = ''; ; ) {
          const page = await suite.client.data('ListCatalogueEntries', { cursor, limit: 7 });
          expect(page.entries.length).to.be.at.most(7);
          found.push(...page.entries.map((entry) => entry.key));
          cursor = page.nextCursor;
          if (cursor === '') break;
        }
        expect(found).to.include.members(keys);
        expect(new Set(found).size).to.equal(found.length);
      } finally {
        for (const key of keys) await suite.client.data('RemoveCatalogueEntry', { key });
      }
    });

    it('lists every image once over pages of any size', async () => {
      const images = new Images(suite.client);
      try {
        const made = [await images.make(), await images.make(), await images.make()];
        await suite.client.data('TrashImage', { image: made[1] ?? null, defermentSeconds: '0' });
        const found: { backendId: string; trashed: boolean }[] = [];
        for (let cursor = ''; ; ) {
          const page = await suite.client.data('ListImages', { cursor, limit: 2 });
          expect(page.images.length).to.be.at.most(2);
          found.push(...page.images);
          cursor = page.nextCursor;
          if (cursor === '') break;
        }
        const states = made.map((image) => found.filter((each) => each.backendId === image.backendId));
        expect(states.map((each) => each.map((one) => one.trashed))).to.deep.equal([[false], [true], [false]]);
      } finally {
        await images.purgeAll();
      }
    });

    it('a pool that is not there is refused for good', async () => {
      const settings = Object.fromEntries(
        Object.entries(suite.client.target.settings).map(([key, value]) => [key, `${value}-absent`]),
      );
      const error = await refusal(suite.client.data('GetPool', {}, suite.client.step('GetPool', { settings })));
      expect(PERMANENT).to.include(error.code);
    });
  });
}
