import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type CommandResult, execute } from './exec.js';

/** The checkout's root. */
export const repositoryDirectory = fileURLToPath(new URL('../..', import.meta.url));
/** All that tests and the demo make lies in here. */
export const developmentDirectory = join(repositoryDirectory, '.dev');

/** The cluster that suites share; it stays up between them. */
export const sharedClusterName = 'test';

export interface MonitorAddress {
  readonly host: string;
  /** TCP port of the messenger's version 2. */
  readonly v2Port: number;
  /** TCP port of the messenger's version 1. */
  readonly v1Port: number;
}

/** A development cluster of scripts/ceph-cluster.sh with the pool `moorage` (32 placement groups). */
export interface Cluster {
  readonly name: string;
  readonly directory: string;
  readonly fsid: string;
  readonly configurationFile: string;
  /** Keyring of `client.admin`. */
  readonly adminKeyring: string;
  readonly monitors: readonly MonitorAddress[];
  /** Stops its daemons; the data stays. */
  stop(): Promise<void>;
  /** Stops its daemons and removes its data. */
  remove(): Promise<void>;
  /** Freezes one OSD with SIGSTOP: it answers nothing and its connections stay up. */
  pauseOsd(id: number): Promise<void>;
  resumeOsd(id: number): Promise<void>;
  /** Runs the `ceph` command as client.admin. */
  ceph(...parameters: string[]): Promise<CommandResult>;
  /** Runs the `rbd` command as client.admin. */
  rbd(...parameters: string[]): Promise<CommandResult>;
}

export interface ClusterOptions {
  /** Lower-case letters, digits and `-`; default: the shared one. */
  readonly name?: string;
  /** Number of OSDs, if it is made now; default 1. */
  readonly osds?: number;
  /** Number of monitors, if it is made now; default 1. */
  readonly monitors?: number;
  /** IPv4 address at which its daemons listen, if it is made now; default 127.0.0.1. */
  readonly address?: string;
}

function clusterScript(...parameters: string[]): Promise<CommandResult> {
  return execute(join(repositoryDirectory, 'scripts/ceph-cluster.sh'), parameters, { timeoutMilliseconds: 240_000 });
}

/**
 * Makes the cluster if it is not there, starts what does not run, and waits until all placement groups are clean.
 *
 * @throws CommandError with the script's message
 */
export async function startCluster(options: ClusterOptions = {}): Promise<Cluster> {
  const name = options.name ?? sharedClusterName;
  const parameters = ['start', name];
  if (options.osds !== undefined) parameters.push('--osds', String(options.osds));
  if (options.monitors !== undefined) parameters.push('--monitors', String(options.monitors));
  if (options.address !== undefined) parameters.push('--address', options.address);
  await clusterScript(...parameters);
  return openCluster(name);
}

async function openCluster(name: string): Promise<Cluster> {
  const directory = join(developmentDirectory, name);
  const configurationFile = join(directory, 'ceph.conf');
  const settings = await readFile(join(directory, 'settings'), 'utf8');
  // A cluster from before there was the setting has none.
  const address = /^ADDRESS=(.*)$/m.exec(settings)?.[1] ?? '127.0.0.1';
  const signalOsd = async (id: number, signal: NodeJS.Signals): Promise<void> => {
    const pid = Number((await readFile(join(directory, `run/osd.${id}.pid`), 'utf8')).trim());
    process.kill(pid, signal);
  };
  const command = (program: string, parameters: readonly string[]): Promise<CommandResult> =>
    execute(program, parameters, { environment: { CEPH_CONF: configurationFile, CEPH_ARGS: undefined } });
  return {
    name,
    directory,
    fsid: setting(settings, 'FSID'),
    configurationFile,
    adminKeyring: join(directory, 'ceph.client.admin.keyring'),
    monitors: monitorAddresses(setting(settings, 'PORTS'), address),
    stop: async () => {
      await clusterScript('stop', name);
    },
    remove: async () => {
      await clusterScript('delete', name);
    },
    pauseOsd: (id) => signalOsd(id, 'SIGSTOP'),
    resumeOsd: (id) => signalOsd(id, 'SIGCONT'),
    ceph: (...parameters) => command('ceph', ['--connect-timeout', '30', ...parameters]),
    rbd: (...parameters) => command('rbd', parameters),
  };
}

function setting(settings: string, key: string): string {
  const value = new RegExp(`^${key}="?([^"\n]*)"?$`, 'm').exec(settings)?.[1];
  if (value === undefined) {
    throw new Error(`the cluster's settings have no ${key}`);
  }
  return value;
}

function monitorAddresses(ports: string, host: string): MonitorAddress[] {
  const numbers = ports.split(' ').map(Number);
  const addresses: MonitorAddress[] = [];
  for (let index = 0; index + 1 < numbers.length; index += 2) {
    addresses.push({ host, v2Port: numbers[index] ?? 0, v1Port: numbers[index + 1] ?? 0 });
  }
  return addresses;
}
