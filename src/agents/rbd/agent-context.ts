import { Cluster, type ClusterOptions, timeoutOverrides } from './librbd/cluster.js';

/** How an agent reaches its cluster. */
export interface AgentCluster {
  /** The connection for everything that needs none of its own. */
  readonly shared: Cluster;
  /** Opens one more; the caller closes it. @throws CephError */
  connect(): Promise<Cluster>;
}

/** Settings of an agent's connections. */
export interface AgentClusterOptions
  extends Pick<ClusterOptions, 'configurationFile' | 'user' | 'keyringFile' | 'key'> {
  /** How long one request to a server may take, in seconds. */
  readonly requestTimeoutSeconds: number;
}

/** Connects an agent. @throws CephError */
export async function connectAgent(options: AgentClusterOptions): Promise<AgentCluster> {
  const { requestTimeoutSeconds, ...rest } = options;
  const connection: ClusterOptions = {
    ...rest,
    overrides: {
      ...timeoutOverrides(requestTimeoutSeconds),
      // Nobody here asks guests to freeze their file systems; asking costs a round to every watcher, and 30 s when one hangs.
      rbd_default_snapshot_quiesce_mode: 'skip',
      // Checked once when the pool is set up, not with every image that is made.
      rbd_validate_pool: 'false',
      // The agent reads and writes no data through an image.
      rbd_cache: 'false',
      log_to_stderr: 'false',
      err_to_stderr: 'false',
      log_to_file: 'false',
      admin_socket: '',
    },
  };
  const connect = (): Promise<Cluster> => Cluster.connect(connection);
  return { shared: await connect(), connect };
}
