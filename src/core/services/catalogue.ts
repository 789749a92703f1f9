import type { ImageParent } from '../model/image.js';
import type { Export } from '../model/resources.js';
import type { CatalogueEntry } from '../ports/backend.js';
import type { Vault } from '../ports/sealer.js';

/*
 * The catalogue on the backend: an entry for every image, written before the image is made and removed after it is
 * destroyed, and one for every open export. Authenticated with the master key: rebuild and fsck trust these entries only,
 * because what stands in an image's metadata a node can forge.
 */

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
}

function entry(vault: Vault, key: string, body: unknown): CatalogueEntry {
  const text = JSON.stringify({ version: 1, ...(body as object) });
  return { key, value: vault.authenticate(new TextEncoder().encode(text), 'catalogue') };
}

/** The entry of a volume's or snapshot's image. */
export function imageEntry(vault: Vault, identity: ImageIdentity): CatalogueEntry {
  return entry(vault, identity.id, identity);
}

/** The entry of an open export. */
export function exportEntry(vault: Vault, item: Export): CatalogueEntry {
  const { id, volumeId, nodeId, instance, migration, readOnly, grantId, createTime } = item;
  return entry(vault, id, { id, kind: 'export', volumeId, nodeId, instance, migration, readOnly, grantId, createTime });
}
