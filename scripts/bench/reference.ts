import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { ReferenceTask } from './reference-process.js';

/** How to reach the pool. */
export interface ReferenceOptions {
  readonly configurationFile: string;
  readonly user: string;
  readonly keyringFile: string;
  readonly pool: string;
  /** Threads for librbd's calls; as many as the agent has. */
  readonly threads: number;
}

type Answer = { readonly milliseconds: number } | { readonly error: string };

/** The process that makes the bare calls. */
export class Reference {
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess) {
    this.#child = child;
  }

  /** Starts it and waits until it is connected. */
  static async start({ configurationFile, user, keyringFile, pool, threads }: ReferenceOptions): Promise<Reference> {
    const program = fileURLToPath(new URL('./reference-process.ts', import.meta.url));
    const child = fork(program, [configurationFile, user, keyringFile, pool], {
      env: { ...process.env, UV_THREADPOOL_SIZE: String(threads) },
    });
    const reference = new Reference(child);
    await reference.#answer();
    return reference;
  }

  /** Its process id. */
  get pid(): number {
    if (this.#child.pid === undefined) throw new Error('The reference does not run.');
    return this.#child.pid;
  }

  /** Does a task; the time that its calls took there, in milliseconds. */
  run(task: ReferenceTask): Promise<number> {
    this.#child.send(task);
    return this.#answer();
  }

  stop(): void {
    this.#child.disconnect();
  }

  #answer(): Promise<number> {
    return new Promise((resolve, reject) => {
      const ended = (): void => reject(new Error('the reference process ended'));
      this.#child.once('exit', ended);
      this.#child.once('message', (answer: Answer) => {
        this.#child.off('exit', ended);
        if ('error' in answer) reject(new Error(answer.error));
        else resolve(answer.milliseconds);
      });
    });
  }
}
