import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { RbdAccess } from '../../src/descriptor/index.js';
import type { System } from './system.js';
import type { Exported } from './test-node.js';
import { waitFor } from './wait.js';

/** What the writing process is told. */
export interface WriterTask {
  readonly configurationFile: string;
  readonly access: RbdAccess;
  readonly pool: string;
  readonly image: string;
  readonly seed: string;
  /** Pause between two records, in milliseconds. */
  readonly pauseMilliseconds: number;
  /** Open the image and leave it at that. */
  readonly idle: boolean;
}

/** Those that run. */
const running = new Set<RecordWriter>();

/** For an `afterEach`: ends what a failed test has left, frozen ones too. */
export async function killWriters(): Promise<void> {
  await Promise.all([...running].map((writer) => writer.kill()));
}

/** A node's client of librbd in a process of its own, that writes numbered records with the export's own key. */
export class RecordWriter {
  readonly process: ChildProcess;
  readonly seed: string;
  /** Client address, as Ceph shows it. */
  address = '';
  /** Number of the last record that was acknowledged. */
  last = 0;
  /** Longest time between two acknowledgements, in milliseconds. */
  longestPause = 0;
  /** What the first write that failed said. */
  failure: string | undefined;
  #lastTime = performance.now();

  private constructor(task: WriterTask) {
    this.seed = task.seed;
    const program = fileURLToPath(new URL('record-writer-process.ts', import.meta.url));
    this.process = spawn(process.execPath, ['--import', 'tsx', program], { stdio: ['pipe', 'pipe', 'inherit'] });
    this.process.stdin?.write(`${JSON.stringify(task)}\n`);
    const { stdout } = this.process;
    if (stdout === null) throw new Error('no standard output');
    createInterface({ input: stdout }).on('line', (line) => this.#read(line));
    running.add(this);
    this.process.once('exit', (code, signal) => {
      running.delete(this);
      if (code !== 0 && signal !== 'SIGKILL') this.failure ??= `the process ended: ${signal ?? code}`;
    });
  }

  #read(line: string): void {
    const [word, value = ''] = line.split(' ');
    if (word === 'open') this.address = value;
    else if (word === 'failed') this.failure ??= line;
    else {
      this.last = Number(word);
      if (this.last > 1) this.longestPause = Math.max(this.longestPause, performance.now() - this.#lastTime);
      this.#lastTime = performance.now();
    }
  }

  /** Starts one and waits until it writes. */
  static async start(
    system: System,
    { image, access }: Exported,
    options: { readonly seed?: string; readonly pauseMilliseconds?: number; readonly idle?: boolean } = {},
  ): Promise<RecordWriter> {
    const idle = options.idle ?? false;
    const writer = new RecordWriter({
      configurationFile: system.cluster.configurationFile,
      access,
      pool: system.cephPool,
      image,
      seed: options.seed ?? image,
      pauseMilliseconds: options.pauseMilliseconds ?? 5,
      idle,
    });
    await waitFor('the writer has the image open', () => {
      if (writer.failure !== undefined) throw new Error(writer.failure);
      return idle ? writer.address !== '' : writer.last > 0;
    });
    return writer;
  }

  /** Lets it finish its record and close the image. */
  async stop(): Promise<void> {
    await this.#end(() => this.process.stdin?.end());
  }

  /** Ends it as a power failure does. */
  async kill(): Promise<void> {
    await this.#end(() => this.process.kill('SIGKILL'));
  }

  async #end(act: () => void): Promise<void> {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    const ended = new Promise((resolve) => this.process.once('close', resolve));
    act();
    await ended;
  }
}
