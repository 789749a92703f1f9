import { join } from 'node:path';
import { createBackends, defaultAgentSettings } from '../../src/backends/index.js';
import { clock, pool, step } from '../unit/backends-fakes.js';

/* A controller's process as far as its agents know: starts them, prints their process ids and waits to be killed. */
const directory = process.argv[2] ?? '';
const backends = createBackends({
  clusters: [
    {
      name: 'main',
      configurationFile: process.env.CONFIGURATION ?? '',
      dataUser: 'moorage-data',
      dataKeyringFile: join(directory, 'data'),
      fenceUser: 'moorage-fence',
      fenceKeyringFile: join(directory, 'fence'),
    },
  ],
  agents: {
    ...defaultAgentSettings,
    runDirectory: join(directory, 'run'),
    stateDirectory: join(directory, 'state'),
  },
  observer: { agentEvent: () => {}, agentLine: () => {}, callEnded: () => {} },
  clock,
  lifecycle: () => ({ admit: async () => {}, died: async () => {}, heldBack: () => undefined }),
});
await backends.start('00000000-0000-4000-8000-000000000009');
await backends.port.data.probePool(pool, step());
await backends.port.fence.listAccess(pool, step());
process.stdout.write(`${JSON.stringify([...backends.processIds().values()])}\n`);
setInterval(() => {}, 60_000);
