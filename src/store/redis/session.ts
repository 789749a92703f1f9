import { randomUUID } from 'node:crypto';
import { StoreError } from '../../core/ports/store.js';
import { readCredentials } from './access.js';
import { Connection } from './connection.js';
import { type Acknowledged, EPOCHS_KEPT, lossOf, type StoreHistory } from './history.js';
import {
  followingReplicas,
  isReplicated,
  parseInformation,
  REPLICATION,
  type Replica,
  type ReplicationRule,
} from './information.js';
import { inspectPrimary } from './inspect.js';
import type { RedisStoreOptions } from './options.js';
import { adoptScript, FORMAT, historyScript, type Script, scripts } from './scripts.js';

/** Longest WAIT between two looks at who is in sync, milliseconds. */
const WAIT_SLICE_MILLISECONDS = 250;

/*
 * One primary while it is used: two connections, because WAIT stops all that follows it on its own. A session ends when a
 * connection breaks or the primary changes, and is never mended: primary.ts begins another one.
 */
export class Session {
  readonly address: string;
  /** New at each start of the server. */
  readonly runId: string;
  /** Its replication id, as the store's history has it. */
  readonly epoch: string;
  readonly storeId: string;
  /** Commits that it had when it was taken into use. */
  readonly commits: number;
  readonly reads: Connection;
  readonly writes: Connection;
  /** For each command, milliseconds. */
  readonly callTimeout: number;
  #replicas: readonly Replica[];

  private constructor(fields: {
    reads: Connection;
    writes: Connection;
    runId: string;
    epoch: string;
    storeId: string;
    commits: number;
    replicas: readonly Replica[];
    timeout: number;
  }) {
    this.reads = fields.reads;
    this.writes = fields.writes;
    this.address = fields.reads.address;
    this.runId = fields.runId;
    this.epoch = fields.epoch;
    this.storeId = fields.storeId;
    this.commits = fields.commits;
    this.#replicas = fields.replicas;
    this.callTimeout = fields.timeout;
  }

  /**
   * Takes the primary at an address into use, after a look at it.
   * @param known what was acknowledged to this controller; a server that lacks it is refused.
   * @throws {StoreError} `lost-commits`, `newer-version`, `unavailable`; what {@link Connection.call} throws.
   */
  static async open(address: string, known: Acknowledged | undefined, options: RedisStoreOptions): Promise<Session> {
    const timeout = options.callTimeoutMilliseconds;
    const credentials = readCredentials(options.access, options.tls);
    const reads = await Connection.open(address, credentials, timeout);
    let writes: Connection | undefined;
    try {
      writes = await Connection.open(address, credentials, timeout);
      const information = await inspectPrimary(reads, options.persistence, timeout);
      for (const { text } of scripts) await reads.call(['SCRIPT', 'LOAD', text], timeout);
      const history = await adopt(reads, information.replicationId, known, options);
      return new Session({
        ...{ reads, writes, timeout, epoch: information.replicationId, runId: information.runId },
        ...{ storeId: history.storeId, commits: history.commits, replicas: information.replicas },
      });
    } catch (error) {
      reads.close();
      writes?.close();
      throw error;
    }
  }

  get lost(): boolean {
    return this.reads.lost || this.writes.lost;
  }

  /** Calls once a connection breaks. */
  onLost(listener: (error: Error) => void): void {
    this.reads.onLost(listener);
    this.writes.onLost(listener);
  }

  /** Replicas at the last look. */
  get replicas(): readonly Replica[] {
    return this.#replicas;
  }

  /** Looks at the replicas again. @returns whether the server is still a primary */
  async look(): Promise<boolean> {
    const { replicas, role } = parseInformation(await this.reads.call<string>(REPLICATION, this.callTimeout));
    this.#replicas = replicas;
    return role === 'master';
  }

  run<T>(connection: Connection, script: Script, parameters: readonly (string | Buffer)[]): Promise<T> {
    return connection.call<T>(['EVALSHA', script.sha, '0', ...parameters], this.callTimeout);
  }

  /** Loads the scripts again: somebody made the server forget them. */
  async reload(): Promise<void> {
    for (const { text } of scripts) await this.reads.call(['SCRIPT', 'LOAD', text], this.callTimeout);
  }

  /**
   * Ends a batch that was sent on `writes`: waits a little for the replicas to have it.
   * @param longest milliseconds.
   * @returns the end of the replication stream behind the batch, and whether the replicas that count have it.
   */
  async settle(rule: ReplicationRule, longest: number): Promise<{ readonly offset: number; readonly done: boolean }> {
    const [behind, done] = await Promise.all([
      this.writes.call<string>(REPLICATION, this.callTimeout),
      this.#wait(rule, longest),
    ]);
    const { offset } = parseInformation(behind);
    return { offset, done: done(offset) };
  }

  /** Waits a little more for the replicas to have the stream up to an offset. */
  async replicated(offset: number, rule: ReplicationRule, longest: number): Promise<boolean> {
    return (await this.#wait(rule, longest))(offset);
  }

  /** WAIT only counts replicas, whoever they are: it makes them answer. What decides is who answered what. */
  async #wait(rule: ReplicationRule, longest: number): Promise<(offset: number) => boolean> {
    const slice = Math.max(1, Math.min(WAIT_SLICE_MILLISECONDS, Math.ceil(longest)));
    const count = Math.max(rule.leastReplicas, followingReplicas(this.#replicas, rule).length);
    const [, looked] = await Promise.all([
      this.writes.call(['WAIT', String(count), String(slice)], slice + this.callTimeout),
      this.writes.call<string>(REPLICATION, slice + this.callTimeout),
    ]);
    this.#replicas = parseInformation(looked).replicas;
    return (offset) => isReplicated(this.#replicas, offset, rule);
  }

  close(): void {
    this.reads.close();
    this.writes.close();
  }
}

async function adopt(
  connection: Connection,
  replicationId: string,
  known: Acknowledged | undefined,
  { prefix, callTimeoutMilliseconds: timeout }: RedisStoreOptions,
): Promise<StoreHistory & { readonly storeId: string }> {
  const newId = randomUUID();
  for (;;) {
    const { history, epoch, loading } = await readHistory(connection, prefix, timeout);
    if (loading) {
      throw new StoreError(
        'unavailable',
        `the Redis server ${connection.address} holds a part of a store: a restore was cut short; run it again`,
      );
    }
    const loss = known === undefined ? undefined : lossOf(known, history);
    if (loss !== undefined) {
      throw new StoreError(
        'lost-commits',
        `the Redis server ${connection.address} ${loss}: it is not used. Bring the server back that had them, or read ` +
          '"A primary that lost commits" in docs/operations/redis.md',
      );
    }
    const parameters = [
      ...[prefix, history.storeId ?? '', epoch, newId, String(FORMAT), replicationId, String(EPOCHS_KEPT)],
    ];
    const [answer] = await connection.call<readonly string[]>(
      ['EVALSHA', adoptScript.sha, '0', ...parameters],
      timeout,
    );
    if (answer === 'ok') return { ...history, storeId: history.storeId ?? newId };
  }
}

async function readHistory(
  connection: Connection,
  prefix: string,
  timeout: number,
): Promise<{ readonly history: StoreHistory; readonly epoch: string; readonly loading: boolean }> {
  const [id = '', format = '', commits = '', epoch = '', loading = '', ...epochs] = await connection.call<
    readonly string[]
  >(['EVALSHA', historyScript.sha, '0', prefix], timeout);
  if (Number(format) > FORMAT) {
    throw new StoreError(
      'newer-version',
      `the store on the Redis server ${connection.address} has format ${format} and was written by a newer Moorage: run that version`,
    );
  }
  return {
    history: {
      storeId: id === '' ? undefined : id,
      commits: Number(commits),
      epochs: epochs.map((line) => {
        const [name = '', start = ''] = line.split(' ');
        return { id: name, start: Number(start) };
      }),
    },
    epoch,
    loading: loading !== '',
  };
}
