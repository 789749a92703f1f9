import { connect as connectSocket, createServer, type Server, type Socket } from 'node:net';
import { expect } from 'chai';
import { connect, type MoorageClient, type WatchEvent } from '../../src/client/index.js';
import type { Core } from '../../src/core/index.js';
import { admin, CoreWorld, volumeRequest } from '../helpers/core-world.js';
import { plainListener, serve, type TestServer } from '../helpers/server.js';
import { waitFor } from '../helpers/wait.js';

/** The way to one controller: a host that dies, or freezes, takes it away without a word. */
class Way {
  readonly #server: Server;
  readonly #pairs = new Set<readonly [Socket, Socket]>();
  #state: 'open' | 'dead' | 'frozen' = 'open';
  taken = 0;

  constructor(target: string) {
    const [host = '', port] = target.split(':');
    this.#server = createServer((near) => {
      near.on('error', () => undefined);
      if (this.#state === 'dead') {
        near.destroy();
        return;
      }
      this.taken += 1;
      const far = connectSocket(Number(port), host).on('error', () => undefined);
      const pair = [near, far] as const;
      this.#pairs.add(pair);
      for (const [one, other] of [pair, [far, near] as const]) {
        one.pipe(other);
        one.once('close', () => {
          other.destroy();
          this.#pairs.delete(pair);
        });
      }
      if (this.#state === 'frozen') this.#hold(pair);
    });
  }

  async open(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    const address = this.#server.address();
    return `127.0.0.1:${typeof address === 'object' ? address?.port : ''}`;
  }

  /** As SIGKILL: every connection ends, and none is made. */
  die(): void {
    this.#state = 'dead';
    for (const each of [...this.#pairs].flat()) each.destroy();
  }

  /** As SIGSTOP: connections stay, are also made, and nothing comes. */
  freeze(): void {
    this.#state = 'frozen';
    for (const pair of this.#pairs) this.#hold(pair);
  }

  mend(): void {
    this.#state = 'open';
  }

  close(): void {
    this.die();
    this.#server.close();
  }

  #hold([near, far]: readonly [Socket, Socket]): void {
    near.unpipe(far).pause();
    far.unpipe(near).pause();
  }
}

describe('a watch with two controllers', function () {
  this.timeout(120_000);
  let world: CoreWorld;
  const cores: Core[] = [];
  const servers: TestServer[] = [];
  const ways: Way[] = [];
  let client: MoorageClient;

  beforeEach(async () => {
    world = await CoreWorld.make({ storeIsExclusive: false, beatTimeoutMilliseconds: 3_000 });
    cores.push(world.core);
    await world.start();
    cores.push(world.core);
    const endpoints: string[] = [];
    for (const core of cores) {
      const server = await serve(core.services, [plainListener]);
      servers.push(server);
      const way = new Way(server.server.addresses[0] ?? '');
      ways.push(way);
      endpoints.push(await way.open());
    }
    client = connect({ endpoints, silenceMilliseconds: 500 });
  });
  afterEach(async () => {
    client.close();
    for (const way of ways.splice(0)) way.close();
    await Promise.all(servers.splice(0).map(({ server }) => server.stop(0)));
    cores.splice(0);
    await world.end();
  });

  it('moves from one that dies, or freezes, to the other that lives; no event is lost, none told twice', async () => {
    const told: WatchEvent[] = [];
    const over = new AbortController();
    const watching = (async () => {
      for await (const event of client.watch({ types: ['RESOURCE_TYPE_VOLUME'] }, { signal: over.signal }))
        told.push(event);
    })();
    // What changes while all that there is is told may be told once more.
    await waitFor('all that there is to be told', () => told.some(({ synced }) => synced));
    const made: string[] = [];
    let working = true;
    const work = (async () => {
      while (working) {
        const core = cores[made.length % 2] as Core;
        const { resource } = await core.services.volumes.create(volumeRequest({}), admin());
        made.push(resource.value.id);
      }
    })();
    const isAvailable = (id: string) => (event: WatchEvent) =>
      event.volume?.id === id && event.volume.state === 'VOLUME_STATE_AVAILABLE';
    /** What is made from now on is told. */
    const follows = async (): Promise<void> => {
      const before = made.length;
      await waitFor('more to be made', () => made.length > before + 2);
      const last = made.at(-1) ?? '';
      await waitFor('it to be told', () => told.some(isAvailable(last)));
    };
    const [first, second] = ways as [Way, Way];
    try {
      await follows();
      expect([first.taken, second.taken]).to.deep.equal([1, 0]);
      first.die();
      await follows();
      expect(second.taken).to.equal(1);
      first.mend();
      second.freeze();
      await follows();
      expect(first.taken).to.equal(2);
    } finally {
      working = false;
      await work;
    }
    await waitFor('the last to be told', () => told.some(isAvailable(made.at(-1) ?? '')));
    over.abort();
    await watching;
    const versions = told.filter(({ volume }) => volume).map(({ volume }) => `${volume?.id} ${volume?.etag}`);
    expect(versions.length).to.equal(new Set(versions).size);
    for (const id of made) {
      const last = told.filter(({ volume }) => volume?.id === id).at(-1)?.volume;
      expect(last).to.include({ etag: (await cores[0]?.services.volumes.get(id, admin()))?.etag });
      expect(told.filter(isAvailable(id)).length, id).to.equal(1);
    }
    const etags = told.flatMap(({ volume }) => (volume ? [Number(volume.etag)] : []));
    expect(etags, 'in the order of their commits').to.deep.equal([...etags].sort((a, b) => a - b));
  });
});
