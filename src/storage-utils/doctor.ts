import { loadNodeKeyFile, type OpenedDescriptor, openDescriptor, rbdAccessSchema } from '../descriptor/index.js';
import { messageOf } from './errors.js';
import { mountTimeoutSeconds } from './host/ceph-conf.js';
import { runProgram } from './host/exec.js';
import { findOpenKeyrings, readKeyring } from './host/keyring.js';
import { type Connection, withConnection } from './libvirt/connection.js';
import { emulatorPath, libvirtVersion } from './libvirt/host.js';
import { isClockSynchronized } from './libvirt/native.js';
import { listSecrets } from './libvirt/secrets.js';
import { type NodeOptions, type NodeSettings, settingsOf } from './settings.js';

/** One thing that was looked at. */
export interface Check {
  /** A stable name for programs. */
  readonly name:
    | 'key-file'
    | 'controllers'
    | 'descriptor'
    | 'keyring'
    | 'ceph-conf'
    | 'libvirt'
    | 'exports'
    | 'qemu-rbd'
    | 'clock';
  /** "warning" does not stop anything from working, "wrong" does. */
  readonly result: 'ok' | 'warning' | 'wrong';
  /** A sentence: what was found, and what to do where something is wrong. */
  readonly message: string;
}

/** What {@link doctor} found. */
export interface Diagnosis {
  /** No check is "wrong". */
  readonly healthy: boolean;
  readonly checks: readonly Check[];
}

/** Options of {@link doctor}. */
export interface DoctorOptions extends NodeOptions {
  /** A descriptor that is meant for this node: whether it opens, and the keyring that it needs, are looked at too. */
  readonly descriptor?: Uint8Array | string;
}

/** Connecting to Ceph should not take longer, in seconds: QEMU holds the guest while it does. */
const LONGEST_MOUNT_SECONDS = 30;

/** A descriptor that was issued this much later than the node's clock shows, in milliseconds, says that the clock is wrong. */
const CLOCK_TOLERANCE_MS = 60_000;

/** Looks whether this node can connect volumes, and says what to do where it cannot. Changes nothing; throws nothing of its own. */
export async function doctor(options: DoctorOptions = {}): Promise<Diagnosis> {
  const settings = settingsOf(options);
  const { checks, opened } = await checkKeys(settings, options.descriptor);
  checks.push(...(await checkKeyrings(settings, opened)));
  checks.push(await checkCephConfiguration(settings));
  checks.push(...(await checkLibvirt(settings)));
  checks.push(checkClock(opened));
  return { healthy: checks.every((check) => check.result !== 'wrong'), checks };
}

async function checkKeys(
  settings: NodeSettings,
  descriptor: Uint8Array | string | undefined,
): Promise<{ checks: Check[]; opened: OpenedDescriptor | undefined }> {
  const checks: Check[] = [];
  let opened: OpenedDescriptor | undefined;
  try {
    const keys = await loadNodeKeyFile(settings.keyFile);
    checks.push({
      name: 'key-file',
      result: 'ok',
      message: `${settings.keyFile} holds this node's key ${keys.current.keyId}`,
    });
    checks.push(
      keys.controllerPublicKeys.length > 0
        ? {
            name: 'controllers',
            result: 'ok',
            message: `this node trusts ${keys.controllerPublicKeys.length} controller key(s)`,
          }
        : {
            name: 'controllers',
            result: 'wrong',
            message:
              'this node trusts no controller; run "storage-utils trust moorage-controller-key:…" with the key that the controller prints',
          },
    );
    if (descriptor !== undefined) {
      opened = openDescriptor(descriptor, {
        nodeKeys: keys.all,
        controllerPublicKeys: keys.controllerPublicKeys,
        allowExpired: true,
      });
      checks.push({
        name: 'descriptor',
        result: opened.expired ? 'warning' : 'ok',
        message: opened.expired
          ? `the descriptor expired at ${opened.payload.expires_at}; call Export again before connect`
          : `the descriptor opens, and lasts until ${opened.payload.expires_at}`,
      });
    }
  } catch (error) {
    checks.push({ name: checks.length === 0 ? 'key-file' : 'descriptor', result: 'wrong', message: messageOf(error) });
  }
  return { checks, opened };
}

async function checkKeyrings(settings: NodeSettings, opened: OpenedDescriptor | undefined): Promise<Check[]> {
  const checks: Check[] = [];
  const access = rbdAccessSchema.safeParse(opened?.payload.access);
  if (access.success && access.data.mode === 'keyring') {
    try {
      (await readKeyring(access.data.user, settings.keyringDirectory)).fill(0);
      checks.push({
        name: 'keyring',
        result: 'ok',
        message: `the keyring of client.${access.data.user} is there, with the right owner and mode`,
      });
    } catch (error) {
      checks.push({ name: 'keyring', result: 'wrong', message: messageOf(error) });
    }
  }
  for (const path of await findOpenKeyrings(settings.keyringDirectory)) {
    checks.push({
      name: 'keyring',
      result: 'wrong',
      message: `everyone on this host may use the key in ${path}; run "chmod o= ${path}"`,
    });
  }
  return checks;
}

/**
 * While QEMU connects a disk, its whole guest stands still. A user that is gone (its export was withdrawn) and monitors that do
 * not answer make it try for as long as ceph.conf says, five minutes unless it does; libvirt has no word for that limit.
 */
async function checkCephConfiguration({ keyringDirectory }: NodeSettings): Promise<Check> {
  const seconds = await mountTimeoutSeconds(keyringDirectory);
  if (seconds !== undefined && seconds > 0 && seconds <= LONGEST_MOUNT_SECONDS) {
    return { name: 'ceph-conf', result: 'ok', message: `QEMU gives up connecting to Ceph after ${seconds} s` };
  }
  const howLong = seconds === 0 ? 'for ever' : `for ${seconds ?? 300} s`;
  const message =
    `a disk that cannot be opened stops its guest ${howLong}; ` +
    `put "client_mount_timeout = 10" under [client] in ${keyringDirectory}/ceph.conf`;
  return { name: 'ceph-conf', result: 'warning', message };
}

async function checkLibvirt(settings: NodeSettings): Promise<Check[]> {
  const checks: Check[] = [];
  try {
    await withConnection(settings.libvirtUri, settings.timeoutMs, async (connection) => {
      checks.push({
        name: 'libvirt',
        result: 'ok',
        message: `libvirt ${await libvirtVersion(connection)} answers at ${settings.libvirtUri}`,
      });
      const secrets = await listSecrets(connection);
      checks.push({ name: 'exports', result: 'ok', message: `${secrets.length} export(s) are connected on this node` });
      checks.push(await checkQemu(connection));
    });
  } catch (error) {
    checks.push({ name: 'libvirt', result: 'wrong', message: messageOf(error) });
  }
  return checks;
}

async function checkQemu(connection: Connection): Promise<Check> {
  try {
    const path = await emulatorPath(connection);
    // QEMU names an unknown driver before it looks at anything else; a known one stumbles over the missing file.
    const disk = 'driver=rbd,node-name=probe,pool=probe,image=probe,conf=/nonexistent';
    const parameters = ['-machine', 'none', '-nodefaults', '-display', 'none', '-blockdev', disk];
    const { output } = await runProgram(path, parameters, 10_000);
    if (/conf|connect/i.test(output) && !/unknown driver|does not accept value/i.test(output)) {
      return { name: 'qemu-rbd', result: 'ok', message: `${path} has the rbd driver` };
    }
    const remedy = 'install qemu-block-extra (Debian) or qemu-kvm-block-rbd (Fedora, Red Hat)';
    return { name: 'qemu-rbd', result: 'wrong', message: `${path} has no rbd driver; ${remedy}` };
  } catch (error) {
    return { name: 'qemu-rbd', result: 'wrong', message: `QEMU cannot be asked for its drivers: ${messageOf(error)}` };
  }
}

function checkClock(opened: OpenedDescriptor | undefined): Check {
  const issuedAt = opened === undefined ? Number.NEGATIVE_INFINITY : Date.parse(opened.payload.issued_at);
  if (issuedAt > Date.now() + CLOCK_TOLERANCE_MS) {
    const message = `this node's clock shows ${new Date().toISOString()}, before the descriptor was issued; set the clock, and keep it with NTP`;
    return { name: 'clock', result: 'wrong', message };
  }
  return isClockSynchronized()
    ? { name: 'clock', result: 'ok', message: 'the kernel says that the clock is kept in step' }
    : {
        name: 'clock',
        result: 'warning',
        message:
          'the kernel says that nothing keeps the clock in step; run chrony or systemd-timesyncd, or descriptors expire at the wrong time',
      };
}
