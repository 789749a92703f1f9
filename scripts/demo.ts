import { Job } from './demo/job.js';
import { Development } from './development/development.js';
import { endingWell } from './development/ending.js';
import { Narration, secondsSince } from './development/narration.js';
import { CLUSTER_NAME } from './development/places.js';

/*
 * `make demo`: the main job on a Ceph and a libvirt of its own, with every command that a user would type. A later run
 * starts from what is there.
 */

const began = performance.now();
const narration = new Narration();
const development = new Development(narration);
narration.say(`Moorage shows its main job. All that it makes lies in .dev/${CLUSTER_NAME} and .dev/hosts.`);

const exitCode = await endingWell(development, async () => {
  await development.start();
  const job = new Job(development);
  await job.lookAround();
  await job.run();
});
if (exitCode === 0) {
  process.stdout.write(`
Done in ${secondsSince(began)}. The guests, libvirt and the controller are stopped. The Ceph cluster still runs, for the next
run; to stop it: scripts/ceph-cluster.sh stop ${CLUSTER_NAME}. To try the commands yourself: make run. To remove all of it: make clean.
`);
}
process.exit(exitCode);
