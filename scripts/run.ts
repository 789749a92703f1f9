import { relative } from 'node:path';
import { startGuest } from '../test/helpers/guest.js';
import { Development } from './development/development.js';
import { endingWell } from './development/ending.js';
import { Narration, StepError } from './development/narration.js';
import { CLUSTER_NAME, commandDirectory, controllerLog, endpoint, NODE_ID, POOL_ID } from './development/places.js';

/* `make run`: the same set-up as `make demo`; the controller serves until Ctrl-C or SIGTERM. */

const GUEST = 'web1';
const narration = new Narration();
const development = new Development(narration);

const exitCode = await endingWell(
  development,
  async () => {
    await development.start();
    const { host, controller } = development;
    await narration.step('A guest to attach volumes to', [controllerLog], async () => {
      await startGuest({ host, name: GUEST });
      return `The domain ${GUEST} runs on ${NODE_ID}.`;
    });
    narration.say(`
The controller serves. In another terminal:

  export MOORAGE_ENDPOINT='${endpoint}'
  export PATH="${commandDirectory}:$PATH"

  moorage volume create --size 10GiB --name db
  moorage export vol-… --node ${NODE_ID} > descriptor
  storage-utils attach --descriptor descriptor --domain ${GUEST}
  moorage tree

  pool       ${POOL_ID}, on the Ceph cluster .dev/${CLUSTER_NAME} (CEPH_CONF='${development.cluster.configurationFile}')
  node       ${NODE_ID}; the storage-utils on that PATH is the one of ${NODE_ID}
  libvirt    virsh -c '${host.uri}' list
  TLS        ${controller.tlsAddress}, for callers with a certificate
  metrics    http://${controller.metricsAddress}/metrics
  log        ${relative(process.cwd(), controllerLog)}

Ctrl-C ends the guest, libvirt and the controller. The Ceph cluster stays (scripts/ceph-cluster.sh stop ${CLUSTER_NAME}), and so
do volumes and snapshots.`);
    await controller.ended;
    throw new StepError('Serving', new Error('the controller ended by itself'), [controllerLog]);
  },
  0,
);
process.exit(exitCode);
