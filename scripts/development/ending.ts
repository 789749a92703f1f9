import type { Development } from './development.js';
import { describeFailure } from './narration.js';

/** Ctrl-C, or a service manager's SIGTERM. */
class Interrupted extends Error {
  readonly exitCode: number;

  constructor(signal: NodeJS.Signals, exitCode: number) {
    super(`interrupted by ${signal}`);
    this.exitCode = exitCode;
  }
}

/**
 * Carries out the work and ends everything afterwards, whether it succeeds, fails or is interrupted.
 * @param interruptedExitCode what an interruption counts as: 0 when it is the usual end
 * @returns the exit code
 */
export async function endingWell(
  development: Development,
  work: () => Promise<void>,
  interruptedExitCode?: 0,
): Promise<number> {
  const { narration } = development;
  let interruption: Interrupted | undefined;
  const interrupted = new Promise<never>((_resolve, reject) => {
    const take = (signal: NodeJS.Signals): void => {
      interruption ??= new Interrupted(signal, interruptedExitCode ?? (signal === 'SIGINT' ? 130 : 143));
      reject(interruption);
    };
    process.on('SIGINT', take).on('SIGTERM', take);
  });
  let exitCode = 0;
  try {
    await Promise.race([work(), interrupted]);
  } catch (error) {
    // What runs on the same terminal gets the same Ctrl-C, and may be heard to fail of it first.
    await new Promise((resolve) => setImmediate(resolve));
    exitCode = interruption?.exitCode ?? 1;
    const text = interruption === undefined ? `✗ ${await describeFailure(error)}` : `${interruption.message}: stopping`;
    process.stderr.write(`\n${text}\n`);
  }
  narration.end();
  try {
    await development.stop();
  } catch (error) {
    process.stderr.write(`✗ ${await describeFailure(error)}\n`);
    exitCode = exitCode === 0 ? 1 : exitCode;
  }
  return exitCode;
}
