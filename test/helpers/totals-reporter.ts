import { writeFileSync } from 'node:fs';
import Mocha from 'mocha';

/** What the runner of all suites (scripts/test.ts) adds up. */
export interface Totals {
  readonly passed: number;
  readonly failed: number;
  readonly pending: number;
}

/** One Ctrl-C arrives several times: from the terminal, and twice from mocha's own parent process. */
const SAME_INTERRUPTION_MILLISECONDS = 1_000;

/**
 * Mocha's usual report, and the totals in the file that MOORAGE_TEST_TOTALS names. When interrupted, the suites still clean up;
 * mocha alone would leave what they started.
 */
export default class TotalsReporter extends Mocha.reporters.Spec {
  constructor(runner: Mocha.Runner, options: Mocha.MochaOptions) {
    super(runner, options);
    const file = process.env.MOORAGE_TEST_TOTALS;
    if (file === undefined) throw new Error('MOORAGE_TEST_TOTALS must name a file for the totals');
    let interruptedAt: number | undefined;
    const interrupt = (): void => {
      if (interruptedAt === undefined) {
        interruptedAt = performance.now();
        runner.abort();
        console.log('interrupted: ends after the test that runs and its clean-up; once more: at once');
      } else if (performance.now() - interruptedAt > SAME_INTERRUPTION_MILLISECONDS) process.exit(1);
    };
    process.on('SIGINT', interrupt).on('SIGTERM', interrupt);
    runner.once('end', () => {
      const { passes, failures, pending } = this.stats;
      const totals: Totals = { passed: passes, failed: failures, pending };
      writeFileSync(file, JSON.stringify(totals));
    });
  }
}
