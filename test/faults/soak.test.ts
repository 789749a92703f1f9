import { expect } from 'chai';
import { repositoryDirectory } from '../helpers/cluster.js';
import { CommandError, execute } from '../helpers/exec.js';

/** `make soak` for a minute: what is broken, by which seed, stands in what it prints. */
describe('soak', function () {
  this.timeout(900_000);

  it('breaks something every few seconds for a minute, and every answer that a client had is true', async () => {
    const parameters = ['--import', 'tsx', 'scripts/soak.ts', '--seconds', '60'];
    const options = { workingDirectory: repositoryDirectory, timeoutMilliseconds: 840_000 };
    const said = await execute(process.execPath, parameters, options).then(
      ({ stdout }) => stdout,
      (error: unknown) => {
        if (error instanceof CommandError) console.log(error.stdout);
        throw error;
      },
    );
    const lines = said.trimEnd().split('\n');
    for (const line of [lines[0], lines.at(-1)]) console.log(`      ${line}`);
    expect(lines.at(-1)).to.match(/[1-9][0-9]* facts checked, 0 violations$/);
  });
});
