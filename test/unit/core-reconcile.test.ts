import { expect } from 'chai';
import { keys } from '../../src/core/journal/documents.js';
import type { StoredDocument } from '../../src/core/ports/store.js';
import { admin, CoreWorld, expectFailure, volumeRequest } from '../helpers/core-world.js';
import { waitFor } from '../helpers/wait.js';

describe('core: the store has another primary', () => {
  let world: CoreWorld;
  beforeEach(async () => {
    world = await CoreWorld.make({ storeIsExclusive: false, beatTimeoutMilliseconds: 10_000 });
  });
  afterEach(() => world.end());

  const repair = () =>
    world.core.services.admin.repair(
      { poolId: '', pageSize: 1000, pageToken: '', classes: [], resourceIds: [], validateOnly: false },
      admin(),
    );
  /** A controller begins on another primary, which has what the store has now. */
  const replace = async (primary: string): Promise<void> => {
    await world.core.stop(0);
    await world.core.leave();
    world.primary = primary;
    await world.start();
  };
  const compared = async (): Promise<unknown> => (await world.store.get(keys.primary))?.value;
  /** Documents as they are now, and how they come back: what was committed since is lost. */
  const keep = async (...names: readonly string[]): Promise<() => Promise<void>> => {
    const before = new Map(await Promise.all(names.map(async (key) => [key, await world.store.get(key)] as const)));
    return async () => {
      for (const [key, document] of before) await lose(key, document);
    };
  };
  const lose = async (key: string, before: StoredDocument | undefined): Promise<void> => {
    const write =
      before === undefined
        ? ({ kind: 'delete', key, expect: 'any' } as const)
        : ({ kind: 'put', key, expect: 'any', value: before.value, indexes: indexesOf(before) } as const);
    await world.store.commit([write]);
  };
  const indexesOf = ({ value }: StoredDocument) => {
    const { id, poolId } = value as { id: string; poolId: string };
    return [
      { index: `volumes-of-pool/${poolId}`, sort: id },
      { index: 'volumes-all', sort: id },
    ];
  };

  it('compares once, finds nothing, and goes on', async () => {
    const volume = await world.createVolume();
    await world.export(volume.id, 'node-a');
    const gone = await world.createVolume();
    await world.deleteVolume(gone.id);
    await replace('b');
    await world.createVolume();
    expect(await compared()).to.deep.equal({ time: 'b' });
    const looks = (): number => world.fake.calls.filter(({ method }) => method === 'listCatalogueEntries').length;
    const before = looks();
    await replace('b');
    await world.createVolume();
    expect(looks(), 'the primary is known').to.equal(before);
    await replace('c');
    await world.createVolume();
    expect(looks()).to.be.above(before);
    await world.expectWhole();
  });

  it('an export that was lost is noticed before a second node gets the volume', async () => {
    const volume = await world.createVolume();
    const back = await keep(keys.volume(volume.id));
    const { resource } = await world.export(volume.id, 'node-a');
    await world.store.commit([{ kind: 'delete', key: keys.export(resource.value.id), expect: 'any' }]);
    await back();
    await replace('b');
    await expectFailure(world.export(volume.id, 'node-b'), 'FAILED_PRECONDITION', 'STORE_LOST_CHANGES');
    expect(world.notices.join('\n')).to.match(/error: the new primary of the store lacks changes/);
    expect((await repair()).stillHeld).to.equal(false);
    await expectFailure(world.export(volume.id, 'node-b'), 'FAILED_PRECONDITION', 'VOLUME_IN_USE');
  });

  for (const [what, change] of [
    ['a creation', async () => undefined],
    ['a deletion', (id: string) => world.deleteVolume(id)],
  ] as const) {
    it(`${what} that was lost is noticed`, async () => {
      const volume = await world.createVolume();
      const back = await keep(keys.volume(volume.id));
      await change(volume.id);
      if (what === 'a creation') await lose(keys.volume(volume.id), undefined);
      else await back();
      await replace('b');
      await expectFailure(world.createVolume(), 'FAILED_PRECONDITION', 'STORE_LOST_CHANGES');
      expect((await repair()).stillHeld).to.equal(false);
      await world.createVolume();
    });
  }

  it('ends what ran without a step when something was lost', async () => {
    const volume = await world.createVolume();
    const other = await world.createVolume();
    await stuck();
    await lose(keys.volume(other.id), undefined);
    world.fake.fault = () => undefined;
    world.fake.calls.splice(0);
    await replace('b');
    await expectFailure(world.createVolume(), 'FAILED_PRECONDITION', 'STORE_LOST_CHANGES');
    await waitFor('nothing runs', async () => {
      const { items } = await world.core.services.operations.list(running, admin());
      return items.length === 0;
    });
    expect(world.fake.calls.filter(({ method }) => method === 'createImage')).to.deep.equal([]);
    expect((await world.volume(volume.id)).state).to.equal('available');
  });

  it('while the storage cannot be asked, nothing is changed or resumed; then it goes on by itself', async () => {
    const operation = await stuck();
    world.fake.fault = (method) => (method === 'listImages' ? { kind: 'not-begun' } : undefined);
    world.fake.calls.splice(0);
    await replace('b');
    await expectFailure(world.createVolume(), 'UNAVAILABLE', 'STORE_RECONCILING');
    const asked = (): number => world.fake.calls.filter(({ method }) => method === 'listImages').length;
    await waitFor('it is tried again', () => asked() > 2);
    expect(world.fake.calls.filter(({ method }) => method === 'createImage')).to.deep.equal([]);
    world.fake.fault = () => undefined;
    await world.createVolume();
    await waitFor('what ran is done', async () => {
      const { state } = await world.core.services.operations.get(operation, admin());
      return state === 'succeeded';
    });
    await world.expectWhole();
  });

  const running = { pageSize: 0, pageToken: '', resourceId: '', states: ['running'] } as const;

  /** Begins a creation whose step never comes to its end. @returns its operation */
  async function stuck(): Promise<string> {
    world.fake.fault = (method) =>
      method === 'createImage' ? { kind: 'hang', until: new Promise(() => undefined), deaf: false } : undefined;
    void world.core.services.volumes.create(volumeRequest({}), admin(200)).catch(() => undefined);
    await waitFor('the step to be sent', () => world.fake.calls.some(({ method }) => method === 'createImage'));
    const { items } = await world.core.services.operations.list(running, admin());
    return items[0]?.id ?? '';
  }
});
