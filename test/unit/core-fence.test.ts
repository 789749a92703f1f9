import { expect } from 'chai';
import { listAll } from '../../src/core/journal/agents.js';
import { indexes, keys } from '../../src/core/journal/documents.js';
import type { CutOff, Node } from '../../src/core/model/resources.js';
import { judgeCutOff } from '../../src/core/reaper/cut-offs.js';
import { admin, CoreWorld, expectFailure, mutation } from '../helpers/core-world.js';
import { waitFor } from '../helpers/wait.js';

const DAY = 86_400;
const CLIENT = '10.0.0.1:0/7';

describe('core: who is cut off, and stays so', () => {
  let world: CoreWorld;
  let volumeId: string;
  beforeEach(async () => {
    world = await CoreWorld.make();
    volumeId = (await world.createVolume()).id;
  });
  afterEach(async () => {
    try {
      await world.expectWhole();
    } finally {
      await world.end();
    }
  });

  const recorded = async () => (await listAll<CutOff>(world.store, indexes.cutOffs)).map(({ value }) => value);
  const fence = (id: string, caller = admin()) =>
    world.core.services.nodes.fence({ ...mutation(), id, etag: '', reason: 'lost' }, caller);
  const unfence = (id: string, clientsAreDead = true) =>
    world.core.services.nodes.unfence({ ...mutation(), id, etag: '', clientsAreDead }, admin());
  const check = async () => {
    const request = { poolId: '', pageSize: 0, pageToken: '' };
    const { findings } = await world.core.services.admin.check(request, admin());
    return findings.map(({ class: what, resourceId }) => `${what} ${resourceId}`);
  };
  const repair = () =>
    world.core.services.admin.repair(
      { poolId: '', pageSize: 0, pageToken: '', classes: [], resourceIds: [], validateOnly: false },
      admin(),
    );
  const addresses = async (nodeId: string, storageAddresses: readonly string[]) => {
    const document = await world.store.get<Node>(keys.node(nodeId));
    if (document === undefined) throw new Error(`there is no ${nodeId}`);
    const index = [{ index: indexes.nodes, sort: nodeId }];
    const value = { ...document.value, storageAddresses };
    await world.store.commit([{ kind: 'put', key: document.key, expect: document.rev, value, indexes: index }]);
  };

  async function openExport(nodeId = 'node-a', address = CLIENT): Promise<string> {
    const exportId = (await world.export(volumeId, nodeId)).resource.value.id;
    world.fake.openVolume(exportId, address);
    return exportId;
  }

  describe('Unexport with force', () => {
    it('records each client before it is cut off, with why', async () => {
      const exportId = await openExport();
      const known: string[][] = [];
      world.fake.fault = (method) => {
        if (method === 'cutOff') void recorded().then((all) => known.push(all.map(({ address }) => address)));
        return undefined;
      };
      await world.unexport(exportId, true);
      await waitFor('the record to be read', () => known.length > 0);
      expect(known[0]).to.deep.equal([CLIENT]);
      expect(await recorded()).to.have.length(1);
      const [entry] = await recorded();
      expect(entry).to.include({ reason: 'export', subjectId: exportId, nodeId: 'node-a', lifted: false });
    });

    it('a client whose entry is missing on the storage is found by Check, and cut off again by Repair', async () => {
      await world.unexport(await openExport(), true);
      expect(await check()).to.deep.equal([]);
      world.fake.cutOff.delete(CLIENT);
      world.fake.cutOffUntil.delete(CLIENT);
      expect(await check()).to.deep.equal(['cut-off-missing node-a']);
      await repair();
      expect([...world.fake.cutOff]).to.include(CLIENT);
      expect(await check()).to.deep.equal([]);
    });
  });

  describe('FenceNode', () => {
    it('deletes the users, cuts the clients off, and lets nothing be exported until UnfenceNode', async () => {
      const exportId = await openExport();
      const { resource } = await fence('node-a');
      expect(resource.value.fence).to.include({ state: 'fenced', reason: 'lost', operationId: '' });
      expect([...world.fake.cutOff]).to.deep.equal([CLIENT]);
      expect(world.fake.users.has(exportId)).to.equal(false);
      await expectFailure(world.export(volumeId, 'node-a'), 'FAILED_PRECONDITION', 'NODE_FENCED');
      const other = (await world.createVolume()).id;
      await expectFailure(world.export(other, 'node-a'), 'FAILED_PRECONDITION', 'NODE_FENCED');
      await world.export(other, 'node-b');
      await expectFailure(unfence('node-a'), 'FAILED_PRECONDITION', 'NODE_IN_USE');
      expect(await check(), 'its users are to be gone').to.deep.equal([]);
      await world.unexport(exportId, true);
      await world.export(volumeId, 'node-c');
      await expectFailure(unfence('node-a', false), 'FAILED_PRECONDITION', 'CLIENTS_MAY_LIVE');
      const let_in = await unfence('node-a');
      expect(let_in.resource.value.fence).to.equal(undefined);
      expect([...world.fake.cutOff]).to.deep.equal([]);
      await world.export((await world.createVolume()).id, 'node-a');
      expect(await check()).to.deep.equal([]);
    });

    it('cuts its addresses off first and whole; a client elsewhere with its own address', async () => {
      await addresses('node-a', ['10.0.0.1', 'fd00::1']);
      const exportId = await openExport();
      world.fake.sessions.get(exportId)?.add('10.7.7.7:0/9');
      await fence('node-a');
      expect([...world.fake.cutOff]).to.have.members(['10.0.0.1:0/0', '[fd00::1]:0/0', '10.7.7.7:0/9']);
      const first = world.fake.calls.findIndex(({ method }) => method === 'cutOff');
      expect(world.fake.calls.findIndex(({ method }) => method === 'revokeAccess')).to.be.above(first);
      await world.unexport(exportId, true);
    });

    it('an address that may not be cut off fails the call, and leaves everything as it was', async () => {
      await addresses('node-a', ['10.0.0.1']);
      const exportId = await openExport();
      world.fake.fault = (method) =>
        method === 'cutOff' ? { kind: 'permanent', reason: 'CUTS_OFF_ITSELF' } : undefined;
      await expectFailure(fence('node-a'), 'FAILED_PRECONDITION');
      world.fake.fault = () => undefined;
      expect(await recorded()).to.deep.equal([]);
      expect(world.fake.users.has(exportId)).to.equal(true);
      const { value } = await world.core.services.nodes.get('node-a', admin());
      expect(value.fence).to.equal(undefined);
    });

    it('an Export that had begun before ends, and its user is deleted', async () => {
      let release: () => void = () => undefined;
      const until = new Promise<void>((resolve) => {
        release = resolve;
      });
      world.fake.fault = (method) => (method === 'grantAccess' ? { kind: 'hang', until } : undefined);
      const exporting = world.export(volumeId, 'node-a').catch((error: unknown) => error);
      await waitFor('the export to be at its step', () =>
        world.fake.calls.some((call) => call.method === 'grantAccess'),
      );
      const { resource } = await fence('node-a', admin(300));
      expect(resource.value.fence?.state).to.equal('fencing');
      world.fake.fault = () => undefined;
      release();
      await world.idle();
      expect(await exporting).to.include({ reason: 'NODE_FENCED' });
      expect((await world.core.services.nodes.get('node-a', admin())).value.fence?.state).to.equal('fenced');
      expect([...world.fake.users.keys()]).to.deep.equal([]);
      const [exportId = ''] = (await world.volume(volumeId)).exportIds;
      await world.unexport(exportId, true);
    });

    for (const stop of ['cutOff', 'revokeAccess', 'listClients']) {
      it(`goes on after the controller died at ${stop}`, async () => {
        await addresses('node-a', ['10.0.0.2']);
        const exportId = await openExport();
        const until = new Promise<void>(() => undefined);
        world.fake.fault = (method) => (method === stop ? { kind: 'hang', until } : undefined);
        const { resource } = await fence('node-a', admin(200));
        expect(resource.value.fence?.state).to.equal('fencing');
        world.fake.fault = () => undefined;
        await world.restart();
        await world.idle();
        expect((await world.core.services.nodes.get('node-a', admin())).value.fence?.state).to.equal('fenced');
        expect([...world.fake.cutOff]).to.include.members(['10.0.0.2:0/0', CLIENT]);
        expect(world.fake.users.has(exportId)).to.equal(false);
        await world.unexport(exportId, true);
      });
    }

    it('fencing twice is OK, and a token makes one call', async () => {
      const request = { ...mutation(), id: 'node-a', etag: '', reason: '' };
      const first = await world.core.services.nodes.fence(request, admin());
      const again = await world.core.services.nodes.fence(request, admin());
      expect(again.operationId).to.equal(first.operationId);
      expect((await fence('node-a')).operationId).to.equal('');
      await expectFailure(
        world.core.services.nodes.fence({ ...request, reason: 'other' }, admin()),
        'ALREADY_EXISTS',
        'TOKEN_REUSED',
      );
    });

    it('a cut-off that came late after UnfenceNode is found by Check and taken back by Repair', async () => {
      await world.unexport(await openExport(), true);
      await unfence('node-a');
      world.fake.cutOff.add(CLIENT);
      world.fake.cutOffUntil.set(CLIENT, Date.now() + DAY * 1000);
      expect(await check()).to.deep.equal(['cut-off-left node-a']);
      await repair();
      expect([...world.fake.cutOff]).to.deep.equal([]);
    });
  });

  it('what is missing, or has half of its time left, is renewed by the pass; what is dead runs out', () => {
    const now = 1e12;
    const cutOff: CutOff = {
      ...{ cluster: 'main', address: CLIENT, reason: 'export', subjectId: 'exp-1', nodeId: 'node-a' },
      ...{ provenDead: false, lifted: false, createTime: now, updateTime: now },
    };
    const in_ = (days: number) => now + days * DAY * 1000;
    const judge = (one: Partial<CutOff>, until: number | undefined, at = now) =>
      judgeCutOff({ ...cutOff, ...one }, until, at, 30 * DAY);
    expect(judge({}, in_(20))).to.equal('as-it-should-be');
    expect(judge({}, in_(14))).to.equal('renew');
    expect(judge({}, undefined)).to.equal('renew');
    expect(judge({ provenDead: true }, undefined)).to.equal('as-it-should-be');
    expect(judge({ provenDead: true }, undefined, in_(31))).to.equal('forget');
    expect(judge({ lifted: true }, in_(3))).to.equal('left-behind');
    expect(judge({ lifted: true }, undefined)).to.equal('as-it-should-be');
    expect(judge({ lifted: true }, undefined, in_(2))).to.equal('forget');
  });
});

describe('core: the pass over who is cut off', () => {
  it('cuts off again who is missing on the storage, and renews who has half of the time left', async () => {
    const world = await CoreWorld.make({ reaperIntervalMilliseconds: 20, cutOffIntervalMilliseconds: 20 });
    try {
      const { id } = await world.createVolume();
      const exportId = (await world.export(id, 'node-a')).resource.value.id;
      world.fake.openVolume(exportId, CLIENT);
      await world.unexport(exportId, true);
      world.fake.cutOff.delete(CLIENT);
      world.fake.cutOffUntil.delete(CLIENT);
      await waitFor('it to be cut off again', () => world.fake.cutOff.has(CLIENT));
      await waitFor('that to be told', () => world.notices.some((notice) => notice.includes('stay cut off')));
      world.fake.cutOffUntil.set(CLIENT, Date.now() + 3 * DAY * 1000);
      await waitFor('it to be renewed', () => (world.fake.cutOffUntil.get(CLIENT) ?? 0) > Date.now() + 20 * DAY * 1000);
    } finally {
      await world.end();
    }
  });
});
