import { writeFileSync } from 'node:fs';
import Mocha from 'mocha';

/** What the runner of all suites (scripts/test.ts) adds up. */
export interface Totals {
  readonly passed: number;
  readonly failed: number;
  readonly pending: number;
}

/** Mocha's usual report, and the totals in the file that MOORAGE_TEST_TOTALS names. */
export default class TotalsReporter extends Mocha.reporters.Spec {
  constructor(runner: Mocha.Runner, options: Mocha.MochaOptions) {
    super(runner, options);
    const file = process.env.MOORAGE_TEST_TOTALS;
    if (file === undefined) throw new Error('MOORAGE_TEST_TOTALS must name a file for the totals');
    runner.once('end', () => {
      const { passes, failures, pending } = this.stats;
      const totals: Totals = { passed: passes, failed: failures, pending };
      writeFileSync(file, JSON.stringify(totals));
    });
  }
}
