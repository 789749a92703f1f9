import { spawn } from 'node:child_process';

/** What a finished command left. */
export interface CommandResult {
  readonly stdout: string;
  readonly stderr: string;
}

export interface CommandOptions {
  readonly workingDirectory?: string;
  /** Variables on top of this process's own; `undefined` takes one away. */
  readonly environment?: Readonly<Record<string, string | undefined>>;
  /** Written to the command's standard input, which is then closed. */
  readonly input?: string | Uint8Array;
  /** After this many milliseconds (default 120,000) the command is killed and the promise rejects. */
  readonly timeoutMilliseconds?: number;
}

/** A command that could not be started, ended with an exit code other than 0, or was killed. */
export class CommandError extends Error {
  readonly command: readonly string[];
  /** `undefined` if it never ran or was ended by a signal. */
  readonly exitCode: number | undefined;
  readonly stdout: string;
  readonly stderr: string;

  constructor(
    command: readonly string[],
    reason: string,
    exitCode: number | undefined,
    output: CommandResult,
    options?: ErrorOptions,
  ) {
    super(`${command.join(' ')}: ${reason}${output.stderr === '' ? '' : `\n${output.stderr.trimEnd()}`}`, options);
    this.name = 'CommandError';
    this.command = command;
    this.exitCode = exitCode;
    this.stdout = output.stdout;
    this.stderr = output.stderr;
  }
}

/**
 * Runs a command without a shell and waits for it.
 *
 * @throws CommandError with its output when it does not end with 0 in time
 */
export function execute(
  program: string,
  parameters: readonly string[],
  options: CommandOptions = {},
): Promise<CommandResult> {
  const command = [program, ...parameters];
  return new Promise((resolve, reject) => {
    const child = spawn(program, parameters, {
      cwd: options.workingDirectory,
      env: { ...process.env, ...options.environment },
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    const stdout: Buffer[] = [];
    const stderr: Buffer[] = [];
    let timedOut = false;
    const limit = options.timeoutMilliseconds ?? 120_000;
    const timer = setTimeout(() => {
      timedOut = true;
      child.kill('SIGKILL');
    }, limit);
    const output = (): CommandResult => ({
      stdout: Buffer.concat(stdout).toString(),
      stderr: Buffer.concat(stderr).toString(),
    });
    child.stdout.on('data', (chunk: Buffer) => stdout.push(chunk));
    child.stderr.on('data', (chunk: Buffer) => stderr.push(chunk));
    // A command that ends without having read its input is no failure by itself: its exit code says.
    child.stdin.on('error', () => undefined);
    child.stdin.end(options.input);
    child.on('error', (error) => {
      clearTimeout(timer);
      reject(new CommandError(command, `cannot be run: ${error.message}`, undefined, output(), { cause: error }));
    });
    child.on('close', (exitCode, signal) => {
      clearTimeout(timer);
      if (exitCode === 0) {
        resolve(output());
      } else if (timedOut) {
        reject(new CommandError(command, `killed after ${limit} ms`, undefined, output()));
      } else {
        const reason = exitCode === null ? `ended by ${String(signal)}` : `exit code ${exitCode}`;
        reject(new CommandError(command, reason, exitCode ?? undefined, output()));
      }
    });
  });
}
