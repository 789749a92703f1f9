import type { DescriptorPayload } from '../descriptor/index.js';
import { type NodeOptions, openOwn, settingsOf } from './settings.js';

/** What a descriptor says, without its secrets. */
export interface Inspection extends Omit<DescriptorPayload, 'access'> {
  /** Key id of the controller that sealed it. */
  readonly sender_key_id: string;
  /** Key id of this node's that it is sealed to. */
  readonly recipient_key_id: string;
  readonly expired: boolean;
  /** Mode and user as they are; every other field as "(secret)". */
  readonly access: Readonly<Record<string, string>>;
}

/**
 * Shows what is in a descriptor of this node's own, expired or not. Throws as `connect` does for one that cannot be
 * opened; reaches neither libvirt nor the network.
 */
export async function inspect(
  descriptor: Uint8Array | string,
  options: Pick<NodeOptions, 'keyFile'> = {},
): Promise<Inspection> {
  const { payload, header, expired } = await openOwn(descriptor, settingsOf(options), true);
  const open = new Set(['mode', 'user']);
  return {
    ...payload,
    access: Object.fromEntries(
      Object.entries(payload.access).map(([field, value]) => [
        field,
        open.has(field) && typeof value === 'string' ? value : '(secret)',
      ]),
    ),
    sender_key_id: header.senderKeyId,
    recipient_key_id: header.recipientKeyId,
    expired,
  };
}
