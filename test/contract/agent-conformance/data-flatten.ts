import { expect } from 'chai';
import type { Image__Output } from '../../../src/generated/moorage/backend/v1/Image.js';
import type { Point__Output } from '../../../src/generated/moorage/backend/v1/Point.js';
import { freshName, PERMANENT, refusal } from './client.js';
import { Images } from './images.js';
import type { Suite } from './suite.js';

/** Clones that become independent of their parents. */
export function describeFlatten(suite: Suite): void {
  describe('DataService: flattening', () => {
    let images: Images;
    before(() => {
      images = new Images(suite.client);
    });
    after(() => images.purgeAll());

    const flatten = async (image: Image__Output): Promise<void> => {
      for (let last = 0; ; ) {
        const { flattened, progressPercent } = await suite.client.data('FlattenImage', { image });
        expect(progressPercent).to.be.within(last, 100);
        if (flattened) return;
        last = progressPercent;
      }
    };

    const makeClone = async (): Promise<{ source: Image__Output; point: Point__Output; clone: Image__Output }> => {
      const source = await images.make();
      const point = await images.point(source);
      const clone = await images.make({ parent: source, point, pointName: 'base', name: freshName('snap') });
      return { source, point, clone };
    };

    it('FlattenImage, asked for until it is done, and again; then what it was cloned from can be purged', async () => {
      const { source, point, clone } = await makeClone();
      expect((await refusal(images.purge(source, [point]))).code, 'it has a clone').to.equal('FAILED_PRECONDITION');
      await flatten(clone);
      await flatten(clone);
      expect((await suite.client.data('StopFlatten', { image: clone })).flattened).to.equal(true);
      await images.purge(source, [point]);
      const copy = await images.make({ parent: clone });
      expect(await images.listed(copy.name)).to.have.length(1);
      await images.purge(copy);
      await images.purge(clone);
    });

    it('StopFlatten leaves a clone of its parent, or a flattened image, and says which; the clone can be flattened', async () => {
      const { source, point, clone } = await makeClone();
      expect((await suite.client.data('StopFlatten', { image: clone })).flattened, 'never begun').to.equal(false);
      const begun = suite.client.data('FlattenImage', { image: clone }).catch(() => undefined);
      const { flattened } = await suite.client.data('StopFlatten', { image: clone });
      await begun;
      if (!flattened) {
        expect((await refusal(images.purge(source, [point]))).code).to.equal('FAILED_PRECONDITION');
        await flatten(clone);
      }
      await images.purge(source, [point]);
      await images.purge(clone);
    });

    it('an image with another parent than the record says is refused for good', async () => {
      const { source, point, clone } = await makeClone();
      const image = { ...clone, parent: null };
      expect((await refusal(suite.client.data('FlattenImage', { image }))).code).to.be.oneOf(PERMANENT);
      await images.purge(clone);
      await images.purge(source, [point]);
    });
  });
}
