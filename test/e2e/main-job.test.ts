import { expect } from 'chai';
import type { Snapshot, Volume } from '../../src/client/index.js';
import { cleanUp } from '../helpers/clean-up.js';
import { type Guest, type GuestDisk, type RecordsReport, startGuest, type WriterStatus } from '../helpers/guest.js';
import { failureOf, HypervisorNode, moorage, moorageJson, type NodeExport } from '../helpers/node.js';
import { auditPool } from '../helpers/pool-audit.js';
import { SecretScan } from '../helpers/secret-scan.js';
import { endAtFirstFailure } from '../helpers/steps.js';
import { type System, startSystem } from '../helpers/system.js';
import { waitFor } from '../helpers/wait.js';

const MEBIBYTE = 2 ** 20;
const GIBIBYTE = 2 ** 30;
/** Seed, offset and length of the pattern: behind the area of the writer's records. */
const PATTERN = `7 ${16 * MEBIBYTE} ${8 * MEBIBYTE}`;

describe('the main job, through the commands, while every process is looked at for secrets', function () {
  this.timeout(300_000);
  endAtFirstFailure();
  let scan: SecretScan;
  let system: System;
  let nodeA: HypervisorNode;
  let nodeB: HypervisorNode;
  let first: Guest;
  let second: Guest;
  let disk: GuestDisk;
  let volumeId: string;
  let snapshotId: string;
  let copyId: string;
  let exported: NodeExport;
  const exportIds: string[] = [];
  /** The writer in the first guest just before and just after the snapshot was asked for. */
  let writerBefore: WriterStatus;
  let writerAfter: WriterStatus;

  before(async () => {
    scan = await SecretScan.start();
    const settings = { metrics: { address: '127.0.0.1:0' }, log: { level: 'trace' } };
    system = await startSystem({ name: 'main-job', settings });
    await scan.watchSystem(system);
    nodeA = await HypervisorNode.enrol(system, 'job-a');
    nodeB = await HypervisorNode.enrol(system, 'job-b');
    await Promise.all([nodeA, nodeB].map((node) => scan.watchNode(node)));
  });
  after(async () => {
    await cleanUp(
      () => nodeA?.remove(),
      () => nodeB?.remove(),
      () => system?.remove(),
      () => scan?.stop(),
    );
  });

  const exportTo = async (node: HypervisorNode, id: string): Promise<NodeExport> => {
    const made = await node.export(id);
    exportIds.push(made.exportId);
    scan.learnExport(made.payload);
    return made;
  };

  it('makes a volume and exports it: a descriptor on stdout', async () => {
    const volume = await moorageJson<Volume>(system, 'volume', 'create', '--size', '10GiB', '--name', 'db');
    expect(volume).to.include({ state: 'VOLUME_STATE_AVAILABLE', displayName: 'db' });
    volumeId = volume.id;
    exported = await exportTo(nodeA, volumeId);
    expect(exported.payload).to.deep.include({ volume_id: volumeId, node_id: 'job-a', size_bytes: 10 * GIBIBYTE });
  });

  it('boots a guest with the XML that connect prints', async () => {
    const { stdout: xml } = await nodeA.storageUtils('connect', '--descriptor', exported.file, '--target', 'vdb');
    expect(await nodeA.secrets()).to.have.lengthOf(1);
    first = await startGuest({ host: nodeA.host, name: 'web1', disksXml: [xml] });
    disk = await first.waitForDisk(volumeId);
    expect(disk).to.include({ size_bytes: 10 * GIBIBYTE, read_only: false });
    expect(await first.command(`write-pattern ${disk.name} ${PATTERN}`)).to.include({ ok: true });
  });

  it('refuses a node that the volume is not exported to', async () => {
    const stolen = await failureOf(nodeB.storageUtils('connect', '--descriptor', exported.file, '--target', 'vdb'));
    expect(stolen.exitCode, stolen.message).to.equal(3);
    expect(await nodeB.secrets()).to.deep.equal([]);
    const held = await failureOf(moorage(system, 'export', volumeId, '--node', 'job-b'));
    expect(held.exitCode, held.message).to.equal(4);
    expect(held.stderr).to.contain('job-a');
    expect(held.stdout).to.equal('');
    const deleting = await failureOf(moorage(system, 'volume', 'delete', volumeId));
    expect(deleting.exitCode, deleting.message).to.equal(4);
    expect(deleting.stderr).to.contain('job-a');
    const open = await failureOf(moorage(system, 'unexport', volumeId, '--node', 'job-a'));
    expect(open.exitCode, open.message).to.equal(4);
    expect(open.stderr).to.contain('job-a');
  });

  it('takes a snapshot while the guest writes, and makes a volume of it', async () => {
    await first.command(`start-writer ${disk.name} 2`);
    const status = (): Promise<WriterStatus> => first.command<WriterStatus>(`writer-status ${disk.name}`);
    await waitFor('some records are written', async () => (await status()).last_number > 50);
    writerBefore = await status();
    const snapshot = await moorageJson<Snapshot>(system, 'snapshot', 'create', volumeId);
    writerAfter = await status();
    expect(snapshot).to.include({ state: 'SNAPSHOT_STATE_COMPLETED', volumeId });
    snapshotId = snapshot.id;
    await waitFor('it goes on writing', async () => (await status()).last_number > writerAfter.last_number + 20);
    const copy = await moorageJson<Volume>(system, 'volume', 'create', '--from-snapshot', snapshotId);
    expect(copy).to.deep.include({ state: 'VOLUME_STATE_AVAILABLE', sizeBytes: 10 * GIBIBYTE });
    copyId = copy.id;
    const stopped = await first.command<WriterStatus>(`stop-writer ${disk.name}`);
    expect(stopped).to.include({ ok: true, errors: 0 });
    // What comes after the point in time must not be seen in the new volume.
    expect(await first.command(`write-pattern ${disk.name} 8 ${16 * MEBIBYTE} ${MEBIBYTE}`)).to.include({ ok: true });
  });

  it('detaches, disconnects and unexports; then the descriptor opens nothing any more', async () => {
    await nodeA.release(exported, 'web1');
    expect((await first.disks()).map((each) => each.name)).not.to.include(disk.name);
    expect(await nodeA.secrets()).to.deep.equal([]);
    expect((await moorage(system, 'unexport', volumeId, '--node', 'job-a')).stdout).to.equal('');
    const late = await failureOf(nodeA.storageUtils('attach', '--descriptor', exported.file, '--domain', 'web1'));
    expect(late.exitCode, late.message).to.equal(5);
    expect(await nodeA.secrets(), 'nothing is left of the attempt').to.deep.equal([]);
  });

  it('boots a second guest on another node with the new volume, as of the point in time', async () => {
    exported = await exportTo(nodeB, copyId);
    const { stdout: xml } = await nodeB.storageUtils('connect', '--descriptor', exported.file, '--target', 'vdb');
    second = await startGuest({ host: nodeB.host, name: 'web2', disksXml: [xml] });
    const copy = await second.waitForDisk(copyId);
    expect(await second.command(`read-pattern ${copy.name} ${PATTERN}`)).to.include({ ok: true });
    const records = await second.command<RecordsReport>(`check-records ${copy.name}`);
    expect(records).to.include({ ok: true, corrupt: 0, out_of_order: 0 });
    expect(records.highest).to.be.within(writerBefore.last_number, writerAfter.last_number + 1);
    expect(await second.command(`write-pattern ${copy.name} 9 0 ${32 * MEBIBYTE}`)).to.include({ ok: true });
  });

  it('attaches the first volume to the running first guest: it is as it was left', async () => {
    const again = await exportTo(nodeA, volumeId);
    await nodeA.attach(again, 'web1');
    const found = await first.waitForDisk(volumeId);
    expect(await first.command(`read-pattern ${found.name} 8 ${16 * MEBIBYTE} ${MEBIBYTE}`)).to.include({ ok: true });
    const rest = `7 ${17 * MEBIBYTE} ${7 * MEBIBYTE}`;
    expect(await first.command(`read-pattern ${found.name} ${rest}`)).to.include({ ok: true });
    await nodeA.release(again, 'web1');
  });

  it('shows the tree, deletes, and the reaper removes everything', async () => {
    const { stdout: tree } = await moorage(system, 'tree');
    expect(tree).to.match(new RegExp(`${volumeId}[^]*─ ◆ ${snapshotId}[^]*─ ■ ${copyId}`));
    await second.command(`discard vda 0 ${MEBIBYTE}`);
    await nodeB.release(exported, 'web2');
    // The origin first: what was made from it lives on until it is deleted too.
    await moorage(system, 'volume', 'delete', volumeId);
    await moorage(system, 'snapshot', 'delete', snapshotId);
    expect((await moorageJson<Volume>(system, 'volume', 'get', copyId)).state).to.equal('VOLUME_STATE_AVAILABLE');
    await moorage(system, 'volume', 'delete', copyId);
    await waitFor('nothing is left', async () => {
      const { images, inventory, problems } = await auditPool(system);
      const left = [...images.keys(), ...inventory.volumes, ...inventory.snapshots, ...inventory.exports, ...problems];
      if (left.length > 0) throw new Error(JSON.stringify(left));
      return true;
    });
    expect((await system.cluster.rbd('ls', system.cephPool)).stdout).to.equal('');
    expect((await system.cluster.rbd('trash', 'ls', '--all', system.cephPool)).stdout).to.equal('');
    const { stdout: users } = await system.cluster.ceph('auth', 'ls');
    for (const id of exportIds) expect(users).not.to.contain(id);
  });

  it('and no secret was seen in any process, log, metric, message or readable file', async () => {
    const report = await scan.finish();
    console.log(`      ${report.line}`);
    expect(report.found).to.deep.equal([]);
    expect(report.secrets).to.be.equal(exportIds.length + 7);
    expect(report.samples).to.be.greaterThan(100);
  });
});
