import { createClient, ErrorReply } from 'redis';
import type { Credentials } from './access.js';
import { splitAddress } from './options.js';

/** The connection broke, or an answer did not come in time: whether a command that was sent took place is not known. */
export class ConnectionLost extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'ConnectionLost';
  }
}

/** The server's refusal of a command, as "READONLY You can't write …". */
export { ErrorReply };

type Argument = string | Buffer;
type Client = ReturnType<typeof makeClient>;

/*
 * One connection to one server. It never reconnects by itself: whoever comes back to a server must first look whether it is
 * still the one that it was (primary.ts). Answers come in the order of the commands.
 */
export class Connection {
  readonly address: string;
  readonly #client: Client;
  readonly #listeners = new Set<(error: ConnectionLost) => void>();
  #lost: ConnectionLost | undefined;

  private constructor(address: string, client: Client) {
    this.address = address;
    this.#client = client;
    client.on('error', (error: unknown) => this.#lose(String(error instanceof Error ? error.message : error), error));
    client.on('end', () => this.#lose('it was closed'));
  }

  /**
   * Connects and authenticates.
   * @param timeout for all of it, milliseconds.
   * @throws {ConnectionLost} `ErrorReply` when the password or user is refused.
   */
  static async open(address: string, credentials: Credentials, timeout: number): Promise<Connection> {
    const client = makeClient(address, credentials, timeout);
    const connection = new Connection(address, client);
    try {
      await connection.#within(timeout, client.connect());
    } catch (error) {
      connection.close();
      if (error instanceof ErrorReply || error instanceof ConnectionLost) throw error;
      const reason = error instanceof Error ? error.message || error.name : String(error);
      throw new ConnectionLost(`the server at ${address} cannot be reached: ${reason}`, { cause: error });
    }
    return connection;
  }

  /** Whether it can still be used. */
  get lost(): boolean {
    return this.#lost !== undefined;
  }

  /** Calls once when it breaks, not when it is closed. */
  onLost(listener: (error: ConnectionLost) => void): void {
    this.#listeners.add(listener);
  }

  /**
   * Sends a command and waits for its answer. One that does not come in time ends the connection: the next answer would be
   * taken for this one's.
   * @throws {ErrorReply} the server's refusal; {@link ConnectionLost}.
   */
  async call<T>(parameters: readonly Argument[], timeout: number): Promise<T> {
    if (this.#lost !== undefined) throw this.#lost;
    try {
      return await this.#within(timeout, this.#client.sendCommand<T>(parameters));
    } catch (error) {
      if (error instanceof ErrorReply) throw error;
      throw this.#lost ?? this.#lose(error instanceof Error ? error.message : String(error), error);
    }
  }

  close(): void {
    this.#listeners.clear();
    this.#lost ??= new ConnectionLost(`the connection to ${this.address} is closed`);
    this.#destroy();
  }

  async #within<T>(timeout: number, answer: Promise<T>): Promise<T> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(this.#lose(`it did not answer for ${Math.round(timeout)} ms`)), timeout);
    });
    try {
      return await Promise.race([answer, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  #lose(reason: string, cause?: unknown): ConnectionLost {
    if (this.#lost !== undefined) return this.#lost;
    const error = new ConnectionLost(`the connection to the Redis server at ${this.address} is lost: ${reason}`, {
      cause,
    });
    this.#lost = error;
    this.#destroy();
    for (const listener of this.#listeners) listener(error);
    return error;
  }

  #destroy(): void {
    // Throws when it is closed already.
    if (this.#client.isOpen) this.#client.destroy();
  }
}

function makeClient(address: string, { user, password, tls }: Credentials, timeout: number) {
  const { host, port } = splitAddress(address);
  const common = { host, port, connectTimeout: timeout, reconnectStrategy: false as const };
  return createClient({
    RESP: 2,
    socket: tls === undefined ? common : { ...common, tls: true as const, ...tls },
    ...(user !== undefined && { username: user }),
    ...(password !== undefined && { password }),
    disableOfflineQueue: true,
    // What an ACL user would need more rights for.
    disableClientInfo: true,
    maintNotifications: 'disabled',
  });
}
