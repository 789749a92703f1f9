import { expect } from 'chai';
import { cleanUp } from '../helpers/clean-up.js';
import { type Cluster, startCluster } from '../helpers/cluster.js';
import { waitFor } from '../helpers/wait.js';
import { failure, TestAgent, uniqueName } from './agent-rbd-harness.js';

const SIZE = 16 * 1024 * 1024;

describe('RBD agent whose storage does not answer', function () {
  this.timeout(300_000);
  let cluster: Cluster;
  let agent: TestAgent;

  // Two OSDs and a pool on each, so that one pool can hang alone.
  before(async () => {
    cluster = await startCluster({ name: 'agent-stuck', osds: 2 });
    for (const id of [0, 1]) {
      await cluster.ceph('osd', 'crush', 'set-device-class', `only${id}`, `osd.${id}`).catch(async () => {
        await cluster.ceph('osd', 'crush', 'rm-device-class', `osd.${id}`);
        await cluster.ceph('osd', 'crush', 'set-device-class', `only${id}`, `osd.${id}`);
      });
      await cluster.ceph('osd', 'crush', 'rule', 'create-replicated', `only${id}`, 'default', 'osd', `only${id}`);
      await cluster.ceph('osd', 'pool', 'create', `pool${id}`, '8', '8', 'replicated', `only${id}`);
      await cluster.rbd('pool', 'init', `pool${id}`);
    }
    agent = await new TestAgent(cluster, {
      pool: 'pool0',
      arguments: ['--lane', '4', '--lane-queue', '2', '--osd-timeout-seconds', '5'],
    }).ready();
  });

  after(async () => {
    await cleanUp(
      () => cluster?.resumeOsd(0),
      () => agent?.kill(),
      () => cluster?.remove(),
    );
  });

  it('ends each step in bounded time with an unknown outcome, and leaves the other pool its threads', async () => {
    const names = Array.from({ length: 8 }, () => uniqueName('vol'));
    await cluster.pauseOsd(0);
    const calls = names.map((name) => failure(agent.createOutcome(name, SIZE, {}, 60)));
    // Four run, two wait, two were not begun.
    const full = await Promise.all(calls.map((call) => Promise.race([call, sleepUntilOtherPoolWorked(agent)])));
    expect(full.filter((each) => each?.reason === 'LANE_FULL')).to.have.length(2);
    expect(full.filter((each) => each?.code === 8)).to.have.length(2);
    // What needs no OSD is answered: a step that waited for the OSD would be refused with ETIMEDOUT.
    await agent.step('GetPool', {});
    const answers = await Promise.all(calls);
    expect(answers.filter((each) => each.code === 4 && each.reason === 'ETIMEDOUT')).to.have.length(6);
    await cluster.resumeOsd(0);
    // Asked for again, each ends whole, or is said to be unusable and purges.
    for (const name of names) {
      const outcome = await waitFor('the step is done again', () => agent.createOutcome(name, SIZE));
      const image = outcome.image ?? outcome.unusable?.image;
      if (!image) throw new Error(`${name}: no outcome`);
      await waitFor('it is purged', () => agent.purge(image).then(() => true));
    }
  });
});

/** Resolves when a whole life of an image has passed in the other pool. */
async function sleepUntilOtherPoolWorked(agent: TestAgent): Promise<undefined> {
  const name = uniqueName('other');
  const request = { catalogueEntry: { key: name, value: Buffer.alloc(1) }, name, sizeBytes: SIZE, pointName: '' };
  const attempt = (): Promise<{ image: object }> => agent.step('CreateImage', request, 30, 'pool1');
  // Eight of these share a lane of six.
  const { image } = await waitFor('the other pool takes it', attempt);
  await waitFor('it is gone', () =>
    agent.step('PurgeImage', { image, formerNames: [], catalogueKey: name }, 30, 'pool1').then(() => true),
  );
  return undefined;
}
