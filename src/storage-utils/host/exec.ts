import { spawn } from 'node:child_process';
import { constants } from 'node:fs';
import { access } from 'node:fs/promises';

/** How a program ended. */
export interface ProgramResult {
  /** Null when a signal ended it. */
  readonly status: number | null;
  /** Both outputs, at most 64 KiB. */
  readonly output: string;
}

const MAX_OUTPUT_BYTES = 64 * 1024;

/**
 * Runs a program with a bare environment: nothing of ours reaches it but its input. It leaves no core dump, which would hold
 * what it was given.
 * @param timeoutMs after which it is killed, in milliseconds.
 * @param input what it reads on standard input; the way for secrets, which no argument may hold.
 * @throws the system's error when it cannot be started.
 */
export async function runProgram(
  path: string,
  parameters: readonly string[],
  timeoutMs: number,
  input = '',
): Promise<ProgramResult> {
  await access(path, constants.X_OK);
  return new Promise((resolve, reject) => {
    // The shell sets the limit and becomes the program; it reads nothing of what it is given.
    const child = spawn('/bin/sh', ['-c', 'ulimit -c 0 && exec "$0" "$@"', path, ...parameters], {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' },
      timeout: timeoutMs,
      killSignal: 'SIGKILL',
    });
    let output = '';
    const collect = (chunk: Buffer) => {
      if (output.length < MAX_OUTPUT_BYTES) {
        output += chunk.toString('utf8').slice(0, MAX_OUTPUT_BYTES - output.length);
      }
    };
    child.stdout.on('data', collect);
    child.stderr.on('data', collect);
    child.on('error', reject);
    // A program that ends without reading its input is told by its status, not by the broken pipe.
    child.stdin.on('error', () => undefined);
    child.stdin.end(input);
    child.on('close', (status) => resolve({ status, output }));
  });
}
