import { MoorageError } from '../errors.js';
import { listAll } from '../journal/agents.js';
import { cutOffWrites } from '../journal/cut-offs.js';
import type { Intent, Next, OperationDefinition, PhaseContext } from '../journal/definition.js';
import { indexes, keys, putCutOff, putNode } from '../journal/documents.js';
import { newId } from '../model/ids.js';
import type { Operation } from '../model/operation.js';
import type { CutOff, Export, Node, NodeFence, Pool } from '../model/resources.js';
import { BackendError } from '../ports/backend.js';
import type { StoredDocument, Write } from '../ports/store.js';
import { type CoreContext, getNode, requireEtag } from './context.js';
import { clientsOf, hostOf, wholeHost } from './exports/clients.js';
import { refusal } from './images.js';
import type { FenceNode, UnfenceNode } from './types.js';

/*
 * FENCENODE
 *
 * Cuts a hostile or lost node off as a whole. From its first commit on nothing is exported to the node and no descriptor is
 * given to it. Then, in this order, everything committed to the plan and to the list of who is to stay cut off first:
 *   1. its addresses, whole, on every pool: whatever it runs and whatever tickets it holds. This comes first, because it is
 *      what may be refused (an address that is the controller's own), and nothing has been taken from the node then;
 *   2. the users of its exports are deleted: a key that was copied opens no new connection from elsewhere;
 *   3. the clients that are connected as these users, or hold their images, wherever they are;
 *   4. listed again, until there is nothing new and no export of the node is still being made.
 * Its exports stay on record and its locks stay on the images: `Unexport` with force ends each (an evacuation does them all).
 *
 * UNFENCENODE takes back all that the node was cut off with, those of its exports that were withdrawn by force included. It is
 * the administrator's word that nothing that ran then runs now: a frozen guest that wakes would write again.
 */

/** Plan of FenceNode: addresses by cluster. */
export interface FenceNodePlan {
  readonly targets: Readonly<Record<string, readonly string[]>>;
}

/** Plan of UnfenceNode: what was taken back, by cluster. */
export interface UnfenceNodePlan {
  readonly lifted: Readonly<Record<string, readonly string[]>>;
}

type FenceContext = PhaseContext<FenceNodePlan>;

/** @throws MoorageError FAILED_PRECONDITION when the node is fenced */
export function requireNotFenced(node: Node): void {
  if (node.fence === undefined) return;
  throw new MoorageError('FAILED_PRECONDITION', `The node ${node.id} is fenced: nothing is exported to it.`, {
    reason: 'NODE_FENCED',
    metadata: { node_id: node.id },
  });
}

/** What FenceNode comes to. */
export async function intendFence(core: CoreContext, request: FenceNode): Promise<Intent> {
  const document = await getNode(core.store, request.id);
  requireEtag(document, request.etag);
  const node = document.value;
  const running = await runningOperation(core, node);
  if (node.fence?.state === 'fenced' || (node.fence?.state === 'fencing' && running !== '')) {
    return { intent: 'nothing', resourceId: node.id, operationId: running };
  }
  const operationId = newId('op');
  const time = core.clock.now();
  const fence: NodeFence = { state: 'fencing', reason: request.reason, time, operationId };
  const hosts = node.storageAddresses.map(wholeHost);
  const clusters = [...new Set((await pools(core)).map(({ settings }) => settings.cluster))];
  const targets = hosts.length === 0 ? {} : Object.fromEntries(clusters.map((cluster) => [cluster, hosts]));
  const plan: FenceNodePlan = { targets };
  return {
    intent: 'operation',
    kind: 'node.fence',
    operationId,
    resourceId: node.id,
    poolId: '',
    firstPhase: hosts.length === 0 ? 'withdraw' : 'cut-off',
    plan,
    locks: [{ resourceId: node.id, mode: 'exclusive' }],
    writes: [putNode({ ...node, fence, updateTime: time }, document.rev), ...recordWrites(core, node.id, targets)],
  };
}

/** What UnfenceNode comes to. */
export async function intendUnfence(core: CoreContext, request: UnfenceNode): Promise<Intent> {
  const document = await getNode(core.store, request.id);
  requireEtag(document, request.etag);
  const node = document.value;
  const running = await runningOperation(core, node);
  if (node.fence?.state === 'unfencing' && running !== '') {
    return { intent: 'nothing', resourceId: node.id, operationId: running };
  }
  const entries = await listAll<CutOff>(core.store, indexes.cutOffsOfNode(node.id));
  const mine = entries.filter(({ value }) => !value.lifted);
  if (node.fence === undefined && mine.length === 0) {
    return { intent: 'nothing', resourceId: node.id, operationId: '' };
  }
  if (!request.clientsAreDead) {
    throw new MoorageError(
      'FAILED_PRECONDITION',
      `clients_are_dead: say so when nothing runs any more that ran on ${node.id} when it was cut off (it was restarted, say). ` +
        'A guest that was only frozen would write again.',
      { reason: 'CLIENTS_MAY_LIVE', metadata: { node_id: node.id } },
    );
  }
  const exports = await core.store.list<Export>(indexes.exportsOfNode(node.id), { limit: 10 });
  if (node.fence !== undefined && exports.documents.length > 0) {
    const ids = exports.documents.map(({ value }) => value.id).join(', ');
    throw new MoorageError(
      'FAILED_PRECONDITION',
      `The node ${node.id} has exports (${ids}), whose users were deleted. Evacuate it first.`,
      { reason: 'NODE_IN_USE', metadata: { node_id: node.id, export_ids: ids } },
    );
  }
  const operationId = newId('op');
  const time = core.clock.now();
  const lifted: Record<string, string[]> = {};
  for (const { value } of mine) lifted[value.cluster] = [...(lifted[value.cluster] ?? []), value.address];
  const plan: UnfenceNodePlan = { lifted };
  const fence: NodeFence = { reason: '', time, ...node.fence, state: 'unfencing', operationId };
  return {
    intent: 'operation',
    kind: 'node.unfence',
    operationId,
    resourceId: node.id,
    poolId: '',
    firstPhase: 'lift',
    plan,
    locks: [{ resourceId: node.id, mode: 'exclusive' }],
    writes: [
      putNode({ ...node, fence, updateTime: time }, document.rev),
      ...mine.map(({ value, rev }) => putCutOff({ ...value, lifted: true, updateTime: time }, rev)),
    ],
  };
}

/** How FenceNode is carried out. */
export function fenceNodeDefinition(core: CoreContext): OperationDefinition<FenceNodePlan> {
  return {
    kind: 'node.fence',
    phases: {
      'cut-off': (context) => cutOff(core, context),
      withdraw: (context) => withdraw(core, context),
    },
    onRefused: async (context, error) => {
      // Only before anything was taken from the node: what is refused here is one of its own addresses.
      if (context.operation.phase === 'cut-off' && (await usersAreUntouched(core, context))) {
        return giveUp(core, context, error);
      }
      throw new Error(`The fencing of ${context.operation.resourceId} was refused: ${error.message}`, {
        cause: error,
      });
    },
    images: async () => [],
  };
}

async function cutOff(core: CoreContext, context: FenceContext): Promise<Next<FenceNodePlan>> {
  const expirySeconds = core.settings.cutOffExpirySeconds;
  // A storage that does not answer keeps no other from cutting the node off.
  const failures: unknown[] = [];
  for (const pool of await pools(core)) {
    const addresses = context.plan.targets[pool.settings.cluster] ?? [];
    if (addresses.length === 0) continue;
    try {
      await context.step('cut-off', (step) => core.backend().fence.cutOff(pool, { addresses, expirySeconds }, step));
    } catch (error) {
      // A pool that the backend has no longer reaches nobody, and must not keep the others open.
      if (!(error instanceof BackendError && error.code === 'NOT_FOUND')) failures.push(error);
    }
  }
  if (failures.length > 0) throw failures.find(isPermanent) ?? failures[0];
  return { kind: 'phase', phase: 'withdraw', plan: context.plan };
}

/** Deletes the users of the node's exports and finds whom that left connected. */
async function withdraw(core: CoreContext, context: FenceContext): Promise<Next<FenceNodePlan>> {
  const nodeId = context.operation.resourceId;
  const byId = new Map((await pools(core)).map((pool) => [pool.id, pool]));
  const fresh: Record<string, string[]> = {};
  let unfinished = '';
  const failures: unknown[] = [];
  for (const { value: item } of await listAll<Export>(core.store, indexes.exportsOfNode(nodeId))) {
    const pool = byId.get(item.poolId);
    if (pool === undefined) continue;
    if (item.state === 'exporting') {
      unfinished = item.id;
      continue;
    }
    const { cluster } = pool.settings;
    const known = new Set([...(context.plan.targets[cluster] ?? []), ...(fresh[cluster] ?? [])]);
    const isKnown = (address: string) => known.has(address) || known.has(wholeHost(hostOf(address)));
    try {
      await context.step('revoke-access', (step) => core.backend().fence.revokeAccess(pool, item.id, step));
      const found = (await clientsOf(core, context.step, item)).filter((address) => !isKnown(address));
      if (found.length > 0) fresh[cluster] = [...(fresh[cluster] ?? []), ...found];
    } catch (error) {
      failures.push(error);
    }
  }
  if (Object.keys(fresh).length > 0) {
    const targets: Record<string, readonly string[]> = { ...context.plan.targets };
    for (const [cluster, addresses] of Object.entries(fresh)) {
      targets[cluster] = [...(targets[cluster] ?? []), ...addresses];
    }
    return {
      kind: 'phase',
      phase: 'cut-off',
      plan: { targets },
      writes: async () => recordWrites(core, nodeId, fresh),
    };
  }
  if (failures.length > 0) throw failures[0];
  // One that had begun before this node was fenced: its user is made yet, and deleted in the next round.
  if (unfinished !== '') throw new MoorageError('ABORTED', `${unfinished} is still being made; waiting for its end.`);
  return { kind: 'succeeded', writes: () => fenceWrites(core, nodeId, (fence) => ({ ...fence, state: 'fenced' })) };
}

/** Whether every cut-off of the plan is one of the node's own addresses: then no user was deleted yet. */
async function usersAreUntouched(core: CoreContext, context: FenceContext): Promise<boolean> {
  const node = (await getNode(core.store, context.operation.resourceId)).value;
  const hosts = new Set(node.storageAddresses.map(wholeHost));
  return Object.values(context.plan.targets).every((addresses) => addresses.every((address) => hosts.has(address)));
}

async function giveUp(core: CoreContext, context: FenceContext, error: BackendError): Promise<Next<FenceNodePlan>> {
  const nodeId = context.operation.resourceId;
  const { targets } = context.plan;
  for (const [cluster, addresses] of Object.entries(targets)) {
    const pool = (await pools(core)).find(({ settings }) => settings.cluster === cluster);
    if (pool === undefined) continue;
    await context.step('lift-cut-off', (step) => core.backend().fence.liftCutOff(pool, addresses, step));
  }
  return {
    kind: 'failed',
    failure: refusal(error, `The node ${nodeId} could not be fenced`),
    writes: async () => [
      ...(await fenceWrites(core, nodeId, () => undefined)),
      ...Object.entries(targets).flatMap(([cluster, addresses]) =>
        addresses.map((address): Write => ({ kind: 'delete', key: keys.cutOff(cluster, address), expect: 'any' })),
      ),
    ],
  };
}

/** How UnfenceNode is carried out. */
export function unfenceNodeDefinition(core: CoreContext): OperationDefinition<UnfenceNodePlan> {
  return {
    kind: 'node.unfence',
    phases: {
      lift: async (context) => {
        for (const [cluster, addresses] of Object.entries(context.plan.lifted)) {
          const pool = (await pools(core)).find(({ settings }) => settings.cluster === cluster);
          if (pool === undefined) continue;
          await context.step('lift-cut-off', (step) => core.backend().fence.liftCutOff(pool, addresses, step));
        }
        const nodeId = context.operation.resourceId;
        return { kind: 'succeeded', writes: () => fenceWrites(core, nodeId, () => undefined) };
      },
    },
    onRefused: async ({ operation }, error) => {
      throw new Error(`Letting ${operation.resourceId} in again was refused: ${error.message}`, { cause: error });
    },
    images: async () => [],
  };
}

async function fenceWrites(
  core: CoreContext,
  nodeId: string,
  change: (fence: NodeFence) => NodeFence | undefined,
): Promise<readonly Write[]> {
  const document: StoredDocument<Node> = await getNode(core.store, nodeId);
  const { fence, ...node } = document.value;
  if (fence === undefined) return [];
  const changed = change({ ...fence, operationId: '' });
  const updateTime = core.clock.now();
  return [putNode({ ...node, ...(changed === undefined ? {} : { fence: changed }), updateTime }, document.rev)];
}

function recordWrites(
  core: CoreContext,
  nodeId: string,
  targets: Readonly<Record<string, readonly string[]>>,
): readonly Write[] {
  const cause = { reason: 'node', subjectId: nodeId, nodeId, provenDead: false } as const;
  return Object.entries(targets).flatMap(([cluster, addresses]) => cutOffWrites(core.clock, cluster, addresses, cause));
}

async function runningOperation(core: CoreContext, node: Node): Promise<string> {
  const id = node.fence?.operationId ?? '';
  if (id === '') return '';
  const operation = await core.store.get<Operation>(keys.operation(id));
  return operation?.value.state === 'running' ? id : '';
}

async function pools(core: CoreContext): Promise<readonly Pool[]> {
  return (await listAll<Pool>(core.store, indexes.pools)).map(({ value }) => value);
}

function isPermanent(error: unknown): boolean {
  return error instanceof BackendError && error.failure === 'permanent';
}
