/**
 * For a suite whose tests are steps of one story: the first failure ends it. (Mocha's `bail` would also skip the suite, and
 * count nothing, when another suite had failed before.)
 */
export function endAtFirstFailure(): void {
  afterEach('the steps after a failed one are left out', function () {
    if (this.currentTest?.state === 'failed') throw new Error('the steps after this one need what it did');
  });
}
