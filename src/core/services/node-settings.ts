import { isIP } from 'node:net';
import { invalidField } from '../errors.js';
import { requireTags, requireText } from '../model/validation.js';

/* What may be said of a node, whoever says it: RegisterNode, CreateEnrollmentToken, UpdateNode. */

const MOST_ADDRESSES = 32;
const LONGEST_INITIATOR_NAME = 223;
const KEY_BYTES = 32;

/** What an administrator says of a node. */
export interface NodeSettings {
  readonly storageAddresses: readonly string[];
  readonly initiatorName: string;
  readonly tags: Readonly<Record<string, string>>;
}

/** @throws MoorageError INVALID_ARGUMENT that names the field */
export function requireNodeSettings({ storageAddresses, initiatorName, tags }: NodeSettings): void {
  if (storageAddresses.length > MOST_ADDRESSES) {
    throw invalidField('storage_addresses', `must be at most ${MOST_ADDRESSES}`);
  }
  for (const address of storageAddresses) {
    if (isIP(address) === 0) {
      throw invalidField(
        'storage_addresses',
        `must be IPv4 or IPv6 addresses without port; ${JSON.stringify(address.slice(0, 64))} is not`,
      );
    }
  }
  requireInitiatorName(initiatorName);
  requireTags(tags);
}

/** @throws MoorageError INVALID_ARGUMENT */
export function requireInitiatorName(text: string): void {
  requireText('initiator_name', text, LONGEST_INITIATOR_NAME);
}

/** A node's public key. @throws MoorageError INVALID_ARGUMENT */
export function requirePublicKey(publicKey: Uint8Array): void {
  if (publicKey.length === KEY_BYTES) return;
  throw invalidField(
    'public_key',
    `must be ${KEY_BYTES} bytes, as storage-utils init prints them, and has ${publicKey.length}`,
  );
}
