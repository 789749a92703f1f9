import { expect } from 'chai';
import type { Volume } from '../../src/client/index.js';
import { checkAll } from '../helpers/admin.js';
import { cleanUp } from '../helpers/clean-up.js';
import { type Guest, type GuestDisk, startGuest } from '../helpers/guest.js';
import { failureOf, HypervisorNode, moorage, moorageJson, type NodeExport } from '../helpers/node.js';
import { auditPool, type Inventory, takeInventory } from '../helpers/pool-audit.js';
import { endAtFirstFailure } from '../helpers/steps.js';
import { type System, startSystem } from '../helpers/system.js';

const MEBIBYTE = 2 ** 20;
/** Seed, offset and length. */
const PATTERN = `7 ${4 * MEBIBYTE} ${4 * MEBIBYTE}`;

describe('the store is lost, and rebuilt from the catalogue', function () {
  this.timeout(300_000);
  endAtFirstFailure();
  let system: System;
  let node: HypervisorNode;
  let guest: Guest;
  let disk: GuestDisk;
  let running: NodeExport;
  let former: Inventory;
  let publicKey: Buffer;
  const ids = { running: '', written: '', copy: '', deleted: '' };

  before(async () => {
    system = await startSystem({ name: 'rebuild', undeleteWindowSeconds: 3600 });
    node = await HypervisorNode.enrol(system, 'rebuild-a');
    publicKey = (await system.client.getNode({ nodeId: node.id })).node?.publicKey ?? Buffer.alloc(0);
  });
  after(async () => {
    await cleanUp(
      () => node?.remove(),
      () => system?.remove(),
    );
  });

  const create = async (...parameters: string[]): Promise<string> =>
    (await moorageJson<Volume>(system, 'volume', 'create', ...parameters)).id;

  it('has volumes, snapshots of them, volumes made from those, deleted ones, and a guest that runs', async () => {
    ids.written = await create('--size', '64MiB', '--name', 'written', '--tag', 'team=blue');
    ids.running = await create('--size', '64MiB', '--multi-attach');
    running = await node.export(ids.running);
    const { stdout: xml } = await node.storageUtils('connect', '--descriptor', running.file, '--target', 'vdb');
    guest = await startGuest({ host: node.host, name: 'one', disksXml: [xml] });
    await guest.waitForDisk(ids.running);
    const written = await node.export(ids.written);
    await node.attach(written, 'one');
    disk = await guest.waitForDisk(ids.written);
    expect(await guest.command(`write-pattern ${disk.name} ${PATTERN}`)).to.include({ ok: true });
    await moorage(system, 'volume', 'expand', ids.written, '--size', '128MiB');
    const { id: snapshotId } = await moorageJson<{ id: string }>(
      system,
      'snapshot',
      'create',
      ids.written,
      '--name',
      's',
    );
    await node.release(written, 'one');
    ids.copy = await create('--from-snapshot', snapshotId);
    const second = await moorageJson<{ id: string }>(system, 'snapshot', 'create', ids.copy);
    await create('--from-snapshot', second.id, '--size', '256MiB');
    ids.deleted = await create('--from-snapshot', second.id);
    await moorage(system, 'volume', 'delete', ids.deleted);
    expect(await checkAll(system)).to.deep.equal([]);
    former = await takeInventory(system);
  });

  it('refuses to rebuild a store that has volumes', async () => {
    const refused = await failureOf(moorage(system, 'rebuild'));
    expect(refused.exitCode, refused.message).to.equal(4);
    expect(refused.stderr).to.contain('Rebuild is for an empty one');
  });

  it('is empty without its store, and whole again after a rebuild; what cannot be known is listed', async () => {
    await system.kill();
    await system.store.lose();
    await system.start();
    const without = await failureOf(moorage(system, 'rebuild'));
    expect(without.stderr).to.contain('no pools');
    const parameters = ['--cluster', 'main', '--ceph-pool', system.cephPool, '--undelete-window', '1h'];
    await moorage(system, 'pool', 'create', 'main', ...parameters);
    const found = await failureOf(moorage(system, 'check'));
    expect(found.exitCode, found.message).to.equal(1);
    expect(found.stdout).to.contain('not-in-store');
    const dry = await moorage(system, 'rebuild', '--dry-run');
    expect(dry.stdout).to.contain('would mend');
    expect((await takeInventory(system)).volumes).to.deep.equal([]);
    const { stdout } = await moorage(system, 'rebuild');
    expect(stdout).to.contain(`The node ${node.id} has 1 open exports (${running.exportId})`);
    const { stdout: checked } = await moorage(system, 'check');
    expect(checked).to.equal('Nothing differs.\n');
    const { problems } = await auditPool(system);
    expect(problems).to.deep.equal([]);
  });

  it('has everything that there was: sizes, states, tags, names, sources, depths, exports', async () => {
    const essence = ({ volumes, snapshots, exports }: Inventory) => ({
      volumes: volumes
        .map((volume) => {
          const { id, state, sizeBytes, displayName, tags, source, cloneDepth, multiAttach, createTime, exportIds } =
            volume;
          return { id, state, sizeBytes, displayName, tags, source, cloneDepth, multiAttach, createTime, exportIds };
        })
        .sort((a, b) => (a.id < b.id ? -1 : 1)),
      snapshots: snapshots
        .map((snapshot) => {
          const { id, state, sizeBytes, displayName, volumeId, cloneDepth, pointTime, createTime } = snapshot;
          return { id, state, sizeBytes, displayName, volumeId, cloneDepth, pointTime, createTime };
        })
        .sort((a, b) => (a.id < b.id ? -1 : 1)),
      exports: exports.map(({ id, volumeId, nodeId, state, readOnly, createTime }) => {
        return { id, volumeId, nodeId, state, readOnly, createTime };
      }),
    });
    expect(essence(await takeInventory(system))).to.deep.equal(essence(former));
  });

  it('serves: the guest runs on, its export is the same one, and the node exports again once it is registered', async () => {
    await guest.command(`write-pattern ${(await guest.waitForDisk(ids.running)).name} 5 0 ${MEBIBYTE}`);
    await system.client.registerNode({ nodeId: node.id, publicKey });
    const again = await node.export(ids.running);
    expect(again.exportId).to.equal(running.exportId);
    expect(again.payload.access).to.deep.equal(running.payload.access);
    await moorage(system, 'volume', 'undelete', ids.deleted);
  });

  it('a guest boots from a volume that was made from a snapshot, with what was written before', async () => {
    const exported = await node.export(ids.copy);
    const { stdout: xml } = await node.storageUtils('connect', '--descriptor', exported.file, '--target', 'vdb');
    const second = await startGuest({ host: node.host, name: 'two', disksXml: [xml] });
    const copy = await second.waitForDisk(ids.copy);
    expect(await second.command(`read-pattern ${copy.name} ${PATTERN}`)).to.include({ ok: true });
    await node.release(exported, 'two');
    expect(await checkAll(system)).to.deep.equal([]);
  });

  it('and what was rebuilt is deleted and purged as anything else', async () => {
    const { stdout } = await moorage(system, 'store', 'backup');
    expect(stdout.trim()).to.match(/\/backup\/store-.*\.db$/);
    await moorage(system, 'volume', 'delete', ids.deleted);
    expect(await checkAll(system)).to.deep.equal([]);
  });
});
