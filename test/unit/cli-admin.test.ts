import { expect } from 'chai';
import { runCommand } from '../../src/cli/index.js';
import type { Finding } from '../../src/core/services/admin/findings.js';
import type { Repaired } from '../../src/core/services/types.js';
import { fakeServices } from '../helpers/fake-services.js';
import { plainListener, serve } from '../helpers/server.js';

const finding: Finding = {
  class: 'image-trashed',
  poolId: 'ssd',
  resourceId: 'vol-0123456789abcdef0',
  imageName: 'vol-0123456789abcdef0',
  imageBackendId: 'beef',
  description: 'It is in the trash.',
  remedy: 'on-request',
  remedyDescription: 'Asked for, it is taken out.',
};
const progress = { resources: 3, entries: 2, images: 1, foreignImages: 0, busy: 1 };

async function run(methods: Parameters<typeof fakeServices>[0], ...argv: string[]) {
  const fake = fakeServices(methods);
  const running = await serve(fake.services, [plainListener]);
  const out: string[] = [];
  const err: string[] = [];
  const code = await runCommand([...argv, '--endpoint', running.server.addresses[0] ?? ''], {
    stdout: { write: (text: string) => out.push(text) },
    stderr: { write: (text: string) => err.push(text) },
    initialisePool: () => Promise.reject(new Error('not asked for')),
    authority: () => Promise.reject(new Error('not asked for')),
  });
  await running.server.stop(0);
  return { code, stdout: out.join(''), stderr: err.join(''), seen: fake.seen };
}

describe('the moorage command: check, repair, store backup', () => {
  it('check reads all pages, prints a line for each difference and ends with 1; with 0 when there is none', async () => {
    const pages = [
      { findings: [finding], nextPageToken: 'more', progress },
      { findings: [], nextPageToken: '', progress },
    ];
    const found = await run({ 'admin.check': async () => pages.shift() }, 'check', '--pool', 'ssd');
    expect(found.code).to.equal(1);
    expect(found.stdout).to.match(
      /^CLASS[\s\S]*image-trashed +vol-0123456789abcdef0 +on request +It is in the trash\.\n$/,
    );
    expect(found.stderr).to.contain('Looked at 6 resources').and.contain('2 things were being changed');
    expect(found.seen.map(({ request }) => (request as { pageToken: string }).pageToken)).to.deep.equal(['', 'more']);
    const none = { findings: [], nextPageToken: '', progress: { ...progress, busy: 0 } };
    const clean = await run({ 'admin.check': async () => none }, 'check');
    expect(clean).to.include({ code: 0, stdout: 'Nothing differs.\n' });
    const json = await run({ 'admin.check': async () => none }, 'check', '--json');
    expect(JSON.parse(json.stdout)).to.deep.equal({ findings: [], progress: none.progress });
  });

  it('repair passes on what is asked for, says what came of it, and ends with 1 when something is left', async () => {
    const answer = (outcome: Repaired['outcome'], message = '') => ({
      repaired: [{ finding, outcome, message }],
      nextPageToken: '',
      progress,
      stillHeld: outcome !== 'mended',
    });
    const flags = ['--dry-run', '--class', 'image-trashed', '--resource', finding.resourceId];
    const dry = await run({ 'admin.repair': async () => answer('would-mend') }, 'repair', ...flags);
    expect(dry.code).to.equal(0);
    expect(dry.stdout).to.contain('would mend').and.contain('Asked for, it is taken out.');
    expect(dry.seen[0]?.request).to.deep.include({
      validateOnly: true,
      classes: ['image-trashed'],
      resourceIds: [finding.resourceId],
    });
    const left = await run({ 'admin.repair': async () => answer('failed', 'It is open.') }, 'repair');
    expect(left.code).to.equal(1);
    expect(left.stdout).to.match(/failed +image-trashed .*It is open\./);
    expect(left.stderr).to.contain('still held');
    expect((await run({ 'admin.repair': async () => answer('mended') }, 'repair')).code).to.equal(0);
    const wrong = await run({}, 'repair', '--class', 'nonsense');
    expect(wrong.code).to.equal(2);
  });

  it('store backup prints the path and nothing else on stdout', async () => {
    const backup = { path: '/srv/backup/store-1.db', sizeBytes: 4096, time: 1_700_000_000_000 };
    const { code, stdout, stderr } = await run({ 'admin.backupStore': async () => backup }, 'store', 'backup');
    expect({ code, stdout }).to.deep.equal({ code: 0, stdout: '/srv/backup/store-1.db\n' });
    expect(stderr).to.contain('4KiB');
  });
});
