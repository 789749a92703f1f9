import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { PrivateNetwork } from '../helpers/private-network.js';
import type { Outcome } from './several/freeze.js';

/** Every method of the backend protocol that changes something in the course of a call, or of what goes on by itself. */
const KINDS = [
  ...['PutCatalogueEntry', 'CreateImage', 'OpenConnection', 'CloseConnection', 'TakePoint', 'RemovePoint'],
  ...['ExpandImage', 'FlattenImage', 'TrashImage', 'RestoreImage', 'PurgeImage', 'RemoveCatalogueEntry'],
].map((method) => `data ${method}`);
const FENCE_KINDS = ['GrantAccess', 'RevokeAccess', 'CutOff', 'BreakLocks'].map((method) => `fence ${method}`);

describe('two controllers, one of which freezes in the middle of a backend call', function () {
  this.timeout(3_600_000);

  it('loses nothing, does nothing twice and undoes nothing when it goes on', async () => {
    const network = await PrivateNetwork.make('several', 2);
    const outcomes: Outcome[] = [];
    let seen: readonly string[] = [];
    try {
      const program = fileURLToPath(new URL('several/run.ts', import.meta.url));
      const child = spawn(
        'ip',
        [
          ...['netns', 'exec', network.hub.namespace, process.execPath, '--import', 'tsx', program],
          ...['--hub', JSON.stringify(network.hub)],
          ...(process.env.MOORAGE_TEST_FULL === '1' ? ['--full'] : []),
          ...network.hosts.map((host) => JSON.stringify(host)),
        ],
        { stdio: ['ignore', 'pipe', 'inherit'] },
      );
      createInterface({ input: child.stdout }).on('line', (line) => {
        const said = JSON.parse(line) as Outcome | { readonly seen: readonly string[] };
        if ('seen' in said) seen = said.seen;
        else outcomes.push(said);
      });
      const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
      expect(code, 'the program ended').to.equal(0);
    } finally {
      await network.remove();
    }
    for (const { freeze, answered, total, late } of outcomes) {
      const seconds = (milliseconds: number): string => `${(milliseconds / 1000).toFixed(1)} s`;
      console.log(
        `      ${freeze}: answered after ${seconds(answered)}, all ${seconds(total)}${late ? ', its late step succeeded' : ''}`,
      );
    }
    const broken = outcomes.filter(({ problems }) => problems.length > 0);
    console.log(`      ${outcomes.length} freezes, ${broken.length} broken`);
    expect(broken, JSON.stringify(broken, undefined, 2)).to.deep.equal([]);
    const frozenIn = outcomes.map(({ freeze }) => freeze.split(' | ')[1]?.split(' ').slice(0, 2).join(' '));
    const changing = seen.filter((kind) => !/ (Get|List|Inspect)/.test(kind));
    expect(changing, 'what the calls were seen to ask of agents').to.include.members([...KINDS, ...FENCE_KINDS]);
    expect(frozenIn).to.include.members(process.env.MOORAGE_TEST_FULL === '1' ? [...seen] : changing);
  });
});
