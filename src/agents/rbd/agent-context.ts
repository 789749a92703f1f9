import { readFileSync } from 'node:fs';
import { Cluster, type ClusterOptions, timeoutOverrides } from './librbd/cluster.js';
import { isCephError } from './librbd/errors.js';
import { optionNames, readKey } from './librbd/settings.js';

/** How an agent reaches its cluster. */
export interface AgentCluster {
  /** The connection for everything that needs none of its own. */
  readonly shared: Cluster;
  /** Opens one more; reads no file. The caller closes it. @throws CephError */
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
  const shared = await Cluster.connect(connection);
  const further: ClusterOptions = {
    user: connection.user,
    configurationFile: '',
    overrides: { ...(await settingsOf(shared, connection.configurationFile)), ...connection.overrides },
    key: connection.key ?? readKey(connection.keyringFile ?? shared.option('keyring'), connection.user),
  };
  return { shared, connect: () => Cluster.connect(further) };
}

/** What ceph.conf sets, as librados understood it for this user; the monitors by address, because no name resolves later. */
async function settingsOf(cluster: Cluster, configurationFile: string): Promise<Record<string, string>> {
  const settings: Record<string, string> = {};
  for (const name of optionNames(readFileSync(configurationFile, 'utf8'))) {
    // These name files, and nothing is read from any.
    if (name === 'keyring' || name === 'key' || name === 'keyfile') continue;
    try {
      settings[name] = cluster.option(name);
    } catch (error) {
      // Not an option: of a daemon that is not installed here, or misspelt.
      if (!isCephError(error, 'ENOENT')) throw error;
    }
  }
  settings.mon_host = await monitorAddresses(cluster);
  return settings;
}

async function monitorAddresses(cluster: Cluster): Promise<string> {
  const { output } = await cluster.monCommand({ prefix: 'mon dump', format: 'json' });
  const { mons } = JSON.parse(output.toString('utf8')) as {
    readonly mons: readonly {
      readonly public_addrs: { readonly addrvec: readonly { readonly type: string; readonly addr: string }[] };
    }[];
  };
  return mons
    .map(({ public_addrs }) => `[${public_addrs.addrvec.map(({ type, addr }) => `${type}:${addr}`).join(',')}]`)
    .join(' ');
}
