import { expect } from 'chai';
import { Cluster, timeoutOverrides } from '../../src/agents/rbd/librbd/cluster.js';
import { isCephError } from '../../src/agents/rbd/librbd/errors.js';
import { RbdImage } from '../../src/agents/rbd/librbd/image.js';
import type { Volume } from '../../src/client/index.js';
import { cleanUp } from '../helpers/clean-up.js';
import { moorage, moorageJson } from '../helpers/node.js';
import { type System, startSystem } from '../helpers/system.js';
import { type Exported, openAsAdministrator, TestNode } from '../helpers/test-node.js';
import { waitFor } from '../helpers/wait.js';
import { Writer } from '../integration/agent-fence-harness.js';

const SIZE = 16 * 2 ** 20;

/*
 * After an Unexport with force nothing that the node had reaches the volume. Each way in is first seen to be open when only
 * the export's user is deleted, which is all that Ceph offers by itself.
 */
describe('cutting off', function () {
  this.timeout(300_000);
  let system: System;
  let a: TestNode;
  let b: TestNode;
  const writers: Writer[] = [];
  const connections: Cluster[] = [];
  before(async () => {
    system = await startSystem({ name: 'cut-off' });
    a = await TestNode.register(system, 'nc-a');
    b = await TestNode.register(system, 'nc-b');
  });
  after(async () => {
    await cleanUp(
      ...writers.map((writer) => () => writer.end()),
      ...connections.map((connection) => () => connection.close()),
      () => system?.remove(),
    );
  });

  const create = async (): Promise<string> =>
    (await system.client.createVolume({ poolId: 'main', sizeBytes: SIZE })).volume?.id ?? '';
  const keyOf = ({ access }: Exported): { user: string; key: string } => {
    if (access.mode !== 'managed') throw new Error('the export brings no key');
    return { user: access.user, key: access.key };
  };
  const startWriter = async (exported: Exported, letter: string): Promise<Writer> => {
    const access = { mode: 'managed', ...keyOf(exported) };
    const writer = await Writer.start(system.cluster, access, exported.image, letter, system.cephPool);
    writers.push(writer);
    return writer;
  };
  const connect = async (exported: Exported): Promise<Cluster> => {
    const { configurationFile } = system.cluster;
    const connection = await Cluster.connect({
      ...{ configurationFile, ...keyOf(exported) },
      overrides: { ...timeoutOverrides(60), rbd_cache: 'false' },
    });
    connections.push(connection);
    return connection;
  };
  const asAdministrator = async <T>(image: string, use: (open: RbdImage) => Promise<T>): Promise<T> => {
    const { cluster, pool } = await openAsAdministrator(system);
    try {
      return await RbdImage.with(pool, { name: image }, {}, use);
    } finally {
      pool.close();
      await cluster.close();
    }
  };
  const firstLetter = (image: string): Promise<string> =>
    asAdministrator(image, async (open) => (await open.read(0n, 1)).toString());
  const deleteUser = (exported: Exported) => system.cluster.ceph('auth', 'del', `client.${keyOf(exported).user}`);
  const watchers = async (image: string): Promise<readonly unknown[]> => {
    const { stdout } = await system.cluster.rbd('status', `${system.cephPool}/${image}`, '--format', 'json');
    return (JSON.parse(stdout) as { watchers: unknown[] }).watchers;
  };
  /** Frozen until Ceph has forgotten its watch. */
  const freeze = async (writer: Writer, image: string): Promise<void> => {
    writer.freeze();
    await waitFor('its watch is gone', async () => (await watchers(image)).length === 0, {
      timeoutMilliseconds: 120_000,
    });
  };
  const refusalOf = async (exportId: string) => {
    const refusal = await system.client.unexport({ exportId }).catch((error: unknown) => error);
    return refusal as { code: string; reason: string; message: string };
  };

  it('a host that froze, lost its watch, and goes on after its volume went elsewhere', async () => {
    const [careless, careful] = [await create(), await create()];
    const [first, second] = [await a.export(careless), await a.export(careful)];
    const [one, two] = [await startWriter(first, 'a'), await startWriter(second, 'a')];
    await Promise.all([freeze(one, first.image), freeze(two, second.image)]);

    // What a site does by hand: the user is deleted and the lock broken, as for a host that is surely dead.
    await deleteUser(first);
    const { stdout } = await system.cluster.rbd('lock', 'ls', `${system.cephPool}/${first.image}`, '--format', 'json');
    const [lock] = JSON.parse(stdout) as { id: string; locker: string }[];
    await system.cluster.rbd(
      ...['--rbd-blocklist-on-break-lock=false', 'lock', 'rm', `${system.cephPool}/${first.image}`],
      ...[lock?.id ?? '', lock?.locker ?? ''],
    );
    await asAdministrator(first.image, (open) => open.write(0n, Buffer.alloc(4096, 'b')));
    expect(await firstLetter(first.image)).to.equal('b');
    one.wake();
    await waitFor('the frozen host overwrites', async () => (await firstLetter(first.image)) === 'a');
    await one.end();

    const refusal = await refusalOf(second.exportId);
    expect(refusal).to.include({ code: 'FAILED_PRECONDITION', reason: 'EXPORT_OPEN' });
    expect(refusal.message).to.contain('nc-a').and.to.contain(two.address);
    await system.client.unexport({ exportId: second.exportId, force: true });
    const third = await b.export(careful);
    const next = await connect(third);
    await next.withPool(system.cephPool, (pool) =>
      RbdImage.with(pool, { name: third.image }, {}, async (open) => {
        await open.write(0n, Buffer.alloc(4096, 'b'));
        await open.flush();
        two.wake();
        await waitFor('the frozen host is refused', () => two.answers.at(-1)?.startsWith('failed'));
        expect(two.answers.at(-1)).to.equal('failed ESHUTDOWN');
        expect((await open.read(0n, 4096)).toString()).to.equal('b'.repeat(4096));
      }),
    );
    const { findings } = await system.client.check({ pageSize: 1000 });
    // What was done by hand above.
    expect(findings.filter(({ resourceId }) => resourceId !== first.exportId)).to.deep.equal([]);
  });

  it('one who writes objects raw, and watches and locks nothing; and one who only reads', async () => {
    const [careless, careful] = [await create(), await create()];
    const [first, second] = [await a.export(careless), await a.export(careful)];
    const objectOf = (image: string): Promise<string> =>
      asAdministrator(image, async (open) => `rbd_data.${await open.id()}.0000000000000000`);
    const [firstObject, secondObject] = [await objectOf(first.image), await objectOf(second.image)];
    const raw = { first: await connect(first), second: await connect(second) };
    const readers = { first: await connect(first), second: await connect(second) };
    const writeRaw = (by: Cluster, object: string, letter: string): Promise<void> =>
      by.withPool(system.cephPool, (pool) => pool.writeFull(object, Buffer.alloc(4096, letter)));
    const readingPool = {
      first: await readers.first.openPool(system.cephPool),
      second: await readers.second.openPool(system.cephPool),
    };
    const open = {
      first: await RbdImage.open(readingPool.first, { name: first.image }, { readOnly: true }),
      second: await RbdImage.open(readingPool.second, { name: second.image }, { readOnly: true }),
    };
    await writeRaw(raw.first, firstObject, 'a');
    await writeRaw(raw.second, secondObject, 'a');

    await deleteUser(first);
    await writeRaw(raw.first, firstObject, 'x');
    expect((await open.first.read(0n, 1)).toString(), 'with the user deleted').to.equal('x');

    const refusal = await refusalOf(second.exportId);
    expect(refusal).to.include({ code: 'FAILED_PRECONDITION', reason: 'EXPORT_OPEN' });
    await system.client.unexport({ exportId: second.exportId, force: true });
    const outcomeOf = async (trying: Promise<unknown>): Promise<string> => {
      try {
        await trying;
        return 'ok';
      } catch (error) {
        if (!isCephError(error)) throw error;
        return error.errnoName;
      }
    };
    expect(await outcomeOf(writeRaw(raw.second, secondObject, 'x'))).to.equal('ESHUTDOWN');
    expect(await outcomeOf(open.second.read(0n, 1))).to.equal('ESHUTDOWN');
    expect(await firstLetter(second.image)).to.equal('a');
    expect(await outcomeOf(connect(second))).to.equal('EACCES');
    for (const image of Object.values(open)) await image.close().catch(() => undefined);
    for (const pool of Object.values(readingPool)) pool.close();
    await system.client.unexport({ exportId: first.exportId, force: true });
  });

  it('a whole node, evacuated by one command, that can be said again; and let in when it was restarted', async () => {
    const c = await TestNode.register(system, 'nc-c');
    const volumes = [await create(), await create(), await create()];
    const exported = await Promise.all(volumes.map((id) => c.export(id)));
    const open = await Promise.all(exported.slice(0, 2).map((each) => startWriter(each, 'c')));
    open[0]?.freeze();
    const evacuated = await moorageJson<{ withdrawn: string[]; left: string[] }>(
      ...([system, 'node', 'evacuate', 'nc-c', '--reason', 'test', '--timeout', '2min'] as const),
    );
    expect(evacuated.withdrawn).to.have.members(exported.map(({ exportId }) => exportId));
    expect(evacuated.left).to.deep.equal([]);
    open[0]?.wake();
    for (const writer of open) {
      await waitFor('the writer is refused', () => writer.answers.at(-1) === 'failed ESHUTDOWN');
    }
    await moorage(system, 'node', 'evacuate', 'nc-c');
    const { node } = await system.client.getNode({ nodeId: 'nc-c' });
    expect(node).to.include({ fenceState: 'NODE_FENCE_STATE_FENCED', fenceReason: 'test' });
    const refused = await c.export(volumes[0] ?? '').catch((error: unknown) => error);
    expect(refused).to.include({ code: 'FAILED_PRECONDITION', reason: 'NODE_FENCED' });
    await b.export(volumes[0] ?? '');
    const blocklist = async () => (await system.cluster.ceph('osd', 'blocklist', 'ls')).stdout;
    for (const writer of open) expect(await blocklist()).to.contain(writer.address);

    // Somebody clears the list: that is found, and put right.
    const [cleared] = open;
    await system.cluster.ceph('osd', 'blocklist', 'rm', cleared?.address ?? '');
    const { findings } = await system.client.check({ pageSize: 1000 });
    expect(findings.map((finding) => finding.class)).to.include('FINDING_CLASS_CUT_OFF_MISSING');
    await moorage(system, 'repair', '--class', 'cut-off-missing');
    expect(await blocklist()).to.contain(cleared?.address ?? '');

    await moorage(system, 'node', 'unfence', 'nc-c', '--clients-are-dead');
    for (const writer of open) expect(await blocklist()).not.to.contain(writer.address);
    const { volume } = await system.client.getVolume({ volumeId: volumes[1] ?? '' });
    expect((volume as Volume | null)?.exportIds).to.deep.equal([]);
    const again = await c.export(volumes[1] ?? '');
    await startWriter(again, 'c');
  });
});
