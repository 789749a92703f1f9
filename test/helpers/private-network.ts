import { createHash } from 'node:crypto';
import { cleanUp } from './clean-up.js';
import { repositoryDirectory } from './cluster.js';
import { execute } from './exec.js';
import { waitFor } from './wait.js';

/** A host of a private network: a network namespace with one address. */
export interface NetworkHost {
  readonly namespace: string;
  readonly address: string;
}

/** The machine itself: no namespace of its own. */
export const thisMachine: NetworkHost = { namespace: '', address: '127.0.0.1' };

/** Addresses exist in the namespaces only, so that two networks may have the same. */
const PREFIX = '10.213.0';

/**
 * Several hosts on one machine, as far as the network goes: a namespace for each, and a hub, which has a bridge between them
 * and an address on it. What serves all of them runs in the hub. Nothing of it reaches the machine's own network.
 */
export class PrivateNetwork {
  readonly hub: NetworkHost;
  readonly hosts: readonly NetworkHost[];

  private constructor(hub: NetworkHost, hosts: readonly NetworkHost[]) {
    this.hub = hub;
    this.hosts = hosts;
  }

  /** One that was made before, perhaps by another process. */
  static of(name: string, hostCount: number): PrivateNetwork {
    // Two checkouts must not take each other's.
    const checkout = createHash('sha256').update(repositoryDirectory).digest('hex').slice(0, 6);
    const base = `moorage-${checkout}-${name}`;
    const hosts = Array.from({ length: hostCount }, (_, index) => ({
      namespace: `${base}-${index + 1}`,
      address: `${PREFIX}.${index + 11}`,
    }));
    return new PrivateNetwork({ namespace: base, address: `${PREFIX}.1` }, hosts);
  }

  /** Makes one; what a run that was killed has left of this name goes first, with the processes in it. */
  static async make(name: string, hostCount: number): Promise<PrivateNetwork> {
    const network = PrivateNetwork.of(name, hostCount);
    await network.remove();
    try {
      await network.#build();
    } catch (error) {
      await network.remove();
      throw error;
    }
    return network;
  }

  /** Runs a program on a host and waits for it. @throws CommandError */
  run(host: NetworkHost, program: string, ...parameters: string[]): ReturnType<typeof execute> {
    return execute('ip', ['netns', 'exec', host.namespace, program, ...parameters]);
  }

  /** Takes a host off the network: connections stay as they are, and nothing passes. */
  async cut(host: NetworkHost): Promise<void> {
    await this.#inHub('link', 'set', this.#port(host), 'down');
  }

  /** Puts it back. */
  async mend(host: NetworkHost): Promise<void> {
    await this.#inHub('link', 'set', this.#port(host), 'up');
  }

  /** Ends every process in it and removes it. */
  async remove(): Promise<void> {
    const found = new Set(
      (await execute('ip', ['netns', 'list'])).stdout.split('\n').map((line) => line.split(' ')[0]),
    );
    const namespaces = [...this.hosts, this.hub].map((host) => host.namespace).filter((name) => found.has(name));
    await cleanUp(...namespaces.map((name) => () => removeNamespace(name)));
  }

  async #build(): Promise<void> {
    const { namespace, address } = this.hub;
    await execute('ip', ['netns', 'add', namespace]);
    await this.#inHub('link', 'set', 'lo', 'up');
    await this.#inHub('link', 'add', 'bridge', 'type', 'bridge');
    await this.#inHub('addr', 'add', `${address}/24`, 'dev', 'bridge');
    await this.#inHub('link', 'set', 'bridge', 'up');
    for (const host of this.hosts) {
      const port = this.#port(host);
      await execute('ip', ['netns', 'add', host.namespace]);
      await this.#inHub('link', 'add', port, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', host.namespace);
      await this.#inHub('link', 'set', port, 'master', 'bridge');
      await this.#inHub('link', 'set', port, 'up');
      const inside = ['-n', host.namespace];
      await execute('ip', [...inside, 'link', 'set', 'lo', 'up']);
      await execute('ip', [...inside, 'addr', 'add', `${host.address}/24`, 'dev', 'eth0']);
      await execute('ip', [...inside, 'link', 'set', 'eth0', 'up']);
    }
  }

  #port(host: NetworkHost): string {
    return `port${this.hosts.indexOf(host) + 1}`;
  }

  async #inHub(...parameters: string[]): Promise<void> {
    await execute('ip', ['-n', this.hub.namespace, ...parameters]);
  }
}

async function removeNamespace(name: string): Promise<void> {
  await waitFor(`nothing runs in ${name}`, async () => {
    const { stdout } = await execute('ip', ['netns', 'pids', name]);
    const pids = stdout.split('\n').filter(Boolean).map(Number);
    for (const pid of pids) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
      }
    }
    return pids.length === 0;
  });
  await execute('ip', ['netns', 'delete', name]);
}
