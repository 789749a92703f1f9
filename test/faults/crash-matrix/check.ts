import { listAccess } from '../../../src/agents/rbd/fence/access.js';
import { listCutOff } from '../../../src/agents/rbd/fence/cut-off.js';
import { listAll } from '../../../src/core/journal/agents.js';
import { indexes, keys } from '../../../src/core/journal/documents.js';
import { lockKeys } from '../../../src/core/journal/locks.js';
import type { ControllerRecord, LockRecord, Operation } from '../../../src/core/model/operation.js';
import type { Export, PointInTime, Snapshot, Volume } from '../../../src/core/model/resources.js';
import type { Store } from '../../../src/core/ports/store.js';
import { auditInventory, type Inventory, takeInventory } from '../../helpers/pool-audit.js';
import type { Bench } from './bench.js';

/*
 * The invariants. Of the store there are some that hold at any moment, whoever died: they are looked at while no controller
 * runs. The rest is for when everything has come to rest: store, catalogue and Ceph agree.
 */

/** What is wrong with a store whose controller has just died; each a sentence. */
export async function checkStore(store: Store): Promise<readonly string[]> {
  const operations = await listAll<Operation>(store, indexes.operationsRunning);
  const running = new Set(operations.map(({ value }) => value.id));
  const problems: string[] = [];
  const resources = [
    ...(await listAll<Volume>(store, indexes.volumesAll)),
    ...(await listAll<Snapshot>(store, indexes.snapshotsAll)),
    ...(await listAll<Export>(store, indexes.exports)),
  ].map(({ value }) => value);
  for (const { value } of operations) problems.push(...(await checkOperation(store, value)));
  const known = new Set([
    ...resources.map(({ id }) => id),
    ...operations.flatMap(({ value }) => value.locks.map((lock) => lock.resourceId)),
  ]);
  for (const id of known) {
    for (const lock of await store.getMany<LockRecord>(lockKeys(id))) {
      for (const holder of lock?.value.holders ?? []) {
        if (!running.has(holder.operationId))
          problems.push(`${lock?.key} is held by ${holder.operationId}, which does not run`);
      }
    }
  }
  for (const resource of resources) {
    const { id, operationId } = resource;
    if (operationId !== undefined && !running.has(operationId))
      problems.push(`${id} waits for ${operationId}, which does not run`);
  }
  for (const { value } of await listAll<PointInTime>(store, indexes.points)) {
    const ended = value.operationIds.filter((id) => !running.has(id));
    if (ended.length > 0) problems.push(`the point ${value.id} waits for ${ended.join(', ')}, which does not run`);
  }
  return problems;
}

async function checkOperation(store: Store, operation: Operation): Promise<readonly string[]> {
  const { id, kind, owner, locks, resourceId } = operation;
  const problems: string[] = [];
  const holds = async (lock: Operation['locks'][number]): Promise<boolean> =>
    (await store.getMany<LockRecord>(lockKeys(lock.resourceId))).some((document) =>
      document?.value.holders.some((holder) => holder.operationId === id && holder.mode === lock.mode),
    );
  for (const lock of locks)
    if (!(await holds(lock))) problems.push(`${id} runs without its lock on ${lock.resourceId}`);
  if ((await store.get<ControllerRecord>(keys.controller(owner))) === undefined) {
    problems.push(`${id} belongs to ${owner}, which has no record: nobody will ever take it up`);
  }
  const resource = await store.get<{ readonly operationId?: string }>(resourceKey(resourceId));
  // What only changes names and tags runs beside others, and the resource names those.
  // A repair has what it mends for itself by its lock alone: also something that is in no store yet.
  if (!kind.endsWith('.update') && kind !== 'admin.repair' && resource?.value.operationId !== id)
    problems.push(`${id} works on ${resourceId}, which does not say so`);
  const tokens = await listAll<{ readonly operationId: string }>(store, indexes.tokensOf(resourceId));
  if (!tokens.some(({ value }) => value.operationId === id)) problems.push(`no client token leads to ${id}`);
  return problems;
}

function resourceKey(id: string): string {
  if (id.startsWith('vol-')) return keys.volume(id);
  if (id.startsWith('snap-')) return keys.snapshot(id);
  return id.startsWith('exp-') ? keys.export(id) : keys.pool(id);
}

/** What is left in a store that should hold nothing that waits; each a sentence. */
export async function checkStoreAtRest(store: Store): Promise<readonly string[]> {
  const problems = [...(await checkStore(store))];
  for (const index of [indexes.operationsRunning, indexes.points, indexes.debris]) {
    const left = await listAll(store, index);
    if (left.length > 0) problems.push(`${index} holds ${left.map(({ key }) => key).join(', ')}`);
  }
  const controllers = await listAll<ControllerRecord>(store, indexes.controllers);
  if (controllers.length > 1) problems.push(`there are ${controllers.length} records of controllers`);
  return problems;
}

/**
 * What is wrong with a system at rest; each a sentence.
 * @param hasten looks no further when something is plainly still under way
 */
export async function checkAtRest(bench: Bench, hasten = false): Promise<readonly string[]> {
  const { operations } = await bench.client.listOperations({ pageSize: 1000 });
  const problems = operations.map(({ id, kind, statusMessage }) => `${id} (${kind}) still runs: ${statusMessage}`);
  const { cluster, pool } = bench.administrator;
  const cutOff = new Set((await listCutOff(cluster)).map(({ address }) => address));
  const free = bench.deadAddresses().filter((address) => !cutOff.has(address));
  if (free.length > 0) problems.push(`a dead agent is not cut off: ${free.join(', ')}`);
  const inventory = await takeInventory(bench.system);
  if (hasten && problems.length > 0) return problems;
  if (hasten && !isAtRest(inventory)) return ['something is still on its way'];
  const audit = await auditInventory(pool, inventory);
  problems.push(...audit.problems);
  for (const { id, sizeBytes } of [...inventory.volumes, ...inventory.snapshots]) {
    const found = audit.images.get(id)?.header?.sizeBytes;
    if (found !== undefined && String(found) !== sizeBytes)
      problems.push(`${id} has ${sizeBytes} bytes and its image ${found}`);
  }
  const users = new Set(await listAccess(cluster, bench.system.cephPool));
  if (bench.kind !== 'keyring') {
    const { nodes } = await bench.client.listNodes({ pageSize: 1000 });
    const fenced = new Set(nodes.flatMap((node) => (node.fenceState === 'NODE_FENCE_STATE_FENCED' ? node.id : [])));
    for (const { id, nodeId } of inventory.exports) {
      const has = users.delete(id);
      if (has === fenced.has(nodeId))
        problems.push(`${id} has ${has ? 'a user in Ceph, of a node that is cut off' : 'no user in Ceph'}`);
    }
  }
  problems.push(...[...users].map((id) => `Ceph has a user of ${id}, which is gone`));
  return problems;
}

/** Whether nothing is on its way from one state to another. */
function isAtRest({ volumes, snapshots, exports }: Inventory): boolean {
  return [...volumes, ...snapshots, ...exports].every(({ state }) =>
    /_(AVAILABLE|COMPLETED|DELETED|EXPORTED)$/.test(state),
  );
}
