import { StoreError } from '../../core/ports/store.js';
import { readCredentials } from './access.js';
import { Connection } from './connection.js';
import { joinAddress, type RedisPlace, type RedisTls } from './options.js';

type SentinelPlace = Extract<RedisPlace, { kind: 'sentinels' }>;

/** What Sentinels say of a primary. */
export interface SentinelView {
  readonly primary: string;
  /** Replicas that may never be promoted (replica-priority 0). */
  readonly neverPromoted: ReadonlySet<string>;
  /** Every replica that they know of; of those that the majority takes for dead, that they do. */
  readonly replicas: ReadonlyMap<string, 'seen' | 'down'>;
}

/*
 * Asks all Sentinels, each time. One alone may be cut off from the others and name a primary that was replaced long ago;
 * a majority elects, so a majority is believed. (node-redis has a Sentinel client, but that one follows any Sentinel, and
 * moves commands to the new primary by itself: here somebody must look at it first.)
 */
export class Sentinels {
  readonly #place: SentinelPlace;
  readonly #tls: RedisTls | undefined;
  readonly #timeout: number;
  readonly #connections = new Map<string, Connection>();
  #closed = false;

  constructor(place: SentinelPlace, tls: RedisTls | undefined, timeout: number) {
    this.#place = place;
    this.#tls = tls;
    this.#timeout = timeout;
  }

  /**
   * What a majority of the Sentinels says.
   * @throws {StoreError} `unavailable` with what each said when there is no majority.
   */
  async ask(): Promise<SentinelView> {
    const { addresses, name } = this.#place;
    const answers = await Promise.allSettled(addresses.map((address) => this.#askOne(address)));
    const views = answers.flatMap((answer) => (answer.status === 'fulfilled' ? [answer.value] : []));
    for (const view of views) {
      const agreeing = views.filter(({ primary }) => primary === view.primary);
      if (agreeing.length <= addresses.length / 2) continue;
      // One that has not heard of a priority yet says 100: who says 0 has read it from the replica.
      const neverPromoted = new Set(agreeing.flatMap((one) => [...one.neverPromoted]));
      const replicas = new Map<string, 'seen' | 'down'>();
      for (const address of new Set(agreeing.flatMap((one) => [...one.replicas.keys()]))) {
        const down = agreeing.filter((one) => one.replicas.get(address) === 'down');
        replicas.set(address, down.length > addresses.length / 2 ? 'down' : 'seen');
      }
      return { primary: view.primary, neverPromoted, replicas };
    }
    const said = answers.map((answer, position) => {
      const what = answer.status === 'fulfilled' ? answer.value.primary : reasonOf(answer.reason);
      return `${addresses[position]}: ${what}`;
    });
    throw new StoreError(
      'unavailable',
      `no majority of the Sentinels names one primary for "${name}" (${said.join('; ')})`,
    );
  }

  close(): void {
    this.#closed = true;
    for (const connection of this.#connections.values()) connection.close();
    this.#connections.clear();
  }

  async #askOne(address: string): Promise<SentinelView> {
    const connection = await this.#connect(address);
    const { name } = this.#place;
    const [primary, replicas] = await Promise.all([
      connection.call<readonly string[] | null>(['SENTINEL', 'GET-MASTER-ADDR-BY-NAME', name], this.#timeout),
      connection.call<readonly (readonly string[])[]>(['SENTINEL', 'REPLICAS', name], this.#timeout).catch(() => []),
    ]);
    if (primary === null) throw new Error(`knows no primary "${name}"`);
    const known = replicas.map(fieldsOf).map((fields) => ({
      address: joinAddress(fields.get('ip') ?? '', fields.get('port') ?? ''),
      neverPromoted: fields.get('slave-priority') === '0',
      down: (fields.get('flags') ?? '').split(',').includes('s_down'),
    }));
    return {
      primary: joinAddress(primary[0] ?? '', primary[1] ?? ''),
      neverPromoted: new Set(known.filter((one) => one.neverPromoted).map((one) => one.address)),
      replicas: new Map(known.map((one) => [one.address, one.down ? ('down' as const) : ('seen' as const)])),
    };
  }

  async #connect(address: string): Promise<Connection> {
    const known = this.#connections.get(address);
    if (known !== undefined && !known.lost) return known;
    const connection = await Connection.open(address, readCredentials(this.#place.access, this.#tls), this.#timeout);
    if (this.#closed) {
      connection.close();
      throw new Error('the store is closed');
    }
    this.#connections.get(address)?.close();
    this.#connections.set(address, connection);
    return connection;
  }
}

function fieldsOf(flat: readonly string[]): ReadonlyMap<string, string> {
  const fields = new Map<string, string>();
  for (let at = 0; at + 1 < flat.length; at += 2) fields.set(flat[at] ?? '', flat[at + 1] ?? '');
  return fields;
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
