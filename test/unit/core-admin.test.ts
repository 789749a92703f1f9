import { expect } from 'chai';
import { keys, putTombstone } from '../../src/core/journal/documents.js';
import type { Finding, FindingClass } from '../../src/core/services/admin/findings.js';
import { markCopy } from '../../src/core/services/admin/hold.js';
import type { RepairAnswer } from '../../src/core/services/types.js';
import { admin, CoreWorld, callerOf, expectFailure } from '../helpers/core-world.js';
import { waitFor } from '../helpers/wait.js';

describe('core: check and repair', () => {
  let world: CoreWorld;
  beforeEach(async () => {
    world = await CoreWorld.make();
  });
  afterEach(() => world.end());

  const check = async (pageSize = 0): Promise<readonly Finding[]> => {
    const findings: Finding[] = [];
    let pageToken = '';
    do {
      const page = await world.core.services.admin.check({ poolId: '', pageSize, pageToken }, admin());
      findings.push(...page.findings);
      pageToken = page.nextPageToken;
    } while (pageToken !== '');
    return findings;
  };
  const repair = async (classes: readonly FindingClass[] = []): Promise<RepairAnswer> => {
    const request = { poolId: '', pageSize: 1000, pageToken: '', classes, resourceIds: [], validateOnly: false };
    return world.core.services.admin.repair(request, admin());
  };
  const classesOf = (findings: readonly Finding[]): string[] => findings.map((finding) => finding.class).sort();

  it('goes on where the page before ended, and a token is of its own caller and call', async () => {
    for (let made = 0; made < 230; made += 1) await world.createVolume();
    world.fake.catalogue.clear();
    const { admin: service } = world.core.services;
    const first = await service.check({ poolId: '', pageSize: 50, pageToken: '' }, admin());
    expect(first.nextPageToken).not.to.equal('');
    expect(first.findings.length).to.be.within(50, 150);
    const ids = new Set((await check(50)).map(({ resourceId }) => resourceId));
    expect(ids.size).to.equal(230);
    const { nextPageToken: pageToken } = first;
    const other = callerOf('somebody', 'admin');
    await expectFailure(service.check({ poolId: '', pageSize: 50, pageToken }, other), 'INVALID_ARGUMENT');
    await expectFailure(service.check({ poolId: 'ssd', pageSize: 50, pageToken }, admin()), 'INVALID_ARGUMENT');
    await expectFailure(service.check({ poolId: 'none', pageSize: 0, pageToken: '' }, admin()), 'NOT_FOUND');
    await repair();
    expect(await check()).to.deep.equal([]);
  });

  it('reports nothing that an operation is at, and counts it', async () => {
    const { id } = await world.createVolume();
    let go: () => void = () => undefined;
    const until = new Promise<void>((resolve) => {
      go = resolve;
    });
    world.fake.fault = (method) => (method === 'expandImage' ? { kind: 'hang', until } : undefined);
    const request = { clientToken: 'x', validateOnly: false, id, etag: '', sizeBytes: 2 ** 21 };
    const expanding = world.core.services.volumes.expand(request, admin());
    await waitFor('it is at it', () => world.fake.calls.some(({ method }) => method === 'expandImage'));
    const answer = await world.core.services.admin.check({ poolId: '', pageSize: 0, pageToken: '' }, admin());
    expect(answer.findings).to.deep.equal([]);
    expect(answer.progress.resources).to.equal(2);
    go();
    await expanding;
    expect(await check()).to.deep.equal([]);
  });

  it('finds what a late request made and clears it away by itself: an image, a user', async () => {
    const volume = await world.createVolume();
    const { resource } = await world.export(volume.id, 'node-a');
    const entry = world.fake.catalogue.get(volume.id) ?? new Uint8Array();
    const user = world.fake.users.get(resource.value.id);
    await world.unexport(resource.value.id);
    await world.deleteVolume(volume.id);
    world.ahead = 120_000;
    await world.core.reap();
    expect(world.fake.images.size).to.equal(0);
    // Both come after their operations have ended.
    world.fake.catalogue.set(volume.id, entry);
    const late = {
      id: 'beef',
      name: volume.id,
      sizeBytes: 1024,
      trashed: false,
      points: new Map(),
      data: new Map(),
      watchers: new Set<string>(),
      locks: new Set<string>(),
    };
    world.fake.images.set(late.id, late);
    if (user !== undefined) world.fake.users.set(resource.value.id, user);
    world.fake.sessions.set(resource.value.id, new Set(['10.0.0.9:0/77']));
    expect(classesOf(await check())).to.deep.equal(['access-orphaned', 'image-orphaned']);
    const { repaired } = await repair();
    expect(repaired.map(({ outcome }) => outcome)).to.deep.equal(['mended', 'mended']);
    expect(world.fake.users.size).to.equal(0);
    expect([...world.fake.cutOff], 'whoever was connected as it').to.include('10.0.0.9:0/77');
    await world.core.reap();
    expect(world.fake.images.size).to.equal(0);
    expect(await check()).to.deep.equal([]);
  });

  it('never purges what does not lie in the trash, whatever the store says', async () => {
    const volume = await world.createVolume();
    const name = await world.imageName(volume.id);
    await world.deleteVolume(volume.id);
    const image = world.fake.find(name);
    if (image === undefined) throw new Error('no image');
    image.trashed = false;
    world.ahead = 120_000;
    await world.core.reap();
    expect(world.fake.images.size, 'it was undeleted, and this store is older').to.equal(1);
    expect(classesOf(await check())).to.deep.equal(['image-not-trashed']);
    await repair(['image-not-trashed']);
    expect((await world.volume(volume.id)).state).to.equal('available');
  });

  it('an export that the store lost is not given to a second node, and an orphan of a gone one is not taken in', async () => {
    const volume = await world.createVolume();
    const { resource } = await world.export(volume.id, 'node-a');
    const id = resource.value.id;
    const entry = world.fake.catalogue.get(id) ?? new Uint8Array();
    await world.unexport(id);
    world.fake.catalogue.set(id, entry);
    expect(classesOf(await check())).to.deep.equal(['entry-stale']);
    await repair();
    expect(world.fake.catalogue.has(id)).to.equal(false);
    const { resource: second } = await world.export(volume.id, 'node-b');
    const document = await world.store.get(keys.export(second.value.id));
    await world.store.commit([{ kind: 'delete', key: keys.export(second.value.id), expect: document?.rev ?? 'any' }]);
    expect(classesOf(await check())).to.deep.equal(['export-list', 'export-not-in-store']);
    await repair();
    expect(await check()).to.deep.equal([]);
    await expectFailure(world.export(volume.id, 'node-c'), 'FAILED_PRECONDITION', 'VOLUME_IN_USE');
  });

  it('refuses changes on a restored store until a repair of everything, and ends what ran then', async () => {
    const volume = await world.createVolume();
    const other = await world.createVolume();
    await world.deleteVolume(other.id);
    await world.store.commit([...markCopy({ backupTime: 1, settled: false })]);
    await world.restart();
    await expectFailure(world.createVolume(), 'FAILED_PRECONDITION', 'STORE_RESTORED');
    await expectFailure(world.export(volume.id, 'node-a'), 'FAILED_PRECONDITION', 'STORE_RESTORED');
    expect((await world.volume(volume.id)).state).to.equal('available');
    const { admin: service } = world.core.services;
    const whole = { poolId: '', pageSize: 0, pageToken: '', classes: [], resourceIds: [], validateOnly: false };
    for (const part of [{ validateOnly: true }, { poolId: 'ssd' }, { classes: ['image-size' as const] }]) {
      expect((await service.repair({ ...whole, ...part }, admin())).stillHeld).to.equal(true);
    }
    expect((await service.repair(whole, admin())).stillHeld).to.equal(false);
    await world.createVolume();
  });

  it('a repair in which something fails does not let changes through', async () => {
    const volume = await world.createVolume();
    world.fake.catalogue.delete(volume.id);
    await world.store.commit([...markCopy({ backupTime: 1, settled: false })]);
    await world.restart();
    world.fake.fault = (method) => (method === 'putCatalogueEntry' ? { kind: 'permanent' } : undefined);
    const failed = await repair();
    expect(failed.repaired.map(({ outcome }) => outcome)).to.deep.equal(['failed']);
    expect(failed.stillHeld).to.equal(true);
    world.fake.fault = () => undefined;
    expect((await repair()).stillHeld).to.equal(false);
  });

  it('rebuilds only an empty store', async () => {
    const { admin: service } = world.core.services;
    await world.createVolume();
    const request = { validateOnly: false, pageToken: '' };
    await expectFailure(service.rebuild(request, admin()), 'FAILED_PRECONDITION', 'STORE_NOT_EMPTY');
  });

  it('an entry of another key, or moved to another id, is never believed', async () => {
    const volume = await world.createVolume();
    const entry = world.fake.catalogue.get(volume.id) ?? new Uint8Array();
    const stranger = 'vol-00000000000000001';
    world.fake.catalogue.set(stranger, entry);
    world.fake.catalogue.set('vol-00000000000000002', new TextEncoder().encode('{"id":"vol-00000000000000002"}'));
    world.fake.images.set('f00d', {
      id: 'f00d',
      name: stranger,
      sizeBytes: 1024,
      trashed: false,
      points: new Map(),
      data: new Map(),
      watchers: new Set(),
      locks: new Set(),
    });
    expect(classesOf(await check())).to.deep.equal(['entry-forged', 'entry-forged', 'image-unknown']);
    const { repaired } = await repair(['entry-forged', 'image-unknown', 'not-in-store', 'image-orphaned']);
    expect(repaired.map(({ outcome }) => outcome)).to.deep.equal(['left', 'left', 'left']);
    expect(world.fake.images.has('f00d')).to.equal(true);
  });

  it('the controller itself clears away what late requests made', async () => {
    await world.end();
    world = await CoreWorld.make({ reaperIntervalMilliseconds: 20, sweepIntervalMilliseconds: 40 });
    const volume = await world.createVolume();
    const user = { imageId: volume.image?.backendId ?? '', key: 'late' };
    world.fake.users.set('exp-00000000000000001', user);
    const entry = world.fake.catalogue.get(volume.id) ?? new Uint8Array();
    await world.store.commit([
      putTombstone(keys.volume(volume.id), { id: volume.id, state: 'gone', goneTime: 1 }, 'any'),
    ]);
    world.fake.catalogue.set(volume.id, entry);
    await waitFor('both are gone', () => world.fake.users.size === 0 && world.fake.images.size === 0);
    await waitFor('and the entry', () => !world.fake.catalogue.has(volume.id));
  });

  it('and gives a user back the rights that somebody changed by hand, and says so', async () => {
    await world.end();
    world = await CoreWorld.make({ reaperIntervalMilliseconds: 20, sweepIntervalMilliseconds: 40 });
    const volume = await world.createVolume();
    const exportId = (await world.export(volume.id, 'node-a')).resource.value.id;
    const granted = world.fake.users.get(exportId);
    world.fake.users.set(exportId, { imageId: 'of-another', key: granted?.key ?? '' });
    await waitFor('its rights to be right', () => world.fake.users.get(exportId)?.imageId === granted?.imageId);
    await waitFor('that to be told', () => world.notices.some((notice) => notice.includes('was put right')));
    expect(world.fake.users.get(exportId)).to.deep.equal(granted);
  });

  it('takes the image of a volume that was being made a moment ago for its own', async () => {
    let finish = (): void => undefined;
    const until = new Promise<void>((resolve) => {
      finish = resolve;
    });
    let tries = 0;
    let listed = false;
    let made: Promise<void> = Promise.resolve();
    world.fake.fault = (method) => {
      if (method === 'createImage') {
        tries += 1;
        return tries === 1 ? { kind: 'unknown-after' } : { kind: 'hang', until };
      }
      if (method === 'listImages') listed = true;
      if (method !== 'getCatalogueEntries' || !listed) return undefined;
      // The store said that it is being made; before it is looked at, it is done.
      finish();
      return { kind: 'hang', until: made };
    };
    const making = world.createVolume();
    made = making.then(() => undefined);
    await waitFor('the image to be there, and the volume not to be done', () => tries === 2);
    const { repaired } = await repair();
    expect(repaired).to.deep.equal([]);
    expect((await making).state).to.equal('available');
    await world.expectWhole();
  });

  it('tombstones tell what is late from what is lost', async () => {
    const volume = await world.createVolume();
    await world.store.commit([
      putTombstone(keys.volume(volume.id), { id: volume.id, state: 'gone', goneTime: 1 }, 'any'),
    ]);
    expect(classesOf(await check())).to.deep.equal(['image-orphaned']);
  });
});
