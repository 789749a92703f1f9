import { cp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'chai';
import type { MoorageCallError } from '../../src/client/index.js';
import { brief, checkAll, repairAll } from '../helpers/admin.js';
import { auditPool } from '../helpers/pool-audit.js';
import type { RedisMember } from '../helpers/redis.js';
import { type System, startSystem } from '../helpers/system.js';
import { TestNode } from '../helpers/test-node.js';
import { waitFor } from '../helpers/wait.js';

const SIZE = 4 * 2 ** 20;

/**
 * A primary that lacks what was acknowledged, and nobody is left who saw it: as when a replica that had fallen behind is
 * promoted, and the machine of the controller is gone too. Here the server itself comes back with the data that it had before.
 */
describe('a controller on a primary that nobody has compared with the storage', function () {
  this.timeout(300_000);
  let system: System;
  let server: RedisMember;

  before(async () => {
    system = await startSystem({ name: 'reconcile', store: 'redis', undeleteWindowSeconds: 3600 });
    await TestNode.register(system, 'n-a');
    await TestNode.register(system, 'n-b');
    const [first] = system.store.redis?.servers ?? [];
    if (first === undefined) throw new Error('no server');
    server = first;
  });
  after(() => system?.remove());

  const volume = async (): Promise<string> => {
    const answer = await system.client.createVolume({ poolId: 'main', sizeBytes: SIZE });
    return answer.volume?.id ?? '';
  };
  const exportTo = (volumeId: string, nodeId: string) =>
    system.client.export({ volumeId, authority: 'direct', direct: { nodeId } });
  const refusal = (call: Promise<unknown>): Promise<MoorageCallError> =>
    call.then(
      () => expect.fail('it was not refused'),
      (error: MoorageCallError) => error,
    );
  const compared = (): Promise<string> => server.call<string>('GET', 'moorage:d:store/primary');
  const data = (): string => join(server.folder, 'appendonlydir');
  /** What the controller remembers of the primary; not there yet when it was killed soon. */
  const note = (): string => join(system.directory, 'redis-store.json');

  it('goes on at once when nothing is missing', async () => {
    const open = await volume();
    await exportTo(open, 'n-a');
    const before = await compared();
    await system.kill();
    await server.kill();
    await rm(note(), { force: true });
    await server.start();
    await system.start();
    await volume();
    expect(await compared(), 'another primary').not.to.equal(before);
    expect(system.log()).not.to.contain('lacks changes');
    await system.kill();
    await system.start();
    await volume();
  });

  it('notices what is missing before a second node gets a volume, and takes it in', async () => {
    const [moved, deleted, kept] = [await volume(), await volume(), await volume()];
    // Frozen it takes no commit: what is copied is one moment.
    server.freeze();
    await cp(data(), `${data()}.old`, { recursive: true });
    server.thaw();
    const { export: opened } = await exportTo(moved, 'n-a');
    await system.client.deleteVolume({ volumeId: deleted });
    const late = await volume();
    await system.kill();
    await server.kill();
    await rm(data(), { recursive: true });
    await cp(`${data()}.old`, data(), { recursive: true });
    await rm(note(), { force: true });
    await server.start();
    await system.start();

    const refused = await refusal(exportTo(moved, 'n-b'));
    expect(refused, refused.message).to.include({ code: 'FAILED_PRECONDITION', reason: 'STORE_LOST_CHANGES' });
    expect(system.log())
      .to.contain('the new primary of the store lacks changes')
      .and.contain(opened?.id ?? '-');
    expect((await system.client.getVolume({ volumeId: kept })).volume?.state).to.equal('VOLUME_STATE_AVAILABLE');
    const missing = [`export-not-in-store ${opened?.id}`, `image-trashed ${deleted}`, `not-in-store ${late}`].sort();
    expect(brief(await checkAll(system))).to.deep.equal(missing);
    // Also by one that begins later, and finds the primary compared.
    await system.kill();
    await system.start();
    expect(await refusal(volume())).to.have.property('reason', 'STORE_LOST_CHANGES');

    expect((await repairAll(system)).stillHeld).to.equal(false);
    expect(await refusal(exportTo(moved, 'n-b'))).to.have.property('reason', 'VOLUME_IN_USE');
    await system.client.deleteVolume({ volumeId: deleted });
    await volume();
    expect(brief(await checkAll(system))).to.deep.equal([]);
    await waitFor('the pool is whole', async () => (await auditPool(system)).problems.length === 0);
  });
});
