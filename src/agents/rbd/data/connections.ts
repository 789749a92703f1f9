import { randomUUID } from 'node:crypto';
import { status } from '@grpc/grpc-js';
import type { AgentCluster } from '../agent-context.js';
import type { Cluster } from '../librbd/cluster.js';
import { isCephError } from '../librbd/errors.js';
import type { PoolContext } from '../librbd/pool-context.js';
import { StepError } from '../step-error.js';

/** Most connections of one agent that are open at once. */
const MAXIMUM = 256;

/**
 * The connections that steps on images which a node has open are done with, one each, so that a node which blocklists the
 * client that holds its image's lock disturbs only the work on its own image.
 */
export class OwnConnections {
  readonly #cluster: AgentCluster;
  readonly #open = new Map<string, Cluster>();

  constructor(cluster: AgentCluster) {
    this.#cluster = cluster;
  }

  /** Opens one. @throws CephError; StepError when there are too many */
  async open(): Promise<{ readonly connectionId: string; readonly addresses: readonly string[] }> {
    if (this.#open.size >= MAXIMUM) {
      throw new StepError(status.RESOURCE_EXHAUSTED, 'LANE_FULL', `${MAXIMUM} connections are open; nothing was begun`);
    }
    const connection = await this.#cluster.connect();
    const connectionId = randomUUID();
    this.#open.set(connectionId, connection);
    return { connectionId, addresses: connection.addresses() };
  }

  /** Closes one, after the step that still runs on it; closing an unknown one does nothing. */
  async close(connectionId: string): Promise<void> {
    const connection = this.#open.get(connectionId);
    this.#open.delete(connectionId);
    await connection?.close();
  }

  /** Addresses of this agent: shared and own connections. */
  addresses(): Set<string> {
    return new Set([this.#cluster.shared, ...this.#open.values()].flatMap((each) => each.addresses()));
  }

  /**
   * Opens a pool through one of them.
   * @throws StepError UNAVAILABLE: the connection is unknown (another start of the agent), or was cut off by the node
   */
  async withPool<Result>(
    connectionId: string,
    poolName: string,
    use: (pool: PoolContext) => Promise<Result>,
  ): Promise<Result> {
    const connection = this.#open.get(connectionId);
    if (!connection) {
      throw new StepError(
        status.UNAVAILABLE,
        'UNKNOWN_CONNECTION',
        `connection_id: "${connectionId}" is not open in this start of the agent; open another`,
      );
    }
    try {
      return await connection.withPool(poolName, use);
    } catch (error) {
      if (!isCephError(error, 'ESHUTDOWN')) throw error;
      throw new StepError(
        status.UNAVAILABLE,
        'CONNECTION_CUT_OFF',
        `connection_id: "${connectionId}" was cut off by a client of the image; open another`,
        { cause: error },
      );
    }
  }
}
