import { join } from 'node:path';
import { expect } from 'chai';
import { type Cluster, developmentDirectory, repositoryDirectory, startCluster } from '../helpers/cluster.js';
import { TestController } from '../helpers/controller.js';
import { execute } from '../helpers/exec.js';

// Debian's own, which its package python3-grpcio belongs to; another may come first in the path.
const python = '/usr/bin/python3';

describe('contract: a client in Python', function () {
  this.timeout(300_000);
  const descriptors = join(developmentDirectory, 'moorage-v1.binpb');
  let cluster: Cluster;
  let controller: TestController | undefined;

  before(async () => {
    cluster = await startCluster();
    controller = await TestController.make({ cluster, cephPool: 'python-test' });
    await controller.start();
    const buf = join(repositoryDirectory, 'node_modules/.bin/buf');
    await execute(buf, ['build', '--path', 'protos/moorage/v1', '--output', descriptors], {
      workingDirectory: repositoryDirectory,
    });
  });
  after(async () => {
    await controller?.remove();
  });

  it('drives every method, health and reflection, by what protos/ says', async () => {
    const { stdout } = await execute(python, [
      join(repositoryDirectory, 'test/contract/python_client.py'),
      ...[descriptors, `unix:${controller?.socket}`, 'python-test'],
    ]);
    expect(stdout).to.match(/^[0-9]+ methods$/m);
  });
});
