/** The command `storage-utils`: the library's verbs for people and scripts. docs/storage-utils.md has the exit codes. */
import { Command, CommanderError, Option } from 'commander';
import { DescriptorError, formatNodePublicKey, KeyError, parseControllerPublicKey } from '../descriptor/index.js';
import { attach, detach, extend } from './attach.js';
import { type DiskFlags, diskOptionsFrom, parseSize, readDescriptor } from './command-input.js';
import { connect, type Disconnectable, disconnect } from './connect.js';
import { doctor } from './doctor.js';
import { type AddCommand, addEnrollCommands } from './enroll-command.js';
import { messageOf, StorageUtilsError } from './errors.js';
import { initializeNode, trustControllers } from './initialize.js';
import { inspect } from './inspect.js';
import { DEFAULT_LIBVIRT_URI, hasHungCall } from './libvirt/connection.js';
import { exitAtOnce, forbidCoreDumps } from './libvirt/native.js';
import { BUSES } from './libvirt/xml.js';
import type { Registrar } from './registrar.js';
import { DEFAULT_KEY_FILE, type NodeOptions } from './settings.js';

const EXIT_CODES = `
Exit codes:
  0  done
  1  another failure; doctor: something is wrong
  2  wrong usage
  3  the descriptor is refused (cut off, altered, for another node, expired, of a newer version, unknown sender)
  4  refused (by the controller, key file or keyring owner or mode, attached otherwise, unknown connector, never smaller)
  5  libvirt or QEMU failed, or is not reached
  6  not found (domain, volume in the domain, file, key file, keyring)
  7  not in time (the guest keeps the disk, libvirt does not answer, another storage-utils works on it); run it again`;

interface CommonFlags {
  readonly keyFile: string;
  readonly connectUri: string;
  readonly keyringDirectory?: string;
  readonly lockDirectory?: string;
  readonly timeout?: string;
  readonly json?: boolean;
}

interface DescriptorFlags extends CommonFlags {
  readonly descriptor: string;
}

interface SelectFlags extends CommonFlags {
  readonly descriptor?: string;
  readonly volume?: string;
  readonly export?: string;
}

/** Runs the command and sets the process's exit code; ends the process at once if libvirt holds a thread. */
export async function runCommand(argv: readonly string[], registrar: () => Promise<Registrar>): Promise<void> {
  let status = 0;
  try {
    forbidCoreDumps();
    const command = buildCommand((code) => {
      status = code;
    });
    addEnrollCommands(command.add, registrar);
    await command.program.parseAsync([...argv]);
  } catch (error) {
    status = exitCodeOf(error);
    if (!(error instanceof CommanderError)) {
      process.stderr.write(`storage-utils: ${messageOf(error)}\n`);
    }
  }
  process.exitCode = status;
  if (hasHungCall()) {
    await Promise.all(
      [process.stdout, process.stderr].map((each) => new Promise<void>((resolve) => each.write('', () => resolve()))),
    );
    exitAtOnce(status);
  }
}

/** The exit code that tells this failure. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof CommanderError) {
    return error.exitCode === 0 ? 0 : 2;
  }
  if (error instanceof DescriptorError) {
    return 3;
  }
  if (error instanceof KeyError) {
    return error.code === 'missing' ? 6 : error.code === 'malformed' ? 2 : 4;
  }
  if (error instanceof StorageUtilsError) {
    return { usage: 2, refused: 4, libvirt: 5, 'not-found': 6, busy: 7, timeout: 7, failed: 1 }[error.kind];
  }
  return 1;
}

function buildCommand(setStatus: (code: number) => void): { readonly program: Command; readonly add: AddCommand } {
  const program = new Command('storage-utils')
    .description('Connects volumes that Moorage exported to this node, and attaches them to libvirt domains.')
    .addHelpText('after', EXIT_CODES)
    .exitOverride();
  const add = (usage: string, summary: string, example: string): Command =>
    program
      .command(usage)
      .description(summary)
      .addOption(
        new Option('--key-file <file>', "this node's key file").env('MOORAGE_NODE_KEY_FILE').default(DEFAULT_KEY_FILE),
      )
      .option('--json', 'print JSON on stdout')
      .addHelpText('after', `\nExample:\n  ${example}\n${EXIT_CODES}`)
      .exitOverride();
  const onNode = (command: Command): Command =>
    command
      .addOption(
        new Option('--connect-uri <uri>', 'where libvirt is reached')
          .env('MOORAGE_LIBVIRT_URI')
          .default(DEFAULT_LIBVIRT_URI),
      )
      .option('--keyring-directory <directory>', 'where ceph.client.<user>.keyring lies (default: /etc/ceph)')
      .option('--lock-directory <directory>', 'where the locks between processes lie (default: /run/moorage/locks)')
      .option('--timeout <seconds>', 'how long one call to libvirt may take (default: 60)');

  add(
    'init',
    'make the key of this node, or keep the one that is there, and print its public part',
    'storage-utils init --controller-key moorage-controller-key:…',
  )
    .option('--controller-key <key>', 'trust this controller (may be repeated)', collect)
    .action(async (flags: CommonFlags & { controllerKey?: string[] }) => {
      const node = await initializeNode(flags.keyFile, (flags.controllerKey ?? []).map(parseControllerPublicKey));
      const publicKey = formatNodePublicKey(node.keys.current.publicKey);
      print(flags, { publicKey, keyId: node.keys.current.keyId, made: node.made }, publicKey);
    });

  add('trust', 'take the descriptors of another controller too', 'storage-utils trust moorage-controller-key:…')
    .argument('<controller-key...>', 'what the controller prints of its key')
    .action(async (texts: string[], flags: CommonFlags) => {
      const keyIds = await trustControllers(flags.keyFile, texts.map(parseControllerPublicKey));
      print(flags, { trusted: keyIds }, `trusted: ${keyIds.join(', ')}`);
    });

  add(
    'inspect',
    'show what is in a descriptor for this node, without its secrets',
    'storage-utils inspect --descriptor descriptor',
  )
    .requiredOption('--descriptor <file>', 'the descriptor, or "-" for stdin')
    .action(async (flags: DescriptorFlags) => {
      const shown = await inspect(await readDescriptor(flags.descriptor), { keyFile: flags.keyFile });
      print(flags, shown, JSON.stringify(shown, null, 2));
    });

  addDiskFlags(
    onNode(
      add(
        'connect',
        "make the volume usable on this node and print libvirt's disk XML",
        'storage-utils connect --descriptor descriptor --target vdb',
      ),
    ),
  )
    .requiredOption('--descriptor <file>', 'the descriptor, or "-" for stdin')
    .action(async (flags: DescriptorFlags & DiskFlags & { target: string }) => {
      const disk = diskOptionsFrom(flags);
      const result = await connect(await readDescriptor(flags.descriptor), {
        ...nodeOptions(flags),
        ...disk,
        target: flags.target,
      });
      warn(result.warnings);
      print(flags, result, result.diskXml.trimEnd());
    });

  onNode(
    add('disconnect', 'undo connect; nothing to undo is no error', 'storage-utils disconnect --descriptor descriptor'),
  )
    .option('--descriptor <file>', 'the descriptor, expired or not, or "-" for stdin')
    .option('--export <exp-id>', 'the export, in place of its descriptor')
    .option('--volume <vol-id>', 'every export of the volume, in place of a descriptor')
    .action(async (flags: SelectFlags) => {
      const result = await disconnect(await selected(flags), nodeOptions(flags));
      const done = result.disconnected.join(', ');
      print(flags, result, done === '' ? 'nothing was connected' : `disconnected: ${done}`);
    });

  addDiskFlags(
    onNode(
      add(
        'attach',
        'connect, and attach to a running domain',
        'storage-utils attach --descriptor descriptor --domain web1',
      ),
    ),
  )
    .requiredOption('--descriptor <file>', 'the descriptor, or "-" for stdin')
    .requiredOption('--domain <domain>', 'name or UUID of the domain')
    .option('--persistent', "keep it in the domain's definition too")
    .action(async (flags: DescriptorFlags & DiskFlags & { domain: string; persistent?: boolean }) => {
      const result = await attach(await readDescriptor(flags.descriptor), {
        ...nodeOptions(flags),
        ...diskOptionsFrom(flags),
        domain: flags.domain,
        persistent: flags.persistent === true,
      });
      warn(result.warnings);
      const how = result.wasAttached ? 'was attached' : 'is attached';
      print(
        flags,
        result,
        `${result.volumeId} ${how} to ${result.domain} as ${result.target} (serial in the guest: ${result.guestSerial})`,
      );
    });

  onNode(
    add(
      'detach',
      'detach from a domain, and wait until the guest has let go of it',
      'storage-utils detach --descriptor descriptor --domain web1',
    ),
  )
    .option('--descriptor <file>', 'the descriptor, expired or not, or "-" for stdin')
    .option('--volume <vol-id>', 'the volume, in place of its descriptor')
    .requiredOption('--domain <domain>', 'name or UUID of the domain')
    .option('--release-timeout <seconds>', 'how long the guest has to let go of it', '60')
    .action(async (flags: SelectFlags & { domain: string; releaseTimeout: string }) => {
      const what = await selected(flags);
      if ('exportId' in what) {
        throw new StorageUtilsError('usage', 'detach takes --descriptor or --volume');
      }
      const releaseTimeoutMs = milliseconds(flags.releaseTimeout, '--release-timeout');
      const result = await detach(what, { ...nodeOptions(flags), domain: flags.domain, releaseTimeoutMs });
      print(
        flags,
        result,
        `${result.volumeId} ${result.wasAttached ? 'is detached from' : 'was not attached to'} ${result.domain}`,
      );
    });

  onNode(
    add(
      'extend',
      "show the volume's new size to the guest",
      'storage-utils extend --descriptor descriptor --domain web1 --size 20GiB',
    ),
  )
    .requiredOption('--descriptor <file>', 'the descriptor, expired or not, or "-" for stdin')
    .requiredOption('--domain <domain>', 'name or UUID of the domain')
    .option('--size <size>', "the volume's size, in bytes or as 20GiB (default: the descriptor's)", parseSize)
    .action(async (flags: DescriptorFlags & { domain: string; size?: number }) => {
      const size = flags.size === undefined ? {} : { sizeBytes: flags.size };
      const result = await extend(await readDescriptor(flags.descriptor), {
        ...nodeOptions(flags),
        domain: flags.domain,
        ...size,
      });
      print(
        flags,
        result,
        `${result.domain} sees ${result.volumeId} (${result.target}) with ${result.sizeBytes} bytes`,
      );
    });

  onNode(
    add(
      'doctor',
      'look whether this node can connect volumes, and say what to do',
      'storage-utils doctor --descriptor descriptor',
    ),
  )
    .option('--descriptor <file>', 'look whether this one opens too; "-" for stdin')
    .action(async (flags: SelectFlags) => {
      const descriptor = flags.descriptor === undefined ? {} : { descriptor: await readDescriptor(flags.descriptor) };
      const diagnosis = await doctor({ ...nodeOptions(flags), ...descriptor });
      const lines = diagnosis.checks.map(
        (check) => `${check.result.padEnd(8)}${check.name.padEnd(12)}${check.message}`,
      );
      print(flags, diagnosis, lines.join('\n'));
      setStatus(diagnosis.healthy ? 0 : 1);
    });
  return { program, add };
}

function addDiskFlags(command: Command): Command {
  const needed = command.name() === 'connect';
  return command
    .addOption(
      new Option(
        '--target <device>',
        `the device's name in the domain, as vdb${needed ? '' : ' (default: the next free one)'}`,
      ).makeOptionMandatory(needed),
    )
    .addOption(new Option('--bus <bus>', 'the bus (default: virtio)').choices(BUSES))
    .option('--cache <mode>', "the driver's cache (default: none)")
    .option('--io <mode>', "the driver's io")
    .option('--discard <mode>', 'unmap (default) or ignore')
    .option('--detect-zeroes <mode>', 'off, on or unmap')
    .option('--iotune <name=number>', 'a limit as libvirt names it, as total_iops_sec=1000 (may be repeated)', collect)
    .option('--address <name=value,...>', 'the address of the device, as type=pci,bus=0x04')
    .option('--boot-order <number>', 'place in the boot order')
    .option('--shareable', 'other domains may have it open too')
    .option('--read-only', 'the guest may only read');
}

async function selected(flags: SelectFlags): Promise<Exclude<Disconnectable, never>> {
  const given = [flags.descriptor, flags.export, flags.volume].filter((each) => each !== undefined);
  if (given.length !== 1) {
    throw new StorageUtilsError('usage', 'give one of --descriptor and an id');
  }
  if (flags.descriptor !== undefined) {
    return { descriptor: await readDescriptor(flags.descriptor) };
  }
  return flags.export !== undefined ? { exportId: flags.export } : { volumeId: flags.volume ?? '' };
}

function nodeOptions(flags: CommonFlags): NodeOptions {
  return {
    keyFile: flags.keyFile,
    libvirtUri: flags.connectUri,
    ...(flags.keyringDirectory === undefined ? {} : { keyringDirectory: flags.keyringDirectory }),
    ...(flags.lockDirectory === undefined ? {} : { lockDirectory: flags.lockDirectory }),
    ...(flags.timeout === undefined ? {} : { timeoutMs: milliseconds(flags.timeout, '--timeout') }),
  };
}

function milliseconds(seconds: string, flag: string): number {
  const value = Number(seconds);
  if (!(value > 0 && value <= 86_400)) {
    throw new StorageUtilsError('usage', `${flag} takes seconds, more than 0 and at most 86400`);
  }
  return Math.ceil(value * 1000);
}

function print(flags: CommonFlags, value: unknown, text: string): void {
  process.stdout.write(`${flags.json === true ? JSON.stringify(value) : text}\n`);
}

function warn(warnings: readonly string[]): void {
  for (const warning of warnings) {
    process.stderr.write(`storage-utils: warning: ${warning}\n`);
  }
}

function collect(value: string, previous: string[] | undefined): string[] {
  return [...(previous ?? []), value];
}
