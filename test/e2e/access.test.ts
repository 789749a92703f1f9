import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { rbdAccessSchema } from '../../src/descriptor/index.js';
import { repositoryDirectory } from '../helpers/cluster.js';
import { execute } from '../helpers/exec.js';
import { type Audit, auditPool } from '../helpers/pool-audit.js';
import { type System, startSystem } from '../helpers/system.js';
import { type Exported, TestNode } from '../helpers/test-node.js';

const MEBIBYTE = 2 ** 20;

/** Name, verb of rbd-probe.py, its arguments. */
type Probe = readonly [name: string, verb: string, ...parameters: unknown[]];

/** A user's key as a node's root could take it out of a descriptor: in a keyring file, tried through python3-rbd. */
class KeyHolder {
  readonly #system: System;
  readonly #exported: Exported;
  readonly #directory: string;

  private constructor(system: System, exported: Exported, directory: string) {
    this.#system = system;
    this.#exported = exported;
    this.#directory = directory;
  }

  static async take(system: System, exported: Exported): Promise<KeyHolder> {
    const directory = await mkdtemp(join(tmpdir(), 'moorage-key-'));
    const { access } = exported;
    if (access.mode !== 'managed') throw new Error('the export brings no key');
    const keyring = `[client.${access.user}]\n\tkey = ${access.key}\n`;
    await writeFile(join(directory, 'keyring'), keyring, { mode: 0o600 });
    return new KeyHolder(system, exported, directory);
  }

  async try(probes: readonly Probe[]): Promise<Readonly<Record<string, string>>> {
    const { cluster, cephPool } = this.#system;
    const task = {
      configuration: cluster.configurationFile,
      user: this.#exported.access.user,
      keyring: join(this.#directory, 'keyring'),
      pool: cephPool,
      probes,
    };
    // Debian's own Python, which the package python3-rbd belongs to.
    const { stdout } = await execute('/usr/bin/python3', [join(repositoryDirectory, 'test/helpers/rbd-probe.py')], {
      input: JSON.stringify(task),
    });
    return JSON.parse(stdout) as Record<string, string>;
  }

  remove(): Promise<void> {
    return rm(this.#directory, { recursive: true, force: true });
  }
}

describe('with the key of an export', function () {
  this.timeout(300_000);
  let system: System;
  let node: TestNode;
  const holders: KeyHolder[] = [];

  before(async () => {
    system = await startSystem({ name: 'access', undeleteWindowSeconds: 3600 });
    node = await TestNode.register(system, 'nc-a');
  });
  after(async () => {
    for (const holder of holders) await holder.remove();
    await system?.remove();
  });

  const exportTo = async (volumeId: string): Promise<[Exported, KeyHolder]> => {
    const exported = await node.export(volumeId);
    const holder = await KeyHolder.take(system, exported);
    holders.push(holder);
    return [exported, holder];
  };
  const create = async (): Promise<string> => {
    const { volume } = await system.client.createVolume({ poolId: 'main', sizeBytes: 16 * MEBIBYTE });
    return volume?.id ?? '';
  };
  const snapshotOf = async (volumeId: string): Promise<string> =>
    (await system.client.createSnapshot({ volumeId })).snapshot?.id ?? '';
  const volumeFrom = async (snapshotId: string): Promise<string> =>
    (await system.client.createVolume({ source: { snapshotId } })).volume?.id ?? '';
  const idIn = (audit: Audit, id: string): string => {
    const found = audit.images.get(id);
    if (found === undefined) throw new Error(`${id} has no image`);
    return found.id;
  };
  const dataOf = (imageId: string): string => `rbd_data.${imageId}.0000000000000000`;
  const write = async (volumeId: string, text: string): Promise<void> => {
    const [exported, holder] = await exportTo(volumeId);
    expect(await holder.try([['write', 'write', exported.image, 0, text.repeat(8192)]])).to.deep.equal({ write: 'ok' });
    await system.client.unexport({ exportId: exported.exportId });
  };
  /** All were refused, and with leave lacking, not for another reason. */
  const expectRefused = (results: Readonly<Record<string, string>>, count: number): void => {
    const others = Object.entries(results).filter(([, result]) => result !== 'EPERM' && result !== 'EACCES');
    expect(others).to.deep.equal([]);
    expect(Object.keys(results)).to.have.lengthOf(count);
  };

  it('its image opens, reads and writes', async () => {
    const [exported, holder] = await exportTo(await create());
    const results = await holder.try([
      ['open', 'open', exported.image],
      ['write', 'write', exported.image, 4 * MEBIBYTE - 2, 'over the edge of an object'],
      ['read', 'read', exported.image, 4 * MEBIBYTE - 2, 26],
      ['discard', 'discard', exported.image, 0, 4 * MEBIBYTE],
      ['read again', 'read', exported.image, 4 * MEBIBYTE - 2, 4],
    ]);
    expect(results).to.deep.equal({
      open: 'ok',
      write: 'ok',
      read: 'over the edge of an object',
      discard: 'ok',
      'read again': '\0\0er',
    });
    await system.client.unexport({ exportId: exported.exportId });
  });

  it('also as a clone whose origin is in the trash; and every other thing is refused; and then the key is gone', async () => {
    const origin = await create();
    await write(origin, 'o');
    const snapshot = await snapshotOf(origin);
    const volume = await volumeFrom(snapshot);
    // What the key must not reach: a stranger, another clone of the same snapshot, a child of its own image, another snapshot.
    const stranger = await create();
    await write(stranger, 's');
    const sibling = await volumeFrom(snapshot);
    await write(sibling, 'b');
    const own = await snapshotOf(volume);
    const child = await volumeFrom(own);
    const laterSnapshot = await snapshotOf(origin);
    await system.client.deleteVolume({ volumeId: origin });
    await system.client.deleteSnapshot({ snapshotId: snapshot });
    const audit = await auditPool(system);
    const [originId, snapshotId] = [idIn(audit, origin), idIn(audit, snapshot)];
    expect(audit.images.get(origin)?.trashed).to.equal(true);
    expect(audit.images.get(snapshot)?.trashed).to.equal(true);
    const [exported, holder] = await exportTo(volume);
    const { image } = exported;
    const [otherExport] = await exportTo(sibling);

    expect(
      await holder.try([
        ['read', 'read', image, 0, 4],
        ['write', 'write', image, 0, 'new'],
        // The copy-up has brought the rest of the object along.
        ['read again', 'read', image, 0, 8],
        ['read far', 'read', image, 8188, 8],
      ]),
    ).to.deep.equal({ read: 'oooo', write: 'ok', 'read again': 'newooooo', 'read far': 'oooo\0\0\0\0' });

    const others = [stranger, sibling, own, child, laterSnapshot].map((id) => ({ id, imageId: idIn(audit, id) }));
    const ofOthers = others.flatMap(({ id, imageId }): Probe[] => [
      [`open ${id}`, 'open', id],
      [`open ${id} by its id`, 'open-id', imageId],
      [`write ${id}`, 'write', id, 0, 'x'],
      [`read data of ${id}`, 'object-read', dataOf(imageId)],
      [`write data of ${id}`, 'object-write', dataOf(imageId)],
      [`remove data of ${id}`, 'object-remove', dataOf(imageId)],
      [`read header of ${id}`, 'omap-read', `rbd_header.${imageId}`],
      [`write header of ${id}`, 'omap-write', `rbd_header.${imageId}`],
      [`read name of ${id}`, 'object-read', `rbd_id.${id}`],
      [`snapshot ${id}`, 'snapshot', id],
      [`remove ${id}`, 'remove', id],
      [`trash ${id}`, 'trash', id],
    ]);
    expectRefused(await holder.try(ofOthers), 60);

    const ofAncestors = [originId, snapshotId].flatMap((imageId): Probe[] => [
      [`write data of ${imageId}`, 'object-write', dataOf(imageId)],
      [`remove data of ${imageId}`, 'object-remove', dataOf(imageId)],
      [`write header of ${imageId}`, 'omap-write', `rbd_header.${imageId}`],
      [`remove header of ${imageId}`, 'object-remove', `rbd_header.${imageId}`],
    ]);
    expectRefused(await holder.try(ofAncestors), 8);

    const ofOwn: Probe[] = [
      ['snapshot', 'snapshot', image],
      ['remove', 'remove', image],
      ['trash', 'trash', image],
      ['rename', 'rename', image, 'vol-mine'],
      ['grow', 'resize', image, 32 * MEBIBYTE],
      ['shrink', 'resize', image, MEBIBYTE],
      ['metadata', 'metadata', image],
      ['flatten', 'flatten', image],
      ['clone', 'clone', laterSnapshot, 'base', 'vol-mine'],
    ];
    expectRefused(await holder.try(ofOwn), 9);

    const ofPool: Probe[] = [
      ['ls', 'list'],
      ['trash ls', 'trash-list'],
      ['create', 'create', 'vol-mine'],
      ['write any object', 'object-write', 'mine'],
      ['write the directory', 'omap-write', 'rbd_directory'],
      ['read the directory', 'omap-read', 'rbd_directory'],
      ['read the list of exports', 'omap-read', 'moorage.access'],
      ['make a snapshot id', 'snapshot-id-make'],
      ...[1, 2, 3, 4, 5].map((id): Probe => [`remove snapshot id ${id}`, 'snapshot-id-remove', id]),
    ];
    expectRefused(await holder.try(ofPool), 13);

    const blocklist = { prefix: 'osd blocklist', expire: 60.5 };
    const commands: Readonly<Record<string, unknown>>[] = [
      { prefix: 'auth ls' },
      { prefix: 'auth get', entity: `client.${otherExport.access.user}` },
      { prefix: 'auth get', entity: 'client.admin' },
      { prefix: 'auth caps', entity: `client.${exported.access.user}`, caps: ['osd', 'allow *', 'mon', 'allow *'] },
      { prefix: 'auth del', entity: `client.${otherExport.access.user}` },
      { ...blocklist, blocklistop: 'add', addr: '10.9.8.7' },
      { ...blocklist, blocklistop: 'add', addr: '10.9.8.7:0/0' },
      { ...blocklist, blocklistop: 'rm', addr: '10.9.8.7:0/77' },
      { prefix: 'osd blocklist clear' },
      { prefix: 'config-key ls' },
      { prefix: 'osd pool create', pool: 'mine' },
      { prefix: 'osd pool set', pool: system.cephPool, var: 'size', val: '1' },
      { prefix: 'osd pool delete', pool: system.cephPool, pool2: system.cephPool, yes_i_really_really_mean_it: true },
    ];
    const words = commands.map((each): Probe => [JSON.stringify(each), 'monitor', each]);
    // Who else is connected: a question to one monitor.
    words.push(['sessions', 'monitor', { prefix: 'sessions' }, 'a']);
    expectRefused(await holder.try(words), commands.length + 1);

    const after = await auditPool(system);
    expect(after.problems).to.deep.equal([]);
    expect(await holder.try([['read', 'read', image, 0, 8]])).to.deep.equal({ read: 'newooooo' });

    for (const { exportId } of [exported, otherExport]) await system.client.unexport({ exportId });
    expect((await system.cluster.ceph('auth', 'ls')).stdout).not.to.contain(exported.exportId);
    expect(await holder.try([['read', 'read', image, 0, 8]])).to.deep.equal({ connect: 'EACCES' });
  });

  it('read only: reads, and writes nothing', async () => {
    const volumeId = await create();
    await write(volumeId, 'r');
    const { descriptor } = await system.client.export({
      ...{ volumeId, authority: 'direct' },
      direct: { nodeId: node.id, readOnly: true },
    });
    const payload = await node.open(descriptor);
    expect(payload.read_only).to.equal(true);
    const access = rbdAccessSchema.parse(payload.access);
    const holder = await KeyHolder.take(system, { exportId: payload.export_id, image: volumeId, access });
    holders.push(holder);
    const imageId = idIn(await auditPool(system), volumeId);
    expect(await holder.try([['read', 'read-only', volumeId, 0, 4]])).to.deep.equal({ read: 'rrrr' });
    // Its header it may write: a watch, which QEMU wants of a reader too, cannot be had without that.
    expectRefused(
      await holder.try([
        ['write data', 'object-write', dataOf(imageId)],
        ['remove data', 'object-remove', dataOf(imageId)],
        ['write', 'write', volumeId, 0, 'x'],
      ]),
      3,
    );
    await system.client.unexport({ exportId: payload.export_id });
  });
});
