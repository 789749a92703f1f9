import { setTimeout as delay } from 'node:timers/promises';
import type { DescriptorPayload } from '../descriptor/index.js';
import { type ConnectResult, checkId, checkTarget, connectLocked, diskOptionsOf, resultOf } from './connect.js';
import { type Connected, isShareable } from './connectors/connector.js';
import { connectorFor } from './connectors/registry.js';
import { cleanUpAfter, messageOf, StorageUtilsError } from './errors.js';
import { withLock } from './host/locks.js';
import { type Connection, withConnection } from './libvirt/connection.js';
import { Domain, type Part } from './libvirt/domain.js';
import { isLibvirtError, VIR_ERR } from './libvirt/errors.js';
import { undefineSecret } from './libvirt/secrets.js';
import { type DiskOptions, type DomainDisk, detachXml, guestSerial, nextTarget } from './libvirt/xml.js';
import { refuseSecondUse } from './second-use.js';
import { type NodeOptions, type NodeSettings, openOwn, settingsOf, withExport } from './settings.js';

/** Options of {@link attach}; without `target` the next free name of the bus is taken. */
export interface AttachOptions extends NodeOptions, DiskOptions {
  /** Name or UUID of the domain, which runs. */
  readonly domain: string;
  /** Keep the disk in the domain's definition too, for its next start; the volume must be connected again before it. */
  readonly persistent?: boolean;
}

/** A volume that a running domain has. */
export interface AttachResult extends ConnectResult {
  readonly domain: string;
  /** What the guest sees as the disk's serial number: virtio-blk and SATA show the first 20 bytes of the volume's id. */
  readonly guestSerial: string;
  /** Whether it was attached before. */
  readonly wasAttached: boolean;
}

/** Options of {@link detach}. */
export interface DetachOptions extends NodeOptions {
  /** Name or UUID of the domain. */
  readonly domain: string;
  /** How long the guest has to let go of the disk, in milliseconds; 60,000 unless said. */
  readonly releaseTimeoutMs?: number;
}

/** What {@link detach} did. */
export interface DetachResult {
  readonly domain: string;
  readonly volumeId: string;
  /** False when it was not attached, which is no error. */
  readonly wasAttached: boolean;
}

/** Options of {@link extend}. */
export interface ExtendOptions extends NodeOptions {
  /** Name or UUID of the domain. */
  readonly domain: string;
  /** The volume's new size in bytes; the descriptor's unless said. Never more than the volume has on the backend. */
  readonly sizeBytes?: number;
}

/** What {@link extend} did. */
export interface ExtendResult {
  readonly domain: string;
  readonly volumeId: string;
  readonly target: string;
  /** Size that the guest sees now, in bytes. */
  readonly sizeBytes: number;
}

const POLL_MS = 100;
// A guest that has not booted far enough drops the request to unplug, so it is made again.
const ASK_AGAIN_MS = 5_000;
// A dead monitor among several costs seconds; whatever takes longer would hold the guest for too long.
const LONGEST_PROBE_MS = 15_000;

/**
 * {@link connect}, and attaches the disk to a running domain, once the volume has opened in a QEMU beside it. Attached
 * already: the same answer. Refused while another domain of this node has the volume. On failure the secret is undefined again if this call defined it, but not when libvirt did not
 * answer in time: the disk may still be attached. Throws as `connect`.
 */
export async function attach(descriptor: Uint8Array | string, options: AttachOptions): Promise<AttachResult> {
  const settings = settingsOf(options);
  const disk = diskOptionsOf(options);
  const bus = disk.bus ?? 'virtio';
  const wanted = disk.target === undefined ? undefined : checkTarget(disk.target, bus);
  const { payload } = await openOwn(descriptor, settings, false);
  connectorFor(payload.connector);
  return withExport(payload.export_id, settings, (connection) =>
    Domain.with(connection, options.domain, (domain) =>
      withLock(settings.lockDirectory, 'domain', domain.uuid(), settings.timeoutMs, async () => {
        const parts = await partsToAttach(domain, options.persistent === true);
        const live = await domain.disks('live');
        const config = (await domain.isPersistent()) ? await domain.disks('config') : [];
        const present = live.find((each) => each.serial === payload.volume_id);
        const target =
          present?.target ??
          wanted ??
          nextTarget(
            bus,
            [...live, ...config].map((each) => each.target),
          );
        if (present !== undefined && wanted !== undefined && present.target !== wanted) {
          throw new StorageUtilsError(
            'refused',
            `volume ${payload.volume_id} is attached to ${options.domain} as ${present.target}, not ${wanted}; detach it first`,
          );
        }
        const missing = parts.filter(
          (part) => !(part === 'live' ? live : config).some((each) => each.serial === payload.volume_id),
        );
        if (missing.length > 0) {
          await refuseSecondUse(connection, payload, { domain, shareable: isShareable(payload, disk) });
        }
        const warnings = missing.includes('live') ? await probe(connection, payload, settings) : [];
        const connected = await connectLocked(connection, payload, settings, target, bus, disk);
        try {
          if (present !== undefined && present.secretUuid !== connected.secretUuid) {
            throw new StorageUtilsError(
              'refused',
              `volume ${payload.volume_id} is attached to ${options.domain} through another export; detach it first`,
            );
          }
          if (missing.length > 0) {
            await attachMissing(domain, connected, missing, payload.volume_id);
          }
        } catch (error) {
          if (error instanceof StorageUtilsError && error.kind === 'timeout') {
            // It may still be attached later, and then the disk has its secret: nothing is undone that may yet be done.
            throw new StorageUtilsError(
              'timeout',
              `${error.message}; the libvirt secret of ${payload.export_id} stays: attach again, or detach and disconnect`,
              { cause: error },
            );
          }
          return await cleanUpAfter(error, async () => {
            if (connected.made && connected.secretUuid !== undefined) {
              await undefineSecret(connection, connected.secretUuid);
            }
          });
        }
        return {
          ...resultOf(payload, target, { ...connected, warnings: [...connected.warnings, ...warnings] }),
          domain: options.domain,
          guestSerial: guestSerial(payload.volume_id, bus),
          wasAttached: present !== undefined,
        };
      }),
    ),
  );
}

/**
 * Detaches a volume from a domain, and returns when the guest has let go of it: the running domain has it no more. Not
 * attached: no error. Leaves the secret: `disconnect` follows.
 * @param what the descriptor, expired or not, or the volume's id.
 * @throws {StorageUtilsError} `timeout` when the guest kept it.
 */
export async function detach(
  what: { readonly descriptor: Uint8Array | string } | { readonly volumeId: string },
  options: DetachOptions,
): Promise<DetachResult> {
  const settings = settingsOf(options);
  const volumeId =
    'descriptor' in what
      ? (await openOwn(what.descriptor, settings, true)).payload.volume_id
      : checkId('volumeId', what.volumeId);
  return withConnection(settings.libvirtUri, settings.timeoutMs, (connection) =>
    Domain.with(connection, options.domain, async (domain) => {
      const fromConfig = await detachFromConfig(domain, volumeId);
      const fromLive = await detachFromLive(domain, volumeId, options.releaseTimeoutMs ?? 60_000);
      return { domain: options.domain, volumeId, wasAttached: fromConfig || fromLive };
    }),
  );
}

/**
 * Shows a volume's new size to the guest that has it attached. Never smaller; the size that it has already: no error.
 * Call it after ExpandVolume is done.
 * @param descriptor expired or not.
 */
export async function extend(descriptor: Uint8Array | string, options: ExtendOptions): Promise<ExtendResult> {
  const settings = settingsOf(options);
  const { payload } = await openOwn(descriptor, settings, true);
  const sizeBytes = options.sizeBytes ?? payload.size_bytes;
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes <= 0 || sizeBytes % 512 !== 0) {
    throw new StorageUtilsError('usage', `sizeBytes must be a positive multiple of 512; it is ${sizeBytes}`);
  }
  return withExport(payload.export_id, settings, (connection) =>
    Domain.with(connection, options.domain, async (domain) => {
      const found = await findLive(domain, payload.volume_id);
      if (found === undefined) {
        throw new StorageUtilsError('not-found', `volume ${payload.volume_id} is not attached to ${options.domain}`);
      }
      const context = { libvirt: connection, keyringDirectory: settings.keyringDirectory };
      await connectorFor(payload.connector).extend(context, payload, sizeBytes);
      const present = await domain.blockCapacity(found.target);
      if (sizeBytes < present) {
        throw new StorageUtilsError(
          'refused',
          `${options.domain} sees volume ${payload.volume_id} with ${present} bytes, and it never shrinks: ${sizeBytes} is less; ` +
            'call Export again for a descriptor with the present size',
        );
      }
      await domain.blockResize(found.target, sizeBytes);
      return { domain: options.domain, volumeId: payload.volume_id, target: found.target, sizeBytes };
    }),
  );
}

/** An earlier attach whose caller gave up may be done while this one waits for its turn: then there is nothing left to do. */
async function attachMissing(domain: Domain, connected: Connected, missing: Part[], volumeId: string): Promise<void> {
  try {
    await domain.attach(connected.diskXml, missing);
  } catch (error) {
    const isDone =
      isLibvirtError(error, VIR_ERR.xmlError, VIR_ERR.operationFailed, VIR_ERR.operationInvalid) &&
      !missing.includes('config') &&
      (await findLive(domain, volumeId))?.secretUuid === connected.secretUuid;
    if (!isDone) {
      throw error;
    }
  }
}

/** @returns warnings. */
async function probe(libvirt: Connection, payload: DescriptorPayload, settings: NodeSettings): Promise<string[]> {
  const context = { libvirt, keyringDirectory: settings.keyringDirectory };
  const timeoutMs = Math.min(settings.timeoutMs, LONGEST_PROBE_MS);
  const reason = await connectorFor(payload.connector).probe(context, payload, timeoutMs);
  return reason === undefined
    ? []
    : [`volume ${payload.volume_id} could not be tried before the guest got it: ${reason}`];
}

async function partsToAttach(domain: Domain, persistent: boolean): Promise<Part[]> {
  if (!(await domain.isActive())) {
    throw new StorageUtilsError(
      'refused',
      `the domain "${domain.name}" does not run; put the XML of connect into its definition instead`,
    );
  }
  return persistent ? ['live', 'config'] : ['live'];
}

async function findLive(domain: Domain, volumeId: string): Promise<DomainDisk | undefined> {
  return (await domain.isActive()) ? (await domain.disks('live')).find((disk) => disk.serial === volumeId) : undefined;
}

async function detachFromConfig(domain: Domain, volumeId: string): Promise<boolean> {
  const disks = (await domain.isPersistent()) ? await domain.disks('config') : [];
  const found = disks.find((disk) => disk.serial === volumeId);
  if (found !== undefined) {
    await domain.detach(detachXml(found), ['config']);
  }
  return found !== undefined;
}

async function detachFromLive(domain: Domain, volumeId: string, releaseTimeoutMs: number): Promise<boolean> {
  const began = performance.now();
  let askedAt = Number.NEGATIVE_INFINITY;
  let wasAttached = false;
  let refusal: unknown;
  for (;;) {
    const found = await findLive(domain, volumeId);
    if (found === undefined) {
      return wasAttached;
    }
    wasAttached = true;
    const now = performance.now();
    if (now - began > releaseTimeoutMs) {
      const reason = refusal === undefined ? '' : ` (libvirt said: ${messageOf(refusal)})`;
      throw new StorageUtilsError(
        'timeout',
        `the guest in "${domain.name}" has not let go of volume ${volumeId} (${found.target}) within ${releaseTimeoutMs} ms${reason}; ` +
          'unmount it in the guest and run this again',
        { cause: refusal },
      );
    }
    if (now - askedAt >= ASK_AGAIN_MS) {
      askedAt = now;
      refusal = await askToDetach(domain, found);
    }
    await delay(POLL_MS);
  }
}

/** @returns libvirt's refusal, which may pass: the device is being unplugged already, or the guest still boots. */
async function askToDetach(domain: Domain, disk: DomainDisk): Promise<unknown> {
  try {
    await domain.detach(detachXml(disk), ['live']);
    return undefined;
  } catch (error) {
    if (
      isLibvirtError(
        error,
        VIR_ERR.deviceMissing,
        VIR_ERR.operationFailed,
        VIR_ERR.operationInvalid,
        VIR_ERR.internalError,
      )
    ) {
      return error;
    }
    throw error;
  }
}
