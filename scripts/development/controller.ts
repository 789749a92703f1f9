import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { stringify } from 'yaml';
import { TestAuthority } from '../../test/helpers/certificates.js';
import type { Cluster } from '../../test/helpers/cluster.js';
import { waitFor } from '../../test/helpers/wait.js';
import { builtProgram, controllerConfiguration, controllerLog, endpoint, stateDirectory, stateFile } from './places.js';

const processFile = stateFile('processes.json');

/** The controller of `make demo` and `make run`. */
export class DevelopmentController {
  readonly processId: number;
  /** Where it serves by TLS; a certificate says who calls. */
  readonly tlsAddress: string;
  readonly metricsAddress: string;
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess, processId: number, tlsAddress: string, metricsAddress: string) {
    this.#child = child;
    this.processId = processId;
    this.tlsAddress = tlsAddress;
    this.metricsAddress = metricsAddress;
  }

  /**
   * Starts it and waits until it serves.
   * @throws Error when it ends before that, or when another run of demo or run has one
   */
  static async start(): Promise<DevelopmentController> {
    const log = openSync(controllerLog, 'w', 0o600);
    // A process group of its own: Ctrl-C on the terminal is for who started it, and that one ends it in good order.
    const child = spawn(process.execPath, [builtProgram('moorage-controller'), '--config', controllerConfiguration], {
      detached: true,
      stdio: ['ignore', log, log],
    });
    closeSync(log);
    const processId = child.pid;
    if (processId === undefined) throw new Error('the controller cannot be started');
    await writeFile(processFile, JSON.stringify({ owner: process.pid, controller: processId }));
    try {
      const serving = await waitFor(
        'the controller serves',
        () => child.exitCode !== null || child.signalCode !== null || servingEntry(),
      );
      if (serving === true) throw new Error('the controller ended at once; its log says why');
      return new DevelopmentController(child, processId, serving.addresses[1] ?? '', serving.metrics);
    } catch (error) {
      child.kill('SIGKILL');
      throw error;
    }
  }

  /** Resolves when it has ended, by whatever cause. */
  get ended(): Promise<void> {
    if (this.#hasEnded) return Promise.resolve();
    return new Promise((resolve) => this.#child.once('exit', () => resolve()));
  }

  get #hasEnded(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  /** Ends it as a service manager would. */
  async stop(): Promise<void> {
    this.#child.kill('SIGTERM');
    await this.ended;
    await rm(processFile, { force: true });
  }
}

/**
 * Makes sure that nobody else works in the state folder. A controller whose owner died without ending it is ended.
 * @throws Error that names the process that does
 */
export async function claimState(): Promise<void> {
  const text = await readFile(processFile, 'utf8').catch(() => '');
  if (text === '') return;
  const { owner, controller } = JSON.parse(text) as { owner: number; controller: number };
  // A process number alone proves nothing after a reboot.
  if (/\bscripts\/(demo|run)\.ts\b/.test(commandLineOf(owner))) {
    throw new Error(`"make demo" or "make run" works here already (process ${owner}); end it first`);
  }
  const isOurs = (): boolean => commandLineOf(controller).includes(controllerConfiguration);
  if (isOurs()) {
    process.kill(controller, 'SIGTERM');
    await waitFor('the controller of an earlier run ends', () => !isOurs());
  }
  await rm(processFile, { force: true });
}

/** Writes the configuration of the controller, and the certificates for its TLS listener. */
export async function configureController(cluster: Cluster): Promise<TestAuthority> {
  const authority = new TestAuthority(stateDirectory);
  const { certificate, key } = authority.server();
  const configuration = {
    listeners: [
      { address: endpoint, plaintext: { role: 'admin' } },
      { address: 'localhost:0', tls: { certificate, key, client_ca: authority.certificate } },
    ],
    store: { sqlite: { path: 'store.db' } },
    master_key: { file: 'master.key' },
    descriptor_key: 'descriptor.key',
    state_directory: '.',
    run_directory: 'run',
    clusters: {
      main: {
        ceph_configuration: cluster.configurationFile,
        data: { user: 'moorage-data', keyring: 'data.keyring' },
        fence: { user: 'moorage-fence', keyring: 'fence.keyring' },
      },
    },
    // Short, so that one can watch it.
    reaper: { interval: '1s' },
    metrics: { address: '127.0.0.1:0' },
  };
  await writeFile(controllerConfiguration, stringify(configuration), { mode: 0o600 });
  return authority;
}

interface ServingEntry {
  readonly addresses: readonly string[];
  readonly metrics: string;
}

function servingEntry(): ServingEntry | undefined {
  for (const line of readFileSync(controllerLog, 'utf8').split('\n')) {
    if (!line.includes('"msg":"serving"') || !line.endsWith('}')) continue;
    return JSON.parse(line) as ServingEntry;
  }
  return undefined;
}

function commandLineOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
  } catch {
    return '';
  }
}
