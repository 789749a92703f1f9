import { randomUUID } from 'node:crypto';
import { expect } from 'chai';
import { newId } from '../../src/core/model/ids.js';
import type { Grant } from '../../src/core/model/resources.js';
import { admin, CoreWorld, callerOf, expectFailure, mutation } from '../helpers/core-world.js';

const node = (name: string) => callerOf(name, 'node');

describe('core: exports', () => {
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

  async function grant(nodeId: string, options: Partial<Grant> & { lifetimeMilliseconds?: number } = {}) {
    const { instance = '', migration = false, readOnly = false, lifetimeMilliseconds = 0 } = options;
    const request = { ...mutation(), volumeId, nodeId, instance, migration, readOnly, lifetimeMilliseconds };
    return (await world.core.services.exports.grant(request, admin())).resource.id;
  }

  function redeem(grantId: string, caller = node('node-a'), id = volumeId) {
    return world.core.services.exports.export({ ...mutation(), volumeId: id, grantId }, caller);
  }

  describe('the rules', () => {
    it('1: a second node is refused, and told who holds the volume', async () => {
      const first = await world.export(volumeId, 'node-a');
      const error = await expectFailure(world.export(volumeId, 'node-b'), 'FAILED_PRECONDITION', 'VOLUME_IN_USE');
      expect(error.message).to.contain('node-a');
      expect(error.metadata).to.include({ node_ids: 'node-a', export_ids: first.resource.value.id });
    });

    it('1: of eight calls at once for different nodes one wins', async () => {
      const calls = Array.from({ length: 8 }, (_, index) =>
        world.export(volumeId, index % 2 === 0 ? 'node-a' : 'node-b').then(
          (answer) => answer.resource.value.nodeId,
          (error: { code: string }) => error.code,
        ),
      );
      const answers = await Promise.all(calls);
      const winners = new Set(answers.filter((answer) => answer.startsWith('node-')));
      expect(winners.size).to.equal(1);
      expect(answers.filter((answer) => answer === 'FAILED_PRECONDITION')).to.have.length(4);
    });

    it('2: a migration lets in one more for the same instance, and no third', async () => {
      const source = await world.export(volumeId, 'node-a', { instance: 'web1' });
      const wish = { instance: 'web1', migration: true };
      const refused = [{ instance: 'web1' }, { instance: 'web2', migration: true }];
      for (const options of refused) {
        await expectFailure(world.export(volumeId, 'node-b', options), 'FAILED_PRECONDITION', 'VOLUME_IN_USE');
      }
      const destination = await world.export(volumeId, 'node-b', wish);
      expect(destination.resource.value.migration).to.equal(true);
      const { exports } = world.core.services;
      expect((await exports.get(source.resource.value.id, admin())).value.migration).to.equal(true);
      const third = await expectFailure(world.export(volumeId, 'node-c', wish), 'FAILED_PRECONDITION');
      expect(third.metadata.node_ids).to.equal('node-a,node-b');
    });

    for (const side of ['source', 'destination'] as const) {
      it(`2: Unexport of the ${side} leaves an ordinary export, which can migrate again`, async () => {
        const wish = { instance: 'web1', migration: true };
        const source = await world.export(volumeId, 'node-a', { instance: 'web1' });
        const destination = await world.export(volumeId, 'node-b', wish);
        const [ended, left] = side === 'source' ? [source, destination] : [destination, source];
        await world.unexport(ended.resource.value.id);
        const { value } = await world.core.services.exports.get(left.resource.value.id, admin());
        expect(value.migration).to.equal(false);
        expect((await world.volume(volumeId)).exportIds).to.deep.equal([value.id]);
        await world.export(volumeId, 'node-c', wish);
      });
    }

    it('2: the two sides are two users, and cutting one off leaves the other', async () => {
      const source = (await world.export(volumeId, 'node-a', { instance: 'web1' })).resource.value.id;
      const destination = await world.export(volumeId, 'node-b', { instance: 'web1', migration: true });
      world.fake.openVolume(source, '10.0.0.1:0/1');
      world.fake.openVolume(destination.resource.value.id, '10.0.0.2:0/2');
      await world.unexport(source, true);
      expect([...world.fake.cutOff])
        .to.include('10.0.0.1:0/1')
        .and.not.include('10.0.0.2:0/2');
      const image = world.fake.find(volumeId);
      expect([...(image?.watchers ?? [])]).to.deep.equal(['10.0.0.2:0/2']);
      expect([...(image?.locks ?? [])]).to.deep.equal([]);
    });

    it('3: multi-attach lets in any number', async () => {
      const { id } = await world.createVolume({ multiAttach: true });
      for (const name of ['node-a', 'node-b', 'node-c']) await world.export(id, name);
      expect((await world.volume(id)).exportIds).to.have.length(3);
    });

    it('4: the same node is the same export, on the same terms', async () => {
      const first = await world.export(volumeId, 'node-a', { instance: 'web1' });
      const again = await world.export(volumeId, 'node-a', { instance: 'web1' });
      expect(again.resource.value.id).to.equal(first.resource.value.id);
      expect(again.operationId).to.equal('');
      expect(again.descriptor.length).to.be.above(0);
      const others = [{ instance: 'web2' }, { instance: 'web1', readOnly: true }];
      for (const options of others) {
        await expectFailure(world.export(volumeId, 'node-a', options), 'ALREADY_EXISTS', 'EXPORTED_ON_OTHER_TERMS');
      }
    });

    it('5: an export that is being withdrawn counts', async () => {
      const exportId = (await world.export(volumeId, 'node-a', { instance: 'web1' })).resource.value.id;
      let release: () => void = () => undefined;
      const until = new Promise<void>((resolve) => {
        release = resolve;
      });
      world.fake.fault = (method) => (method === 'revokeAccess' ? { kind: 'hang', until } : undefined);
      const slow = await world.unexport(exportId, false, admin(100));
      expect(slow.resource?.value.state).to.equal('unexporting');
      expect(slow.operationId).to.match(/^op-/);
      const wish = { instance: 'web1', migration: true };
      await expectFailure(world.export(volumeId, 'node-b', wish), 'FAILED_PRECONDITION', 'VOLUME_IN_USE');
      await expectFailure(world.export(volumeId, 'node-a'), 'ABORTED', 'OPERATION_IN_PROGRESS');
      await expectFailure(world.deleteVolume(volumeId), 'FAILED_PRECONDITION', 'VOLUME_IN_USE');
      world.fake.fault = () => undefined;
      release();
      await world.idle();
      await world.export(volumeId, 'node-b');
    });
  });

  it('delete of an exported volume names who holds it', async () => {
    await world.export(volumeId, 'node-a');
    const error = await expectFailure(world.deleteVolume(volumeId), 'FAILED_PRECONDITION', 'VOLUME_IN_USE');
    expect(error.message).to.contain('node-a');
  });

  it('a volume that is being deleted cannot be exported or snapshotted', async () => {
    let release: () => void = () => undefined;
    const until = new Promise<void>((resolve) => {
      release = resolve;
    });
    world.fake.fault = (method) => (method === 'trashImage' ? { kind: 'hang', until } : undefined);
    const { volumes } = world.core.services;
    const slow = await volumes.delete({ ...mutation(), id: volumeId, etag: '' }, admin(100));
    expect(slow.resource?.value.state).to.equal('deleting');
    await expectFailure(world.export(volumeId, 'node-a'), 'FAILED_PRECONDITION', 'VOLUME_NOT_AVAILABLE');
    await expectFailure(world.createSnapshot(volumeId), 'FAILED_PRECONDITION', 'VOLUME_NOT_AVAILABLE');
    release();
    await world.idle();
  });

  it('an export that is being made: no descriptor yet, and Unexport is told to wait', async () => {
    let release: () => void = () => undefined;
    const until = new Promise<void>((resolve) => {
      release = resolve;
    });
    world.fake.fault = (method) => (method === 'grantAccess' ? { kind: 'hang', until } : undefined);
    const clientToken = randomUUID();
    const direct = {
      nodeId: 'node-a',
      instance: '',
      migration: false,
      readOnly: false,
      descriptorLifetimeMilliseconds: 0,
    };
    const request = { clientToken, validateOnly: false, volumeId, grantId: '', direct };
    const slow = await world.core.services.exports.export(request, admin(100));
    expect(slow.resource.value.state).to.equal('exporting');
    expect(slow.descriptor.length).to.equal(0);
    await expectFailure(world.unexport(slow.resource.value.id), 'ABORTED', 'OPERATION_IN_PROGRESS');
    release();
    const done = await world.core.services.exports.export(request, admin());
    expect(done.resource.value.id).to.equal(slow.resource.value.id);
    expect(done.descriptor.length).to.be.above(0);
  });

  it('a call that found all done does not do it when it is made once more and that is undone', async () => {
    const first = await world.export(volumeId, 'node-a');
    const clientToken = randomUUID();
    const second = await world.export(volumeId, 'node-a', { clientToken });
    expect(second.resource.value.id).to.equal(first.resource.value.id);
    await world.unexport(first.resource.value.id);
    await expectFailure(world.export(volumeId, 'node-a', { clientToken }), 'NOT_FOUND', 'GONE');
    expect((await world.volume(volumeId)).exportIds).to.deep.equal([]);
  });

  describe('Unexport', () => {
    it('is refused while the export is open, also by a frozen host that only holds its lock', async () => {
      const exportId = (await world.export(volumeId, 'node-a')).resource.value.id;
      world.fake.openVolume(exportId, '10.0.0.1:0/1');
      const error = await expectFailure(world.unexport(exportId), 'FAILED_PRECONDITION', 'EXPORT_OPEN');
      expect(error.metadata).to.include({ node_id: 'node-a', addresses: '10.0.0.1:0/1' });
      world.fake.freeze('10.0.0.1:0/1');
      await expectFailure(world.unexport(exportId), 'FAILED_PRECONDITION', 'EXPORT_OPEN');
      world.fake.closeVolume(exportId, '10.0.0.1:0/1');
      await world.unexport(exportId);
      expect((await world.unexport(exportId)).resource).to.equal(undefined);
    });

    it('by force cuts off in order, also who comes in between, and is joined by a second one', async () => {
      const exportId = (await world.export(volumeId, 'node-a')).resource.value.id;
      world.fake.openVolume(exportId, '10.0.0.1:0/1');
      let late = false;
      world.fake.fault = (method) => {
        if (method === 'cutOff' && !late) {
          late = true;
          // It had a session with a monitor before its user was deleted.
          world.fake.sessions.get(exportId)?.add('10.0.0.1:0/2');
          world.fake.find(volumeId)?.watchers.add('10.0.0.1:0/2');
        }
        return undefined;
      };
      const before = world.fake.calls.length;
      await Promise.all([world.unexport(exportId, true), world.unexport(exportId, true)]);
      expect([...world.fake.cutOff]).to.include.members(['10.0.0.1:0/1', '10.0.0.1:0/2']);
      const methods = world.fake.calls.slice(before).map(({ method }) => method);
      expect(methods[0]).to.equal('revokeAccess');
      expect(methods.filter((method) => method === 'cutOff')).to.have.length(2);
      expect(methods.lastIndexOf('listClients')).to.be.above(methods.lastIndexOf('cutOff'));
      expect([...(world.fake.find(volumeId)?.locks ?? [])]).to.deep.equal([]);
    });

    it("force is an administrator's; another node's export looks as if it never was", async () => {
      const exportId = (await world.export(volumeId, 'node-a')).resource.value.id;
      await expectFailure(world.unexport(exportId, true, node('node-a')), 'PERMISSION_DENIED');
      await expectFailure(world.unexport(exportId, false, node('node-b')), 'NOT_FOUND');
      const { exports } = world.core.services;
      const told = async (id: string, caller = node('node-b')) => {
        const failures = [exports.get(id, caller), world.unexport(id, false, caller), world.unexport(id, true, caller)];
        const errors = await Promise.all(failures.map((failure) => expectFailure(failure, 'NOT_FOUND')));
        return errors.map(({ reason, message, metadata }) =>
          JSON.stringify({ reason, message, metadata }).replaceAll(id, 'EXPORT'),
        );
      };
      const unknown = await told(newId('exp'));
      expect(await told(exportId)).to.deep.equal(unknown);
      const list = { pageSize: 1, pageToken: '', volumeId, nodeId: 'node-a' };
      expect(await exports.list(list, node('node-b'))).to.deep.equal({ items: [], nextPageToken: '' });
      await world.unexport(exportId, false, node('node-a'));
      expect(await told(exportId)).to.deep.equal(unknown);
      expect((await world.unexport(exportId, false, node('node-a'))).resource).to.equal(undefined);
      // The name of an administrator and of a node may be the same, and a client token is known by the name.
      const other = await world.createVolume();
      const direct = {
        ...{ nodeId: 'node-a', instance: '', migration: false, readOnly: false },
        descriptorLifetimeMilliseconds: 0,
      };
      const request = { ...mutation(), volumeId: other.id, grantId: '', direct };
      await exports.export(request, callerOf('node-b', 'admin'));
      await expectFailure(exports.export(request, node('node-b')), 'NOT_FOUND');
    });
  });

  describe('grants', () => {
    it('a node exports by a grant of its own alone', async () => {
      const grantId = await grant('node-a');
      const { exports } = world.core.services;
      const nothing = exports.export({ ...mutation(), volumeId, grantId: '' }, node('node-a'));
      await expectFailure(nothing, 'PERMISSION_DENIED', 'GRANT_REQUIRED');
      await expectFailure(exports.export({ ...mutation(), volumeId, grantId: '' }, admin()), 'INVALID_ARGUMENT');
      await expectFailure(redeem(grantId, node('node-b')), 'PERMISSION_DENIED', 'GRANT_NOT_YOURS');
      await expectFailure(redeem(newId('grant')), 'PERMISSION_DENIED', 'GRANT_NOT_YOURS');
      await expectFailure(redeem(newId('vol')), 'INVALID_ARGUMENT');
      const other = (await world.createVolume()).id;
      await expectFailure(redeem(grantId, node('node-a'), other), 'PERMISSION_DENIED', 'GRANT_NOT_YOURS');
      expect((await redeem(grantId)).descriptor.length).to.be.above(0);
    });

    it('an expired one is refused; a redeemed one is good as long as the export lives, and no longer', async () => {
      const late = await grant('node-b', { lifetimeMilliseconds: 1_000 });
      const grantId = await grant('node-a', { lifetimeMilliseconds: 1_000 });
      const first = await redeem(grantId);
      world.ahead += 2_000;
      await expectFailure(redeem(late, node('node-b')), 'FAILED_PRECONDITION', 'GRANT_EXPIRED');
      expect((await redeem(grantId)).resource.value.id).to.equal(first.resource.value.id);
      await world.unexport(first.resource.value.id);
      await expectFailure(redeem(grantId), 'FAILED_PRECONDITION', 'GRANT_REDEEMED');
    });

    it('one from before the node was registered anew is refused', async () => {
      const grantId = await grant('node-a');
      await world.core.services.nodes.remove({ ...mutation(), id: 'node-a', etag: '' }, admin());
      world.ahead += 10;
      await world.registerNode('node-a');
      await expectFailure(redeem(grantId), 'FAILED_PRECONDITION', 'NODE_REPLACED');
    });

    it('is for one machine: who gets the node’s name later cannot redeem it, whatever the clocks of controllers say', async () => {
      const grantId = await grant('node-a');
      await world.core.services.nodes.remove({ ...mutation(), id: 'node-a', etag: '' }, admin());
      await expectFailure(redeem(grantId), 'NOT_FOUND');
      world.ahead -= 60_000;
      await world.registerNode('node-a');
      await expectFailure(redeem(grantId), 'FAILED_PRECONDITION', 'NODE_REPLACED');
    });

    it('the export has the instance and the mode of its grant, and the node cannot ask for others', async () => {
      const grantId = await grant('node-a', { instance: 'web1', readOnly: true });
      const direct = {
        ...{ nodeId: 'node-a', instance: 'web2', migration: false, readOnly: false },
        descriptorLifetimeMilliseconds: 0,
      };
      const { exports } = world.core.services;
      await expectFailure(
        exports.export({ ...mutation(), volumeId, grantId: '', direct }, node('node-a')),
        'PERMISSION_DENIED',
      );
      await expectFailure(
        exports.export({ ...mutation(), volumeId, grantId, direct }, node('node-a')),
        'INVALID_ARGUMENT',
      );
      expect((await redeem(grantId)).resource.value).to.include({ instance: 'web1', readOnly: true, grantId });
    });

    it('one redemption: of many calls at once, with tokens of their own, one export comes', async () => {
      const grantId = await grant('node-a');
      const answers = await Promise.all(Array.from({ length: 8 }, () => redeem(grantId)));
      const ids = new Set(answers.map((answer) => answer.resource.value.id));
      expect(ids.size).to.equal(1);
      await world.unexport([...ids][0] ?? '');
      await expectFailure(redeem(grantId), 'FAILED_PRECONDITION', 'GRANT_REDEEMED');
    });

    it('one that found the export there is redeemed by it', async () => {
      const { id } = (await world.export(volumeId, 'node-a')).resource.value;
      const grantId = await grant('node-a');
      expect((await redeem(grantId)).resource.value.id).to.equal(id);
      await world.unexport(id);
      await expectFailure(redeem(grantId), 'FAILED_PRECONDITION', 'GRANT_REDEEMED');
    });

    it('one that was taken back cannot be redeemed; what was redeemed before goes on', async () => {
      const { exports } = world.core.services;
      const revoke = (grantId: string, clientToken?: string) =>
        exports.revokeGrant({ ...mutation(), ...(clientToken && { clientToken }), grantId }, admin());
      const late = await grant('node-a');
      const dry = await exports.revokeGrant({ ...mutation(), validateOnly: true, grantId: late }, admin());
      expect(dry.resource.revokeTime).to.be.a('number');
      const first = await revoke(late, 'once');
      expect((await revoke(late, 'once')).resource).to.deep.equal(first.resource);
      expect((await revoke(late)).resource).to.deep.equal(first.resource);
      await expectFailure(redeem(late), 'FAILED_PRECONDITION', 'GRANT_REVOKED');
      const grantId = await grant('node-a');
      const exported = await redeem(grantId);
      await revoke(grantId);
      const again = await redeem(grantId);
      expect(again.resource.value.id).to.equal(exported.resource.value.id);
      expect(again.descriptor.length).to.be.above(0);
      await expectFailure(revoke(newId('grant')), 'NOT_FOUND');
      await expectFailure(revoke('grant-1'), 'INVALID_ARGUMENT');
    });

    it('taken back while it is redeemed: one of the two comes first, and the other sees it', async () => {
      for (let round = 0; round < 5; round += 1) {
        const grantId = await grant('node-a');
        const [redeemed, revoked] = await Promise.all([
          redeem(grantId).then(
            (answer) => answer.resource.value.id,
            (error: { reason: string }) => error.reason,
          ),
          world.core.services.exports.revokeGrant({ ...mutation(), grantId }, admin()),
        ]);
        if (redeemed === 'GRANT_REVOKED') expect(revoked.resource.exportId).to.equal('');
        else await world.unexport(redeemed);
      }
    });

    it('another node’s is told from none in no way', async () => {
      const mine = await grant('node-a');
      const failure = async (grantId: string, id = volumeId) => {
        const { code, reason, message, metadata } = await expectFailure(
          redeem(grantId, node('node-b'), id),
          'PERMISSION_DENIED',
        );
        return JSON.stringify({ code, reason, message, metadata })
          .replaceAll(grantId, 'GRANT')
          .replaceAll(id, 'VOLUME');
      };
      const unknown = await failure(newId('grant'), newId('vol'));
      expect(await failure(mine)).to.equal(unknown);
      await redeem(mine);
      expect(await failure(mine)).to.equal(unknown);
    });

    it('lifetimes that make no sense are refused', async () => {
      for (const lifetimeMilliseconds of [-1, Number.NaN, 25 * 3_600_000]) {
        await expectFailure(grant('node-a', { lifetimeMilliseconds }), 'INVALID_ARGUMENT');
      }
      await expectFailure(grant('node-a', { migration: true }), 'INVALID_ARGUMENT');
      await expectFailure(grant('nobody'), 'NOT_FOUND');
    });

    it('a node with exports is not removed', async () => {
      await world.export(volumeId, 'node-a');
      const remove = world.core.services.nodes.remove({ ...mutation(), id: 'node-a', etag: '' }, admin());
      await expectFailure(remove, 'FAILED_PRECONDITION', 'NODE_IN_USE');
    });

    /** Holds the answer of the next call of a kind back until told; resolves once it is held. */
    function holdNext(wanted: 'getMany' | 'list'): { readonly held: Promise<void>; readonly release: () => void } {
      let [release, isHeld] = [(): void => undefined, (): void => undefined];
      const until = new Promise<void>((resolve) => {
        release = resolve;
      });
      const held = new Promise<void>((resolve) => {
        isHeld = resolve;
      });
      world.storeFault = (method) => {
        if (method !== wanted) return undefined;
        world.storeFault = () => undefined;
        isHeld();
        return until;
      };
      return { held, release };
    }

    it('a node is not removed when an export begins, or has even ended, after the look at its exports', async () => {
      const request = { ...mutation(), id: 'node-a', etag: '' };
      const begun = holdNext('list');
      const remove = world.core.services.nodes.remove(request, admin());
      await begun.held;
      const exportId = (await world.export(volumeId, 'node-a')).resource.value.id;
      begun.release();
      await expectFailure(remove, 'FAILED_PRECONDITION', 'NODE_IN_USE');
      await world.unexport(exportId);
      // One that is exported to another node is nothing to it.
      const other = holdNext('list');
      const again = world.core.services.nodes.remove({ ...mutation(), id: 'node-a', etag: '' }, admin());
      await other.held;
      await world.export(volumeId, 'node-b');
      other.release();
      await again;
      await expectFailure(world.core.services.nodes.get('node-a', admin()), 'NOT_FOUND');
    });

    it('an export whose node is removed after it was looked at fails', async () => {
      // It looks at the volume's other exports right after the node.
      const looked = holdNext('getMany');
      const exported = world.export(volumeId, 'node-a');
      await looked.held;
      await world.core.services.nodes.remove({ ...mutation(), id: 'node-a', etag: '' }, admin());
      looked.release();
      await expectFailure(exported, 'NOT_FOUND');
    });
  });
});
