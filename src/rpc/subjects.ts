import { isId } from '../core/model/ids.js';

/*
 * What a call is about, as the audit log tells it: the ids and names of its request and its answer, and the few words that
 * make a call graver than it looks. Nothing else of a message: neither tags nor keys nor tokens.
 */

/** Ids and names by the API's field names, and what was asked for beside. */
export type Subjects = Readonly<Record<string, string | boolean>>;

type Message = Readonly<Record<string, unknown>>;

/** Fields that name something, as the proto loader spells them and as the API does. */
const named: readonly (readonly [field: string, name: string])[] = [
  ['volumeId', 'volume_id'],
  ['snapshotId', 'snapshot_id'],
  ['exportId', 'export_id'],
  ['grantId', 'grant_id'],
  ['nodeId', 'node_id'],
  ['poolId', 'pool_id'],
  ['operationId', 'operation_id'],
];

/** Resources in answers; their ids stand under the names above. */
const resources = ['volume', 'snapshot', 'export', 'grant', 'node', 'pool', 'operation'] as const;

const flags: readonly (readonly [field: string, name: string])[] = [
  ['force', 'force'],
  ['migration', 'migration'],
  ['validateOnly', 'validate_only'],
];

// What a caller sends goes into a file that is kept: only what can be an id or a name, never a secret in its place.
const acceptable = /^[a-z0-9][a-z0-9.-]{0,62}$/;

function shown(value: string): string {
  return acceptable.test(value) ? value : '(no id)';
}

function isMessage(value: unknown): value is Message {
  return typeof value === 'object' && value !== null && !ArrayBuffer.isView(value);
}

/** What a request is about. */
export function subjectsOfRequest(request: unknown): Subjects {
  if (!isMessage(request)) return {};
  const found: Record<string, string | boolean> = {};
  // Inner messages name what is used: the source of a volume, the node of a direct export.
  for (const part of [request.source, request.direct, request].filter(isMessage)) {
    for (const [field, name] of named) {
      const value = part[field];
      if (typeof value === 'string' && value !== '') found[name] = shown(value);
    }
    for (const [field, name] of flags) if (part[field] === true) found[name] = true;
  }
  return found;
}

/** What an answer adds: what was made, and the operation that makes it. */
export function subjectsOfAnswer(answer: unknown): Subjects {
  if (!isMessage(answer)) return {};
  const found: Record<string, string> = {};
  for (const resource of resources) {
    const value = answer[resource];
    if (!isMessage(value)) continue;
    if (typeof value.id === 'string' && value.id !== '') found[`${resource}_id`] = value.id;
    for (const name of ['volumeId', 'nodeId'] as const) {
      const id = value[name];
      if (typeof id === 'string' && id !== '') found[name === 'volumeId' ? 'volume_id' : 'node_id'] = id;
    }
  }
  const { operationId } = answer;
  if (typeof operationId === 'string' && isId('op', operationId)) found.operation_id = operationId;
  return found;
}
