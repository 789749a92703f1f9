import type { Node } from '../../client/index.js';
import { formatNodePublicKey } from '../../descriptor/index.js';
import { formatTags, formatTime, properties } from '../output.js';

/** A node in lines. */
export function describeNode(node: Node | null): string {
  if (node === null) return '';
  return properties([
    ['name', node.id],
    ['public key', formatNodePublicKey(node.publicKey)],
    ['key id', node.publicKeyId],
    ['addresses', node.storageAddresses.join(' ')],
    ['initiator name', node.initiatorName],
    ['tags', formatTags(node.tags)],
    ['registered', formatTime(node.createTime)],
    ...fenceProperties(node),
  ]);
}

function fenceProperties(node: Node): [string, string][] {
  const state = fenceState(node);
  if (state === '') return [];
  return [
    ['fence', state],
    ['fenced since', formatTime(node.fenceTime)],
    ['fence reason', node.fenceReason],
  ];
}

/** "fenced"; empty when it is not. */
export function fenceState({ fenceState: state }: Node): string {
  return state === 'NODE_FENCE_STATE_UNSPECIFIED' ? '' : state.replace('NODE_FENCE_STATE_', '').toLowerCase();
}
