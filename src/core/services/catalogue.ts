import type { ImageParent } from '../model/image.js';
import type { Export } from '../model/resources.js';
import type { CatalogueEntry } from '../ports/backend.js';
import type { Vault } from '../ports/sealer.js';

/*
 * The catalogue on the backend: an entry for every image, written before the image is made and removed after it is
 * destroyed, and one for every open export. Authenticated with the master key: rebuild and fsck trust these entries only,
 * because what stands in an image's metadata a node can forge.
 */

/** Version of the entries that are written. Older ones lack the fields that are marked with theirs. */
const VERSION = 2;

/** What an image's entry says. */
export interface ImageIdentity {
  readonly id: string;
  readonly kind: 'volume' | 'snapshot';
  readonly poolId: string;
  readonly name: string;
  readonly formerNames: readonly string[];
  readonly sizeBytes: number;
  readonly parent?: ImageParent;
  readonly volumeId?: string;
  readonly displayName: string;
  readonly tags: Readonly<Record<string, string>>;
  readonly encrypted: boolean;
  readonly multiAttach: boolean;
  readonly createTime: number;
  /** When the resource was last changed, as it was when this was written; since version 2. */
  readonly updateTime?: number;
  /** The largest size it ever had, in bytes; since version 2. */
  readonly largestSizeBytes?: number;
  /** What a volume was made from, also when its image no longer has a parent; since version 2. */
  readonly sourceSnapshotId?: string;
  /** The point in time of a snapshot; since version 2. */
  readonly pointTime?: number;
}

/** What an open export's entry says. */
export interface ExportIdentity {
  readonly id: string;
  readonly kind: 'export';
  readonly volumeId: string;
  readonly nodeId: string;
  readonly instance: string;
  readonly migration: boolean;
  readonly readOnly: boolean;
  readonly grantId: string;
  readonly createTime: number;
  /** Since version 2. */
  readonly descriptorLifetimeMilliseconds?: number;
}

/** An entry that was written under the master key. */
export type Identity = (ImageIdentity | ExportIdentity) & { readonly version: number };

function entry(vault: Vault, key: string, body: unknown): CatalogueEntry {
  const text = JSON.stringify({ version: VERSION, ...(body as object) });
  return { key, value: vault.authenticate(new TextEncoder().encode(text), 'catalogue') };
}

/** The entry of a volume's or snapshot's image. */
export function imageEntry(vault: Vault, identity: ImageIdentity): CatalogueEntry {
  return entry(vault, identity.id, identity);
}

/** The entry of an open export. */
export function exportEntry(vault: Vault, item: Export): CatalogueEntry {
  return entry(vault, item.id, exportIdentityOf(item));
}

/** What the catalogue says of an open export. */
export function exportIdentityOf(item: Export): ExportIdentity {
  const { id, volumeId, nodeId, instance, migration, readOnly, grantId, createTime } = item;
  const { descriptorLifetimeMilliseconds } = item;
  return {
    id,
    kind: 'export',
    volumeId,
    nodeId,
    instance,
    migration,
    readOnly,
    grantId,
    createTime,
    descriptorLifetimeMilliseconds,
  };
}

/**
 * Reads an entry. Undefined: it was not written under this master key, or not under this key of the catalogue; then nothing
 * that it says is believed.
 */
export function readEntry(vault: Vault, key: string, value: Uint8Array): Identity | undefined {
  const plain = vault.verify(value, 'catalogue');
  if (plain === undefined) return undefined;
  const body = JSON.parse(new TextDecoder().decode(plain)) as Identity;
  // Whoever can write the catalogue could move an entry to another key.
  return body.id === key ? body : undefined;
}
