import type { DescriptorPayload } from '../descriptor/index.js';
import { connectorFor } from './connectors/registry.js';
import { StorageUtilsError } from './errors.js';
import type { Connection } from './libvirt/connection.js';
import { Domain } from './libvirt/domain.js';
import { secretExists } from './libvirt/secrets.js';
import type { DomainDisk } from './libvirt/xml.js';

/** Who is to get a volume. */
export interface NewUse {
  readonly domain: Domain;
  /** Whether the new disk lets other domains have the volume too. */
  readonly shareable: boolean;
}

/**
 * Looks for the volume among the disks of every domain of this node: two guests that write to one disk destroy it, and
 * neither Ceph nor QEMU hinders them (the image's exclusive lock changes hands whenever the other one writes). Of two
 * disks that are both shareable nothing is said. To be called under the export's lock.
 * @throws {StorageUtilsError} `refused`, which names the domain that has it.
 */
export async function refuseSecondUse(connection: Connection, payload: DescriptorPayload, use: NewUse): Promise<void> {
  const connector = connectorFor(payload.connector);
  const own = use.domain.uuid();
  // What names a secret that is gone is left from an earlier export, and the domain does not start with it.
  const canStartWith = async ({ secretUuid }: DomainDisk): Promise<boolean> =>
    secretUuid === undefined ||
    secretUuid === connector.secretUuid(payload) ||
    (await secretExists(connection, secretUuid));
  await Domain.forEach(connection, async (other) => {
    const isOwn = other.uuid() === own;
    const isSecond = (disk: DomainDisk): boolean =>
      (disk.serial === payload.volume_id ? !isOwn : connector.isSourceOf(disk, payload)) &&
      !(disk.shareable && use.shareable);
    if (await other.isActive()) {
      refuse(payload, (await other.disks('live')).find(isSecond), `is attached to the domain "${other.name}"`);
    }
    if (await other.isPersistent()) {
      for (const disk of (await other.disks('config')).filter(isSecond)) {
        if (await canStartWith(disk)) {
          refuse(payload, disk, `is in the definition of the domain "${other.name}", which may start with it`);
        }
      }
    }
  });
}

function refuse(payload: DescriptorPayload, disk: DomainDisk | undefined, where: string): void {
  if (disk !== undefined) {
    throw new StorageUtilsError(
      'refused',
      `volume ${payload.volume_id} ${where} as ${disk.target}; detach it there first (only a volume whose disks are all ` +
        'shareable may be in several)',
    );
  }
}
