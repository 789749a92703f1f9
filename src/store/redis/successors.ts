import { readCredentials } from './access.js';
import { Connection } from './connection.js';
import { parseInformation, REPLICATION } from './information.js';
import type { RedisStoreOptions } from './options.js';

/** Asks replicas that do not follow their primary whether they have been promoted; on a connection to each that stays. */
export class Successors {
  readonly #options: RedisStoreOptions;
  readonly #connections = new Map<string, Connection>();
  #closed = false;

  constructor(options: RedisStoreOptions) {
    this.#options = options;
  }

  /**
   * Whether a server is a primary that was promoted while it followed another.
   * @param epoch replication id of that other one
   * @returns undefined: it cannot be asked
   */
  async isOne(address: string, epoch: string): Promise<boolean | undefined> {
    try {
      const connection = await this.#connect(address);
      const text = await connection.call<string>(REPLICATION, this.#options.callTimeoutMilliseconds);
      const { role, formerReplicationId } = parseInformation(text);
      // One that has just been started also says that it is a primary, of another time, until the Sentinels find it.
      return role === 'master' && formerReplicationId === epoch;
    } catch {
      return undefined;
    }
  }

  close(): void {
    this.#closed = true;
    for (const connection of this.#connections.values()) connection.close();
    this.#connections.clear();
  }

  async #connect(address: string): Promise<Connection> {
    const known = this.#connections.get(address);
    if (known !== undefined && !known.lost) return known;
    const { access, tls, callTimeoutMilliseconds } = this.#options;
    const connection = await Connection.open(address, readCredentials(access, tls), callTimeoutMilliseconds);
    this.#connections.get(address)?.close();
    if (this.#closed) connection.close();
    else this.#connections.set(address, connection);
    return connection;
  }
}
