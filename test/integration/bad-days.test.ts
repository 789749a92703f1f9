import { spawn } from 'node:child_process';
import { randomInt, randomUUID } from 'node:crypto';
import { mkdtemp, readFile, rm, statfs, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { parse, stringify } from 'yaml';
import { MoorageCallError, waitForOperation } from '../../src/client/index.js';
import { repositoryDirectory, startCluster } from '../helpers/cluster.js';
import { execute } from '../helpers/exec.js';
import { auditPool, takeInventory } from '../helpers/pool-audit.js';
import { type System, startSystem } from '../helpers/system.js';
import { TestNode } from '../helpers/test-node.js';
import { waitFor } from '../helpers/wait.js';

const MEBIBYTE = 2 ** 20;

async function refusal(call: Promise<unknown>): Promise<MoorageCallError> {
  const error = await call.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof MoorageCallError)) throw new Error(`the call was not refused: ${String(error)}`);
  return error;
}

/** Waits until store and pool agree. */
async function whole(system: System): Promise<void> {
  await waitFor(
    'store and pool agree',
    async () => {
      const { problems } = await auditPool(system);
      if (problems.length > 0) throw new Error(problems.join('\n'));
      return true;
    },
    { timeoutMilliseconds: 120_000, intervalMilliseconds: 500 },
  );
}

/** The crash matrix and the soak kill it more often and with more purpose; here a handful shows a mixed load. */
const KILLS = process.env.MOORAGE_TEST_FULL ? 24 : 6;

describe('bad days', function () {
  this.timeout(600_000);
  const systems: System[] = [];
  const start = async (...options: Parameters<typeof startSystem>): Promise<System> => {
    const system = await startSystem(...options);
    systems.push(system);
    return system;
  };
  afterEach(async () => {
    for (const system of systems.splice(0)) await system.remove();
  });

  it('no Ceph when it starts: what needs only the store is served, changes wait, and it works once Ceph is there', async () => {
    const cluster = await startCluster({ name: 'bad-days' });
    try {
      const system = await start({ name: 'no-ceph', cluster });
      const { volume } = await system.client.createVolume({ poolId: 'main', sizeBytes: MEBIBYTE });
      await system.stop();
      await cluster.stop();
      await system.start();
      const { client } = system;
      expect((await client.getVolume({ volumeId: volume?.id ?? '' })).volume?.state).to.equal('VOLUME_STATE_AVAILABLE');
      expect((await client.listVolumes({})).volumes).to.have.length(1);
      const { pool } = await client.getPool({ poolId: 'main' });
      expect(pool?.health).not.to.equal('POOL_HEALTH_READY');
      const clientToken = randomUUID();
      const request = { clientToken, poolId: 'main', sizeBytes: MEBIBYTE };
      const creating = await client.createVolume(request, { deadlineMilliseconds: 5000 });
      expect(creating.volume?.state).to.equal('VOLUME_STATE_CREATING');
      const other = await refusal(
        client.createPool(
          { poolId: 'two', settings: 'rbd', rbd: { cluster: 'main', cephPool: 'moorage' } },
          { deadlineMilliseconds: 5000 },
        ),
      );
      expect(other.code).to.equal('UNAVAILABLE');
      expect(other.message).to.include('main');
      await startCluster({ name: 'bad-days' });
      const ended = await waitForOperation(client, creating.operationId, { timeoutMilliseconds: 240_000 });
      expect(ended.state).to.equal('OPERATION_STATE_SUCCEEDED');
      expect((await client.createVolume(request)).volume?.id).to.equal(creating.volume?.id);
      await waitFor('the pool is ready', async () => {
        return (await client.getPool({ poolId: 'main' })).pool?.health === 'POOL_HEALTH_READY';
      });
      await whole(system);
    } finally {
      await startCluster({ name: 'bad-days' });
      for (const system of systems.splice(0)) await system.remove();
      await cluster.remove();
    }
  });

  it('a full pool: refused with the reason, nothing left, deleting works, and it goes on when there is room', async () => {
    const system = await start({ name: 'full-pool' });
    const { client, cluster } = system;
    const made: string[] = [];
    for (let count = 0; count < 3; count += 1) {
      made.push((await client.createVolume({ poolId: 'main', sizeBytes: MEBIBYTE })).volume?.id ?? '');
    }
    await cluster.ceph('osd', 'pool', 'set-quota', system.cephPool, 'max_objects', '1');
    const flagged = async (): Promise<boolean> => {
      const { stdout } = await cluster.ceph('osd', 'pool', 'ls', 'detail');
      return stdout.split('\n').some((line) => line.includes(`'${system.cephPool}'`) && line.includes('full_quota'));
    };
    await waitFor('the pool is full', flagged, { timeoutMilliseconds: 120_000, intervalMilliseconds: 500 });
    const full = await waitFor('a volume is refused', async () => {
      const answer = await client
        .createVolume({ poolId: 'main', sizeBytes: MEBIBYTE })
        .catch((error: unknown) => error);
      return answer instanceof MoorageCallError ? answer : undefined;
    });
    expect(full.code, full.message).to.equal('RESOURCE_EXHAUSTED');
    const before = await takeInventory(system);
    expect(before.volumes.every((volume) => volume.state === 'VOLUME_STATE_AVAILABLE')).to.equal(true);
    const snapshot = await refusal(client.createSnapshot({ volumeId: made[0] ?? '' }));
    expect(snapshot.code, snapshot.message).to.equal('RESOURCE_EXHAUSTED');
    expect((await takeInventory(system)).snapshots).to.deep.equal([]);
    await client.deleteVolume({ volumeId: made[1] ?? '' });
    await waitFor('what is deleted is purged', async () => {
      const { volumes } = await takeInventory(system);
      return volumes.every((volume) => volume.id !== made[1]);
    });
    await cluster.ceph('osd', 'pool', 'set-quota', system.cephPool, 'max_objects', '0');
    await waitFor('there is room', async () => !(await flagged()), { timeoutMilliseconds: 120_000 });
    await client.createSnapshot({ volumeId: made[0] ?? '' });
    await whole(system);
  });

  it('a full disk under the store: changes are refused, reads are served, nothing is lost, and it goes on', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'moorage-full-disk-'));
    await execute('mount', ['-t', 'tmpfs', '-o', 'size=3m', 'tmpfs', directory]);
    try {
      const system = await start({ name: 'full-disk', store: 'sqlite', storeDirectory: directory });
      const { client } = system;
      const kept = (await client.createVolume({ poolId: 'main', sizeBytes: MEBIBYTE })).volume?.id ?? '';
      const filler = join(directory, 'filler');
      const { bavail, bsize } = await statfs(directory);
      await writeFile(filler, Buffer.alloc(Math.max(0, bavail - 4) * bsize));
      const made = new Set([kept]);
      const refused = await waitFor(
        'a change is refused',
        async () => {
          const tags = { much: 'x'.repeat(250) };
          const call = client.createVolume(
            { poolId: 'main', sizeBytes: MEBIBYTE, tags },
            { deadlineMilliseconds: 3000 },
          );
          const answer = await call.catch((error: unknown) => error);
          // What was recorded just before the disk was full may run out of its time.
          if (answer instanceof MoorageCallError) return answer.code === 'DEADLINE_EXCEEDED' ? undefined : answer;
          made.add((answer as Awaited<typeof call>).volume?.id ?? '');
          return undefined;
        },
        { timeoutMilliseconds: 120_000, intervalMilliseconds: 1 },
      );
      expect(refused, refused.message).to.include({ code: 'UNAVAILABLE', reason: 'STORE_UNAVAILABLE' });
      expect(refused.message).to.include('full').and.not.include(directory);
      expect(refused.retryAfterMilliseconds).to.be.greaterThan(0);
      expect((await client.getVolume({ volumeId: kept })).volume?.id).to.equal(kept);
      await rm(filler);
      const after = await waitFor('changes work again', async () =>
        client.createVolume({ poolId: 'main', sizeBytes: MEBIBYTE }, { deadlineMilliseconds: 10_000 }),
      );
      made.add(after.volume?.id ?? '');
      await whole(system);
      const { volumes } = await takeInventory(system);
      expect(volumes.map((volume) => volume.id)).to.include.members([...made]);
      await system.stop();
      await system.start();
      await whole(system);
      for (const running of systems.splice(0)) await running.remove();
    } finally {
      await execute('umount', ['--lazy', directory]);
      await rm(directory, { recursive: true, force: true });
    }
  });

  it('two controllers on one SQLite file: the second refuses, and the first does not notice', async () => {
    const system = await start({ name: 'two', store: 'sqlite' });
    const settings = parse(await readFile(system.configurationFile, 'utf8')) as Record<string, unknown>;
    const second = join(system.directory, 'second.yaml');
    const socket = join(system.directory, 'second.sock');
    const listeners = [{ address: `unix:${socket}`, plaintext: { role: 'admin' } }];
    await writeFile(second, stringify({ ...settings, listeners }), { mode: 0o600 });
    const program = join(repositoryDirectory, 'dist/bin/moorage-controller.js');
    const child = spawn(process.execPath, [program, '--config', second], { stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    child.stdout.on('data', (chunk) => {
      output += String(chunk);
    });
    child.stderr.on('data', (chunk) => {
      output += String(chunk);
    });
    const code = await new Promise((resolve) => child.once('exit', resolve));
    expect(code).not.to.equal(0);
    expect(output)
      .to.include(system.storeFile)
      .and.match(/another|in use|locked/i);
    await system.client.createVolume({ poolId: 'main', sizeBytes: MEBIBYTE });
    await whole(system);
  });

  it('the controller killed and started again at random moments of a mixed load: everything ends whole', async () => {
    const system = await start({ name: 'restarts', undeleteWindowSeconds: 1 });
    const { client } = system;
    await TestNode.register(system, 'nc-a');
    const patience = { deadlineMilliseconds: 300_000 };
    let ended = false;
    let calls = 0;
    const once = async <Answer>(call: Promise<Answer>): Promise<Answer> => {
      const answer = await call;
      calls += 1;
      return answer;
    };
    const kept = new Set<string>();
    /** A life of a volume, from its making to its end, again and again. Every answer must be the right one. */
    const live = async (keep: boolean): Promise<void> => {
      while (!ended) {
        const made = await once(client.createVolume({ poolId: 'main', sizeBytes: MEBIBYTE }, patience));
        expect(made.volume?.state).to.equal('VOLUME_STATE_AVAILABLE');
        const volumeId = made.volume?.id ?? '';
        const direct = { nodeId: 'nc-a' };
        const exported = await once(client.export({ volumeId, authority: 'direct', direct }, patience));
        expect(exported.descriptor.length).to.be.greaterThan(0);
        const taken = await once(client.createSnapshot({ volumeId }, patience));
        const snapshotId = taken.snapshot?.id ?? '';
        const clone = await once(client.createVolume({ source: { snapshotId } }, patience));
        await once(client.expandVolume({ volumeId, sizeBytes: 2 * MEBIBYTE }, patience));
        await once(client.unexport({ exportId: exported.export?.id ?? '' }, patience));
        await once(client.deleteVolume({ volumeId }, patience));
        if (keep) {
          kept.add(snapshotId).add(clone.volume?.id ?? '');
        } else {
          await once(client.deleteSnapshot({ snapshotId }, patience));
          await once(client.deleteVolume({ volumeId: clone.volume?.id ?? '' }, patience));
        }
      }
    };
    const load = [live(true), live(false), live(false), live(false)];
    const settled = Promise.allSettled(load);
    let kills = 0;
    const failed = Promise.all(load);
    failed.catch(() => undefined);
    try {
      for (; kills < KILLS; kills += 1) {
        const goal = calls + randomInt(1, 8);
        await Promise.race([
          failed,
          waitFor('some calls are answered', () => calls >= goal, { intervalMilliseconds: 3 }),
        ]);
        await system.kill();
        await system.start();
      }
    } finally {
      ended = true;
      await settled;
    }
    for (const outcome of await settled) if (outcome.status === 'rejected') throw outcome.reason;
    await waitFor(
      'only what was kept is there',
      async () => {
        const { inventory, problems } = await auditPool(system);
        if (problems.length > 0) throw new Error(problems.join('\n'));
        const live = [...inventory.volumes, ...inventory.snapshots].filter(
          ({ state }) => !/DELETED|PURGING/.test(state),
        );
        expect(live.map((item) => item.id)).to.have.members([...kept]);
        expect(inventory.exports).to.deep.equal([]);
        // Deleted volumes whose snapshots were kept stay as their ancestors; everything else is purged.
        const needed = new Set(inventory.snapshots.map((snapshot) => snapshot.volumeId));
        const over = inventory.volumes.filter(({ id, state }) => /DELETED|PURGING/.test(state) && !needed.has(id));
        expect(over.map((volume) => volume.id)).to.deep.equal([]);
        return true;
      },
      { timeoutMilliseconds: 240_000, intervalMilliseconds: 500 },
    );
    const { operations } = await client.listOperations({ states: ['OPERATION_STATE_RUNNING'] });
    expect(operations).to.deep.equal([]);
    process.stdout.write(`      ${kills} kills of the controller, ${calls} calls answered\n`);
  });
});
