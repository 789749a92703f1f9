import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';

/** What a holder is told on its standard input, as one line of JSON. */
export interface HoldTask {
  /** Name of the image. */
  readonly image: string;
  /** What GetPool answered as connector_json. */
  readonly connector: unknown;
  /** What GrantAccess answered as access_json. */
  readonly access: unknown;
}

/** The program that holds an image open as a node would. */
export class Holder {
  readonly #process: ChildProcess;

  private constructor(command: readonly string[], task: HoldTask) {
    const [program, ...parameters] = command;
    if (program === undefined) throw new Error('the program that holds an image is empty');
    this.#process = spawn(program, parameters, { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#process.stdin?.on('error', () => undefined);
    this.#process.stdin?.write(`${JSON.stringify(task)}\n`);
  }

  /** Starts it and waits until it says that it has the image open. */
  static async start(command: readonly string[], task: HoldTask): Promise<Holder> {
    const holder = new Holder(command, task);
    const { stdout } = holder.#process;
    if (stdout === null) throw new Error('no standard output');
    await new Promise<void>((resolve, reject) => {
      createInterface({ input: stdout }).on('line', (line) => {
        if (line === 'open') resolve();
      });
      holder.#process.once('error', reject);
      holder.#process.once('exit', (code, signal) => reject(new Error(`the holder ended: ${code ?? signal}`)));
    });
    return holder;
  }

  /** Asks it to close the image and waits until it has ended. */
  async release(): Promise<void> {
    const ended = this.#ended();
    this.#process.stdin?.end();
    await ended;
  }

  /** Kills it. */
  async kill(): Promise<void> {
    const ended = this.#ended();
    this.#process.kill('SIGKILL');
    await ended;
  }

  #ended(): Promise<void> {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return Promise.resolve();
    return new Promise((resolve) => this.#process.once('exit', () => resolve()));
  }
}
