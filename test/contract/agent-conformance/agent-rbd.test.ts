import { fileURLToPath } from 'node:url';
import { type FenceFixture, fenceFixture } from '../../integration/agent-fence-harness.js';
import { describeConformance } from './suite.js';

let fixture: FenceFixture;

describe('moorage-agent-rbd', () => {
  after(() => fixture?.end());
  describeConformance('conforms to the backend protocol', async () => {
    fixture = await fenceFixture();
    const holder = fileURLToPath(new URL('hold-rbd.ts', import.meta.url));
    return {
      data: `unix:${fixture.data.socket}`,
      fence: `unix:${fixture.fence.socket}`,
      settings: { ceph_pool: 'moorage' },
      hold: [process.execPath, '--import', 'tsx', holder, fixture.cluster.configurationFile, 'moorage'],
    };
  });
});
