import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { developmentDirectory, repositoryDirectory } from './cluster.js';
import { type CommandOptions, type CommandResult, execute } from './exec.js';

/** A libvirtd of scripts/libvirt-host.sh: a host of its own, in namespaces of its own. */
export interface LibvirtHost {
  readonly name: string;
  /** `.dev/hosts/<name>` */
  readonly directory: string;
  /** The libvirt connection URI, as any process of this machine can use it. */
  readonly uri: string;
  /** What this host's processes (QEMU, storage-utils run by `run`) see as /etc/ceph. */
  readonly cephDirectory: string;
  /** The process id of libvirtd. */
  pid(): Promise<number>;
  /** Runs virsh on this host. */
  virsh(...parameters: string[]): Promise<CommandResult>;
  /** Runs virsh with XML that it reads where its parameters say /dev/stdin. */
  virshWithXml(xml: string, ...parameters: string[]): Promise<CommandResult>;
  /** Runs a program in this host's mount and UTS namespaces: its /etc/ceph, its /etc/libvirt, its host name. */
  run(program: string, parameters: readonly string[], options?: CommandOptions): Promise<CommandResult>;
  /** Destroys its guests and stops it. */
  stop(): Promise<void>;
  /** Stops it and removes its folder. */
  remove(): Promise<void>;
}

/**
 * Starts the host if it does not run.
 *
 * @param name lower-case letters, digits and `-`
 * @throws CommandError with the script's message
 */
export async function startLibvirtHost(name: string): Promise<LibvirtHost> {
  const script = join(repositoryDirectory, 'scripts/libvirt-host.sh');
  const uri = (await execute(script, ['start', name])).stdout.trim();
  const directory = join(developmentDirectory, 'hosts', name);
  return {
    name,
    directory,
    uri,
    cephDirectory: join(directory, 'etc-ceph'),
    pid: async () => Number((await readFile(join(directory, 'run/libvirtd.pid'), 'utf8')).trim()),
    virsh: (...parameters) => execute('virsh', ['-q', '-c', uri, ...parameters]),
    // Node gives a child a socket, which cannot be opened by the name /dev/stdin; a pipe can.
    virshWithXml: (xml, ...parameters) =>
      execute('sh', ['-c', 'cat | virsh "$@"', 'virsh', '-q', '-c', uri, ...parameters], { input: xml }),
    run: (program, parameters, options) => execute(script, ['run', name, program, ...parameters], options),
    stop: async () => {
      await execute(script, ['stop', name]);
    },
    remove: async () => {
      await execute(script, ['delete', name]);
    },
  };
}
