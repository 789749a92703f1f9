import { expect } from 'chai';
import { type CommandContext, runCommand } from '../../src/cli/index.js';
import { MoorageCallError, type MoorageClient, type WatchEvent } from '../../src/client/index.js';
import { generateKeyPair } from '../../src/descriptor/index.js';
import { type Cluster, startCluster } from '../helpers/cluster.js';
import { TestController } from '../helpers/controller.js';
import { waitFor } from '../helpers/wait.js';

const MIB = 1024 * 1024;

/** A watch that runs, and what somebody who keeps the latest of each resource would have. */
class Mirror {
  readonly events: WatchEvent[] = [];
  /** Etag of everything that is there but operations, by kind and id. */
  readonly etags = new Map<string, string>();
  failure: unknown;
  readonly #stop = new AbortController();
  readonly #running: Promise<void>;

  constructor(client: MoorageClient, request: Parameters<MoorageClient['watch']>[0] = {}) {
    this.#running = this.#run(client.watch(request, { signal: this.#stop.signal }));
  }

  async #run(watch: AsyncGenerator<WatchEvent>): Promise<void> {
    try {
      for await (const event of watch) this.#take(event);
    } catch (error) {
      this.failure = error;
    }
  }

  #take(event: WatchEvent): void {
    this.events.push(event);
    const { gone } = event;
    if (gone) this.etags.delete(`${gone.type.replace('RESOURCE_TYPE_', '').toLowerCase()} ${gone.id}`);
    for (const kind of ['volume', 'snapshot', 'export', 'node', 'pool'] as const) {
      const resource = event[kind];
      if (resource) this.etags.set(`${kind} ${resource.id}`, resource.etag);
    }
  }

  get token(): string {
    return this.events.at(-1)?.resumeToken ?? '';
  }

  async until(what: string, fits: (mirror: this) => boolean): Promise<void> {
    await waitFor(what, async () => this.failure !== undefined || fits(this));
    if (!fits(this)) throw this.failure;
  }

  async stop(): Promise<this> {
    this.#stop.abort();
    await this.#running;
    return this;
  }

  /** What it failed with, once it has. */
  async failed(): Promise<unknown> {
    await this.#running;
    return this.failure;
  }
}

describe('watching a real controller', function () {
  this.timeout(300_000);
  let cluster: Cluster;
  let controller: TestController;
  let admin: MoorageClient;
  const others: MoorageClient[] = [];

  before(async () => {
    cluster = await startCluster();
    const settings = {
      watch: { retention: '1s', bookmark_interval: '100ms' },
      reaper: { interval: '200ms' },
      journal: { beat_timeout: '2s' },
    };
    controller = await TestController.make({ cluster, cephPool: 'watch-test', settings });
    await controller.start();
    admin = controller.client();
    await admin.createPool({
      poolId: 'ssd',
      rbd: { cluster: 'main', cephPool: 'watch-test' },
      undeleteWindowSeconds: 3600,
    });
    for (const nodeId of ['nc-a', 'nc-b']) {
      await admin.registerNode({ nodeId, publicKey: Buffer.from(generateKeyPair().publicKey) });
    }
  });
  after(async () => {
    for (const client of [admin, ...others]) client?.close();
    await controller?.remove();
  });

  const createVolume = async () => (await admin.createVolume({ poolId: 'ssd', sizeBytes: MIB })).volume?.id ?? '';

  /** What Get and List say, as a mirror has it. */
  async function listed(): Promise<Map<string, string>> {
    const all = 'CREATING AVAILABLE DELETING DELETED PURGING ERROR'.split(' ');
    const states = all.map((state) => `VOLUME_STATE_${state}` as 'VOLUME_STATE_AVAILABLE');
    const found: [string, readonly { readonly id: string; readonly etag: string }[]][] = [
      ['volume', (await admin.listVolumes({ pageSize: 1000, states })).volumes],
      ['snapshot', (await admin.listSnapshots({ pageSize: 1000 })).snapshots],
      ['export', (await admin.listExports({ pageSize: 1000 })).exports],
      ['node', (await admin.listNodes({})).nodes],
      ['pool', (await admin.listPools({})).pools],
    ];
    return new Map(found.flatMap(([kind, items]) => items.map(({ id, etag }) => [`${kind} ${id}`, etag] as const)));
  }

  async function expectEqual(mirror: Mirror): Promise<void> {
    let wanted = new Map<string, string>();
    await waitFor('the mirror to be what is listed', async () => {
      if (mirror.failure !== undefined) throw mirror.failure;
      wanted = await listed();
      return [...wanted].sort().join() === [...mirror.etags].sort().join();
    });
    expect([...mirror.etags].sort()).to.deep.equal([...wanted].sort());
  }

  it('goes on over kills and restarts of the controller, and misses nothing', async () => {
    await createVolume();
    const mirror = new Mirror(admin);
    await mirror.until('synced', ({ events }) => events.some(({ event }) => event === 'synced'));
    for (const signal of ['SIGKILL', 'SIGTERM', 'SIGKILL'] as const) {
      const work = (async () => {
        const made = await Promise.all([createVolume(), createVolume(), createVolume()]);
        const [first = '', second = ''] = made;
        await admin.createSnapshot({ volumeId: first });
        const exported = await admin.export({ volumeId: first, direct: { nodeId: 'nc-a' } });
        await admin.unexport({ exportId: exported.export?.id ?? '' });
        await admin.deleteVolume({ volumeId: second });
        await admin.updateNode({ nodeId: 'nc-a', updateMask: { paths: ['tags.n'] }, tags: { n: signal } });
      })();
      const seen = mirror.events.length;
      await mirror.until('something of it', ({ events }) => events.length > seen + 2);
      await controller.stop(signal);
      await controller.start();
      await work;
      await expectEqual(mirror);
    }
    expect(mirror.events.filter(({ event }) => event === 'synced').length).to.be.above(1);
    await mirror.stop();
    expect(mirror.failure).to.equal(undefined);
  });

  it('a drain ends a watch with its last place, and the controller at once', async () => {
    const watched: WatchEvent[] = [];
    // Without the reconnecting of the library.
    const single = admin.watch({ types: ['RESOURCE_TYPE_POOL'] }, { unreachableMilliseconds: 0 });
    const ended = (async () => {
      for await (const event of single) watched.push(event);
    })().catch((error: unknown) => error);
    await waitFor('synced', async () => watched.some(({ event }) => event === 'synced'));
    expect(await controller.stop('SIGTERM')).to.equal(0);
    expect(await ended)
      .to.be.instanceOf(MoorageCallError)
      .and.to.include({ code: 'UNAVAILABLE', reason: 'WATCH_INTERRUPTED' });
    expect(watched.at(-1)?.event).to.equal('bookmark');
    await controller.start();
    const resumed = new Mirror(admin, {
      types: ['RESOURCE_TYPE_POOL'],
      resumeToken: watched.at(-1)?.resumeToken ?? '',
    });
    await resumed.until('synced', ({ events }) => events.some(({ event }) => event === 'synced'));
    expect((await resumed.stop()).events[0]?.event).to.equal('synced');
  });

  it('a token is too old once an export that has ended is forgotten; watching anew is right', async () => {
    const volumeId = await createVolume();
    const exportId = (await admin.export({ volumeId, direct: { nodeId: 'nc-b' } })).export?.id ?? '';
    const before = new Mirror(admin);
    await before.until('the export', ({ etags }) => etags.has(`export ${exportId}`));
    await before.stop();
    const live = new Mirror(admin);
    await admin.unexport({ exportId });
    await live.until('the end', ({ events }) => events.some(({ gone }) => gone?.id === exportId));
    await waitFor('the token to expire', async () => {
      const late = new Mirror(admin, { resumeToken: before.token });
      const outcome = await Promise.race([
        late.failed(),
        late.until('synced', ({ events }) => events.some(({ event }) => event === 'synced')).catch(() => late.failure),
      ]);
      await late.stop();
      if (outcome === undefined) return false;
      expect(outcome).to.include({ code: 'OUT_OF_RANGE', reason: 'RESUME_TOKEN_EXPIRED' });
      return true;
    });
    await expectEqual(live);
    await live.stop();
    const anew = new Mirror(admin);
    await expectEqual(anew);
    await anew.stop();
  });

  it('a node watches its own exports over TLS, and nothing of anybody else', async () => {
    const node = controller.clientAs('watch-node', '/OU=node/CN=nc-a');
    const reader = controller.clientAs('watch-reader', '/OU=reader/CN=r');
    others.push(node, reader);
    const [own, foreign] = [await createVolume(), await createVolume()];
    const mirror = new Mirror(node);
    const theirs = (await admin.export({ volumeId: foreign, direct: { nodeId: 'nc-b' } })).export?.id ?? '';
    const mine = (await admin.export({ volumeId: own, direct: { nodeId: 'nc-a' } })).export?.id ?? '';
    await mirror.until('its export', ({ etags }) => etags.has(`export ${mine}`));
    await admin.unexport({ exportId: theirs });
    await admin.unexport({ exportId: mine });
    await mirror.until('its end', ({ events }) => events.some(({ gone }) => gone?.id === mine));
    await mirror.stop();
    expect(JSON.stringify(mirror.events)).not.to.include(theirs);
    expect(new Set(mirror.events.map(({ event }) => event))).to.deep.equal(
      new Set([
        'synced',
        'export',
        'gone',
        ...mirror.events.filter(({ event }) => event === 'bookmark').map(() => 'bookmark' as const),
      ]),
    );
    expect(await new Mirror(node, { types: ['RESOURCE_TYPE_VOLUME'] }).failed()).to.include({
      code: 'PERMISSION_DENIED',
    });
    expect(await new Mirror(reader, { resumeToken: mirror.token }).failed()).to.include({ code: 'INVALID_ARGUMENT' });
    const all = new Mirror(reader);
    await expectEqual(all);
    await all.stop();
  });

  it('moorage watch prints lines for people, and JSON for programs', async () => {
    const volumeId = await createVolume();
    const run = async (...more: string[]) => {
      const out: string[] = [];
      const err: string[] = [];
      const context = {
        stdout: { write: (text: string) => out.push(text) },
        stderr: { write: (text: string) => err.push(text) },
      } as unknown as CommandContext;
      const code = await runCommand(['watch', '--endpoint', `unix:${controller.socket}`, ...more], context);
      return { code, stdout: out.join(''), stderr: err.join('') };
    };
    const people = await run('--type', 'volume', '--for', '1s');
    expect(people.code).to.equal(0);
    expect(people.stdout).to.match(new RegExp(`^volume +${volumeId}  available  1MiB$`, 'm'));
    expect(people.stderr).to.include('that is all there is');
    const programs = await run('--type', 'pool', '--for', '1s', '--json');
    const lines = programs.stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(lines[0]).to.have.property('pool').that.includes({ id: 'ssd' });
    expect(lines.some((line) => 'synced' in line)).to.equal(true);
    expect(lines[0]).to.have.property('resumeToken').that.is.a('string');
    expect((await run('--resume', 'nonsense')).code).to.equal(2);
    expect((await run('--type', 'disk')).code).to.equal(2);
  });
});
