import { keys } from '../../journal/documents.js';
import type { Export, Node, Pool } from '../../model/resources.js';
import type { Holder, StepContext } from '../../ports/backend.js';
import { type CoreContext, getPool, getVolume } from '../context.js';
import { requireImage } from '../identity.js';

/** Takes a step: that of a phase (journal/definition.ts). */
export type TakeStep = <T>(name: string, take: (context: StepContext) => Promise<T>) => Promise<T>;

/** Addresses of the clients that have the volume open through an export, or are connected as its user. */
export async function clientsOf(core: CoreContext, step: TakeStep, item: Export): Promise<readonly string[]> {
  const pool = (await getPool(core.store, item.poolId)).value;
  const image = requireImage((await getVolume(core.store, item.volumeId)).value);
  const { data, fence } = core.backend();
  const holders = await step('get-usage', (context) => data.getUsage(pool, image, context));
  const connected = await step('list-clients', (context) => fence.listClients(pool, { exportId: item.id }, context));
  const attributed: string[] = [];
  for (const holder of holders) {
    if (connected.includes(holder.address)) continue;
    if (await isThisExports(core, step, item, pool, holder)) attributed.push(holder.address);
  }
  return [...new Set([...connected, ...attributed])];
}

/**
 * Whether somebody who watches or locks the image counts for this export although no monitor knows a session of its user: yes
 * when the volume has no other export; otherwise by the sessions of the others' users, and by the nodes' addresses. A holder
 * that fits nobody counts, so that a doubt never lets the volume go.
 */
async function isThisExports(
  core: CoreContext,
  step: TakeStep,
  item: Export,
  pool: Pool,
  holder: Holder,
): Promise<boolean> {
  const volume = (await getVolume(core.store, item.volumeId)).value;
  const host = hostOf(holder.address);
  for (const id of volume.exportIds) {
    if (id === item.id) continue;
    const other = (await core.store.get<Export>(keys.export(id)))?.value;
    if (other === undefined) continue;
    const theirs = await step('list-clients', (context) =>
      core.backend().fence.listClients(pool, { exportId: id }, context),
    );
    if (theirs.includes(holder.address)) return false;
    const ownNode = (await core.store.get<Node>(keys.node(item.nodeId)))?.value;
    const otherNode = (await core.store.get<Node>(keys.node(other.nodeId)))?.value;
    const isOthers = otherNode?.storageAddresses.includes(host) ?? false;
    if (isOthers && !(ownNode?.storageAddresses.includes(host) ?? false)) return false;
  }
  return true;
}

/** "10.0.0.5:0/123" → "10.0.0.5"; "[fd00::5]:0/123" → "fd00::5". */
export function hostOf(address: string): string {
  const host = address.slice(0, address.lastIndexOf(':'));
  return host.startsWith('[') ? host.slice(1, -1) : host;
}

/** A whole host as a cut-off names it: "10.0.0.5" → "10.0.0.5:0/0". */
export function wholeHost(ip: string): string {
  return ip.includes(':') ? `[${ip}]:0/0` : `${ip}:0/0`;
}
