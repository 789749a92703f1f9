import { status } from '@grpc/grpc-js';
import type { GetPoolResponse } from '../../../generated/moorage/backend/v1/GetPoolResponse.js';
import { type Cluster, parseAddresses } from '../librbd/cluster.js';
import { CephError, isCephError } from '../librbd/errors.js';
import { notFound, StepError } from '../step-error.js';

/**
 * Capacity of a pool as the monitors reckon it (replication and fullness counted in), and what a node needs to connect:
 * cluster, pool and every monitor. Asks no OSD.
 * @throws StepError NOT_FOUND; UNAVAILABLE while a pool that was just made is not counted yet; CephError
 */
export async function readPoolFacts(cluster: Cluster, poolName: string): Promise<GetPoolResponse> {
  const [usage, monitors] = await Promise.all([
    query(cluster, { prefix: 'df', format: 'json' }),
    query(cluster, { prefix: 'mon dump', format: 'json' }),
  ]);
  const pool = (usage as DiskFree).pools?.find((each) => each.name === poolName);
  if (!pool) throw await whyAbsent(cluster, poolName);
  const free = Math.floor(pool.stats.max_avail);
  return {
    capacityBytes: String(free + Math.floor(pool.stats.stored ?? pool.stats.bytes_used)),
    freeBytes: String(free),
    connector: 'rbd',
    connectorJson: Buffer.from(
      JSON.stringify({
        cluster_id: cluster.fsid(),
        ceph_pool: poolName,
        monitors: ((monitors as MonitorMap).mons ?? []).map(addressOf),
      }),
    ),
  };
}

/** The manager counts a new pool some seconds after the monitors made it: to call that misspelt would mislead. */
async function whyAbsent(cluster: Cluster, poolName: string): Promise<StepError> {
  try {
    await cluster.withPool(poolName, async () => {});
  } catch (error) {
    if (!isCephError(error, 'ENOENT')) throw error;
    return notFound(`step.pool.settings["ceph_pool"]: the cluster has no pool "${poolName}"`);
  }
  return new StepError(
    status.UNAVAILABLE,
    'NOT_COUNTED_YET',
    `the cluster has not counted the new pool "${poolName}" yet`,
  );
}

interface DiskFree {
  readonly pools?: readonly {
    readonly name: string;
    readonly stats: { readonly max_avail: number; readonly stored?: number; readonly bytes_used: number };
  }[];
}

interface MonitorMap {
  readonly mons?: readonly {
    readonly addr: string;
    readonly public_addrs?: { readonly addrvec?: readonly { readonly type: string; readonly addr: string }[] };
  }[];
}

async function query(
  cluster: Cluster,
  command: { readonly prefix: string; readonly format: string },
): Promise<unknown> {
  const { output } = await cluster.monCommand(command);
  try {
    return JSON.parse(output.toString('utf8'));
  } catch (error) {
    throw new CephError('rados_mon_command', 74, `"${command.prefix}"`, { cause: error });
  }
}

/** host:port of a monitor, the newer messenger's when it has both. */
function addressOf(monitor: NonNullable<MonitorMap['mons']>[number]): string {
  const vector = monitor.public_addrs?.addrvec ?? [];
  const chosen = vector.find((each) => each.type === 'v2') ?? vector[0];
  const address = chosen?.addr ?? parseAddresses(monitor.addr)[0] ?? '';
  return address.replace(/\/[0-9]+$/, '');
}
