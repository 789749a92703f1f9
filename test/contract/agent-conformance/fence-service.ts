import { expect } from 'chai';
import type { Image__Output } from '../../../src/generated/moorage/backend/v1/Image.js';
import { freshName, refusal } from './client.js';
import { Holder } from './holder.js';
import { Images } from './images.js';
import type { Suite } from './suite.js';

const DAY = '86400';

/** Who may reach what, and cutting off. */
export function describeFenceService(suite: Suite): void {
  describe('FenceService', () => {
    let images: Images;
    before(() => {
      images = new Images(suite.client);
    });
    after(() => images.purgeAll());

    const listAccess = async (): Promise<readonly string[]> => (await suite.client.fence('ListAccess', {})).exportIds;

    it('GrantAccess again gives the same; RevokeAccess twice; ListAccess follows', async () => {
      const parent = await images.make({ pointName: 'base' });
      const image = await images.make({ parent });
      const exportId = freshName('exp');
      const request = { exportId, image, ancestors: [parent], readOnly: false };
      const first = await suite.client.fence('GrantAccess', request);
      expect(JSON.parse(first.accessJson.toString('utf8'))).to.be.an('object');
      expect(await suite.client.fence('GrantAccess', request)).to.deep.equal(first);
      await suite.client.fence('GrantAccess', { ...request, readOnly: true });
      expect(await suite.client.fence('GrantAccess', request), 'as before').to.deep.equal(first);
      expect(await listAccess()).to.include(exportId);
      for (const _again of [1, 2]) await suite.client.fence('RevokeAccess', { exportId });
      expect(await listAccess()).not.to.include(exportId);
      await suite.client.fence('GrantAccess', request);
      expect(await listAccess()).to.include(exportId);
      await suite.client.fence('RevokeAccess', { exportId });
    });

    it('GrantAccess without an image or with an id that is none is refused with INVALID_ARGUMENT', async () => {
      const image = await images.make();
      const exportId = freshName('exp');
      for (const request of [
        { exportId, image: null },
        { exportId: '', image },
        { exportId: 'a/b', image },
        { exportId, image: { ...image, backendId: '' } },
      ]) {
        expect((await refusal(suite.client.fence('GrantAccess', request))).code).to.equal('INVALID_ARGUMENT');
      }
    });

    it('nobody is connected where nobody is; no lock is broken where none is', async () => {
      const image = await images.make();
      for (const request of [
        { exportId: freshName('exp'), image },
        { exportId: '', image },
        { exportId: freshName('exp'), image: null },
      ]) {
        expect((await suite.client.fence('ListClients', request)).addresses).to.deep.equal([]);
      }
      const locks = { image, ownerAddresses: ['192.0.2.1:0/1'] };
      expect((await suite.client.fence('BreakLocks', locks)).broken).to.equal(0);
      // Asked of a pool to see whether the agent may work in it.
      const none = { image: { name: freshName('vol'), backendId: '' }, ownerAddresses: [] };
      expect((await suite.client.fence('BreakLocks', none)).broken).to.equal(0);
    });

    it('CutOff and LiftCutOff, each twice; ListCutOff follows', async () => {
      const addresses = [`192.0.2.7:0/${1 + Math.floor(Math.random() * 2 ** 31)}`];
      const listed = async () => (await suite.client.fence('ListCutOff', {})).entries;
      for (const _again of [1, 2]) await suite.client.fence('CutOff', { addresses, expirySeconds: DAY });
      const entry = (await listed()).find((each) => each.address === addresses[0]);
      expect(Number(entry?.expireTime?.seconds)).to.be.greaterThan(Date.now() / 1000 + 80_000);
      for (const _again of [1, 2]) await suite.client.fence('LiftCutOff', { addresses });
      expect((await listed()).map((each) => each.address)).not.to.include(addresses[0]);
    });

    it('CutOff for less than a day is refused with INVALID_ARGUMENT', async () => {
      const cut = suite.client.fence('CutOff', { addresses: ['192.0.2.7:0/1'], expirySeconds: '86399' });
      expect((await refusal(cut)).code).to.equal('INVALID_ARGUMENT');
    });

    describe('with a node that has an image open', () => {
      before(function () {
        if (suite.client.target.hold === undefined) this.skip();
      });

      async function held(): Promise<{ image: Image__Output; exportId: string; holder: Holder }> {
        const image = await images.make();
        const exportId = freshName('exp');
        const grant = { exportId, image, ancestors: [], readOnly: false };
        const { accessJson } = await suite.client.fence('GrantAccess', grant);
        const { connectorJson } = await suite.client.data('GetPool', {});
        const holder = await Holder.start(suite.client.target.hold ?? [], {
          image: image.name,
          connector: JSON.parse(connectorJson.toString('utf8')),
          access: JSON.parse(accessJson.toString('utf8')),
        });
        return { image, exportId, holder };
      }

      it('it is found by user and by image; the image cannot be trashed or purged; released, it can', async () => {
        const { image, exportId, holder } = await held();
        try {
          const { holders } = await suite.client.data('GetUsage', { image });
          expect(holders).to.have.length(1);
          expect(holders[0]).to.include({ watches: true, locks: true });
          const address = holders[0]?.address;
          for (const request of [
            { exportId, image: null },
            { exportId: '', image },
            { exportId, image },
          ]) {
            expect((await suite.client.fence('ListClients', request)).addresses).to.deep.equal([address]);
          }
          const trash = suite.client.data('TrashImage', { image, defermentSeconds: '0' });
          expect((await refusal(trash)).code).to.equal('FAILED_PRECONDITION');
          expect((await refusal(images.purge(image))).code).to.equal('FAILED_PRECONDITION');
          expect(await images.listed(image.name)).to.have.length(1);
          // Points and growth go on while it is open.
          await images.point(image);
        } finally {
          await holder.release();
        }
        await suite.client.fence('RevokeAccess', { exportId });
        await suite.client.data('TrashImage', { image, defermentSeconds: '0' });
      });

      it('cut off, and its lock broken, it holds nothing any more', async () => {
        const { image, exportId, holder } = await held();
        try {
          await suite.client.fence('RevokeAccess', { exportId });
          const { addresses } = await suite.client.fence('ListClients', { exportId, image });
          expect(addresses).to.have.length(1);
          await suite.client.fence('CutOff', { addresses, expirySeconds: DAY });
          for (const broken of [1, 0]) {
            const answer = await suite.client.fence('BreakLocks', { image, ownerAddresses: addresses });
            expect(answer.broken).to.equal(broken);
          }
          expect((await suite.client.data('GetUsage', { image })).holders).to.deep.equal([]);
          await suite.client.data('TrashImage', { image, defermentSeconds: '0' });
          await holder.kill();
          await suite.client.fence('LiftCutOff', { addresses });
        } finally {
          await holder.kill();
        }
      });
    });
  });
}
