import { spawn } from 'node:child_process';

/** How a program ended. */
export interface ProgramResult {
  /** Null when a signal ended it. */
  readonly status: number | null;
  /** Both outputs, at most 64 KiB. */
  readonly output: string;
}

const MAX_OUTPUT_BYTES = 64 * 1024;

/**
 * Runs a program without a shell, without input, and with a bare environment: nothing of ours reaches it.
 * @param timeoutMs after which it is killed, in milliseconds.
 * @throws the system's error when it cannot be started.
 */
export function runProgram(path: string, parameters: readonly string[], timeoutMs: number): Promise<ProgramResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(path, parameters, {
      stdio: ['ignore', 'pipe', 'pipe'],
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
    child.on('close', (status) => resolve({ status, output }));
  });
}
