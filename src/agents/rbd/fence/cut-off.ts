import { status } from '@grpc/grpc-js';
import type { Cluster } from '../librbd/cluster.js';
import { isCephError } from '../librbd/errors.js';
import { probeObjects } from '../librbd/probe.js';
import { invalidField, refused, StepError } from '../step-error.js';
import { PROBE_PREFIX } from './caps.js';
import { forEachBounded, monitorJson } from './monitor.js';
import { nameInEachGroup, objectHash } from './placement.js';

/** A frozen guest that wakes after its entry expired writes again: entries last a day at least. */
const LEAST_EXPIRY_SECONDS = 86_400;
/** The monitors take a proposal for several at once. */
const COMMANDS_AT_ONCE = 8;

/**
 * Blocklists these clients and waits until every OSD of the pool refuses them: the monitors' answer does not say so. An
 * OSD hears of it with the first request that carries the new map, so one is sent to each placement group.
 * @param remainingMilliseconds how long it may take; not known to be done by then is an error whose outcome is unknown
 */
export async function cutOff(
  cluster: Cluster,
  poolName: string,
  addresses: readonly string[],
  expirySeconds: number,
  remainingMilliseconds: () => number,
): Promise<void> {
  if (!(expirySeconds >= LEAST_EXPIRY_SECONDS)) {
    throw invalidField('expiry_seconds', `must be ${LEAST_EXPIRY_SECONDS} (a day) or more`);
  }
  for (const [index, address] of addresses.entries()) {
    requireAddress(`addresses[${index}]`, address);
    if (cluster.addresses().some((own) => address === own || address === wholeHost(own))) {
      throw refused('CUTS_OFF_ITSELF', `addresses[${index}]: ${address} would cut off this agent itself`, { address });
    }
  }
  await forEachBounded(addresses, COMMANDS_AT_ONCE, async (addr) => {
    // The monitors want a number with a fraction here, and JSON.stringify writes none where there is none.
    await cluster.monCommand({ prefix: 'osd blocklist', blocklistop: 'add', addr, expire: expirySeconds + 0.5 });
  });
  if (addresses.length > 0) await untilEveryOsdKnows(cluster, poolName, remainingMilliseconds());
}

async function untilEveryOsdKnows(cluster: Cluster, poolName: string, milliseconds: number): Promise<void> {
  const done = (async () => {
    await cluster.waitForLatestOsdMap();
    const groups = await placementGroups(cluster, poolName);
    await cluster.withPool(poolName, (pool) => probeObjects(pool, nameInEachGroup(PROBE_PREFIX, groups)));
  })();
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    const error = new StepError(
      status.DEADLINE_EXCEEDED,
      'NOT_EVERY_OSD_KNOWS',
      `not every OSD of pool ${poolName} was known to refuse the clients within ${Math.round(milliseconds)} ms`,
    );
    timer = setTimeout(() => reject(error), Math.max(0, milliseconds));
  });
  try {
    await Promise.race([done, late]);
  } finally {
    clearTimeout(timer);
    // It may still fail when nobody waits for it any more.
    done.catch(() => undefined);
  }
}

async function placementGroups(cluster: Cluster, poolName: string): Promise<number> {
  const { pg_num } = await monitorJson<{ readonly pg_num: number }>(cluster, {
    prefix: 'osd pool get',
    pool: poolName,
    var: 'pg_num',
  });
  // Pools can have another hash than ours (none has had for years): then our names would not reach every group.
  const object = `${PROBE_PREFIX}0`;
  const { raw_pgid } = await monitorJson<{ readonly raw_pgid: string }>(cluster, {
    prefix: 'osd map',
    pool: poolName,
    object,
  });
  const hash = Number.parseInt(raw_pgid.slice(raw_pgid.indexOf('.') + 1), 16);
  if (hash !== objectHash(object)) {
    throw refused('OBJECT_HASH', `pool ${poolName} does not place objects by the hash "rjenkins"`);
  }
  return pg_num;
}

/** Takes entries of the blocklist back. Ones that are not there are OK. */
export async function liftCutOff(cluster: Cluster, addresses: readonly string[]): Promise<void> {
  for (const [index, address] of addresses.entries()) requireAddress(`addresses[${index}]`, address);
  await forEachBounded(addresses, COMMANDS_AT_ONCE, async (addr) => {
    try {
      await cluster.monCommand({ prefix: 'osd blocklist', blocklistop: 'rm', addr });
    } catch (error) {
      if (!isCephError(error, 'ENOENT')) throw error;
    }
  });
}

/** What is on the blocklist now, whoever put it there. Times in milliseconds since 1970. */
export async function listCutOff(
  cluster: Cluster,
): Promise<readonly { readonly address: string; readonly expireTime: number }[]> {
  const { output } = await cluster.monCommand({ prefix: 'osd blocklist ls', format: 'json' });
  // Since ranges of addresses can be listed too, the answer is two JSON arrays, one after the other.
  const entries = output
    .toString('utf8')
    .split(/(?<=\])\s*(?=\[)/)
    .flatMap((array) => JSON.parse(array) as readonly { readonly addr: string; readonly until: string }[]);
  // As "2026-11-21T05:00:00.123456+0000": microseconds, and a zone that JavaScript wants with a colon.
  return entries.map(({ addr, until }) => ({
    address: addr,
    expireTime: Date.parse(until.replace(/(\.\d{3})\d*/, '$1').replace(/([+-]\d{2})(\d{2})$/, '$1:$2')),
  }));
}

function wholeHost(address: string): string {
  return address.replace(/:\d+\/\d+$/, ':0/0');
}

// Clients have no port. An address with one is a daemon's: cut off, it would take an OSD from everybody.
function requireAddress(field: string, address: string): void {
  if (!/^(\d{1,3}(\.\d{1,3}){3}|\[[0-9a-fA-F:.]+\]):0\/\d{1,10}$/.test(address)) {
    throw invalidField(field, 'must be an address with nonce, as 10.0.0.5:0/1234567, or a whole host, as 10.0.0.5:0/0');
  }
}
