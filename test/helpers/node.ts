import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  type DescriptorPayload,
  loadControllerKeyFile,
  loadNodeKeyFile,
  openDescriptor,
} from '../../src/descriptor/index.js';
import type { ConnectResult } from '../../src/storage-utils/index.js';
import { cleanUp } from './clean-up.js';
import { repositoryDirectory } from './cluster.js';
import { CommandError, type CommandResult, execute } from './exec.js';
import { type LibvirtHost, startLibvirtHost } from './libvirt-host.js';
import type { System } from './system.js';

/** Everything that the two commands print while somebody listens: what a secret might stand in. */
export type OutputListener = (command: string, output: string) => void;
const listeners = new Set<OutputListener>();

/** Has every output of the commands, of successful and of failed ones. @returns what ends it */
export function listenToOutput(listener: OutputListener): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

async function heard(name: string, running: Promise<CommandResult>): Promise<CommandResult> {
  const tell = ({ stdout, stderr }: CommandResult): void => {
    for (const listener of listeners) listener(name, `${stdout}\n${stderr}`);
  };
  try {
    const result = await running;
    tell(result);
    return result;
  } catch (error) {
    if (error instanceof CommandError) tell(error);
    throw error;
  }
}

const program = (name: string): string => join(repositoryDirectory, 'dist/bin', `${name}.js`);

/** Runs the administrator's command, as built, against a system. @throws CommandError */
export function moorage(system: System, ...parameters: string[]): Promise<CommandResult> {
  const all = [program('moorage'), ...parameters, '--endpoint', system.endpoint];
  return heard(`moorage ${parameters.join(' ')}`, execute(process.execPath, all));
}

/** The same with `--json`, read. */
export async function moorageJson<Answer>(system: System, ...parameters: string[]): Promise<Answer> {
  return JSON.parse((await moorage(system, ...parameters, '--json')).stdout) as Answer;
}

/** What a command fails with. @throws Error when it does not fail */
export async function failureOf(running: Promise<unknown>): Promise<CommandError> {
  try {
    await running;
  } catch (error) {
    if (error instanceof CommandError) return error;
    throw error;
  }
  throw new Error('the command did not fail');
}

/**
 * What a node's /etc/ceph/ceph.conf should say. QEMU holds its whole guest while it connects, and libvirt has it try again
 * without authentication when the user is gone: without a limit that takes librados' five minutes.
 */
const CEPH_CONFIGURATION = '[client]\nclient_mount_timeout = 5\n';

/** An export as its node has it. */
export interface NodeExport {
  readonly exportId: string;
  readonly volumeId: string;
  /** The file with the descriptor, as `moorage export … > file` makes it. */
  readonly file: string;
  readonly payload: DescriptorPayload;
}

/** A node: a libvirt host of its own, with a key file, registered at a system. Everything goes through the commands. */
export class HypervisorNode {
  readonly id: string;
  readonly host: LibvirtHost;
  readonly directory: string;
  readonly keyFile: string;
  readonly #system: System;

  private constructor(system: System, id: string, host: LibvirtHost, directory: string) {
    this.#system = system;
    this.id = id;
    this.host = host;
    this.directory = directory;
    this.keyFile = join(directory, 'node-keys.json');
  }

  /** Starts a libvirt host of that name, makes the node's key and registers it, as an administrator does it. */
  static async enrol(system: System, id: string): Promise<HypervisorNode> {
    const host = await startLibvirtHost(id);
    const directory = await mkdtemp(join(tmpdir(), `moorage-${id}-`));
    const node = new HypervisorNode(system, id, host, directory);
    try {
      await mkdir(join(directory, 'locks'));
      await writeFile(join(host.cephDirectory, 'ceph.conf'), CEPH_CONFIGURATION);
      const { stdout: controllerKey } = await execute(process.execPath, [
        ...[program('moorage-controller'), '--config', system.configurationFile, 'public-key'],
      ]);
      const made = await node.storageUtils('init', '--controller-key', controllerKey.trim());
      await moorage(system, 'node', 'register', id, '--public-key', made.stdout.trim());
    } catch (error) {
      await node.remove();
      throw error;
    }
    return node;
  }

  /**
   * Runs `storage-utils`, as built, where this host's files are: it finds libvirt and /etc/ceph at their usual places.
   * @throws CommandError
   */
  storageUtils(verb: string, ...parameters: string[]): Promise<CommandResult> {
    const places = ['--key-file', this.keyFile];
    if (!['init', 'trust', 'inspect'].includes(verb)) places.push('--lock-directory', join(this.directory, 'locks'));
    const all = [program('storage-utils'), verb, ...parameters, ...places];
    return heard(`storage-utils ${verb} ${parameters.join(' ')}`, this.host.run(process.execPath, all));
  }

  /** `moorage export VOLUME --node ID > FILE`; the descriptor is opened with the node's key, to know what it holds. */
  async export(volumeId: string, ...parameters: string[]): Promise<NodeExport> {
    const { stdout } = await moorage(this.#system, 'export', volumeId, '--node', this.id, ...parameters);
    const payload = await this.open(stdout.trim());
    const file = join(this.directory, `${payload.export_id}.descriptor`);
    await writeFile(file, stdout);
    return { exportId: payload.export_id, volumeId, file, payload };
  }

  async open(descriptor: string): Promise<DescriptorPayload> {
    const node = await loadNodeKeyFile(this.keyFile);
    const controller = await loadControllerKeyFile(join(this.#system.directory, 'descriptor.key'));
    return openDescriptor(descriptor, {
      nodeKeys: node.all,
      controllerPublicKeys: controller.all.map((key) => key.publicKey),
    }).payload;
  }

  /** `storage-utils connect`: libvirt's XML for a domain that is not started yet. */
  async connect({ file }: NodeExport, target: string): Promise<ConnectResult> {
    const { stdout } = await this.storageUtils('connect', '--descriptor', file, '--target', target, '--json');
    return JSON.parse(stdout) as ConnectResult;
  }

  /** `storage-utils attach`. @returns the disk's name as asked of libvirt */
  async attach({ file }: NodeExport, domain: string): Promise<string> {
    const { stdout } = await this.storageUtils('attach', '--descriptor', file, '--domain', domain, '--json');
    return (JSON.parse(stdout) as ConnectResult).target;
  }

  /** Detach, disconnect, unexport: all of a volume's way back. */
  async release({ file, volumeId }: NodeExport, domain: string): Promise<void> {
    await this.storageUtils('detach', '--descriptor', file, '--domain', domain);
    await this.storageUtils('disconnect', '--descriptor', file);
    await moorage(this.#system, 'unexport', volumeId, '--node', this.id);
  }

  /** UUIDs of the libvirt secrets on its host. */
  async secrets(): Promise<readonly string[]> {
    const { stdout } = await this.host.virsh('secret-list');
    return stdout.split('\n').flatMap((line) => line.trim().split(/\s+/)[0] || []);
  }

  /** Destroys its guests and removes all of it. */
  async remove(): Promise<void> {
    await cleanUp(
      () => this.host.remove(),
      () => rm(this.directory, { recursive: true, force: true }),
    );
  }
}
