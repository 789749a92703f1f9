import { randomUUID } from 'node:crypto';
import { expect } from 'chai';
import { admin, CoreWorld, change, failureOf, MEBIBYTE } from '../helpers/core-world.js';
import type { Fault } from '../helpers/fake-backend.js';

/* Every operation, with every fault at every step: it ends whole, nothing is left over, and the same token says the same. */

interface Scene {
  readonly name: string;
  readonly methods: readonly string[];
  /** Prepares, and answers with the call under test (to be made again with the same token). */
  readonly prepare: (world: CoreWorld) => Promise<(token: string) => Promise<unknown>>;
}

const scenes: readonly Scene[] = [
  {
    name: 'create volume',
    methods: ['createImage'],
    prepare: async (world) => (clientToken) => world.createVolume({ clientToken }),
  },
  {
    name: 'volume from snapshot',
    methods: ['createImage'],
    prepare: async (world) => {
      const { id } = await world.createSnapshot((await world.createVolume()).id);
      return (clientToken) =>
        world.createVolume({ clientToken, poolId: '', sizeBytes: 2 * MEBIBYTE, sourceSnapshotId: id });
    },
  },
  {
    name: 'update volume',
    methods: ['putCatalogueEntry'],
    prepare: async (world) => {
      const { id } = await world.createVolume();
      const update = { updateMask: ['display_name', 'tags.a'], displayName: 'new', tags: { a: 'b' } };
      return (clientToken) => world.core.services.volumes.update({ ...change(id, clientToken), ...update }, admin());
    },
  },
  {
    name: 'update snapshot',
    methods: ['putCatalogueEntry'],
    prepare: async (world) => {
      const { id } = await world.createSnapshot((await world.createVolume()).id);
      const update = { updateMask: ['display_name'], displayName: 'new', tags: {} };
      return (clientToken) => world.core.services.snapshots.update({ ...change(id, clientToken), ...update }, admin());
    },
  },
  {
    name: 'expand volume',
    methods: ['openConnection', 'putCatalogueEntry', 'expandImage', 'closeConnection'],
    prepare: async (world) => {
      const { id } = await world.createVolume();
      return (clientToken) =>
        world.core.services.volumes.expand({ ...change(id, clientToken), sizeBytes: 4 * MEBIBYTE }, admin());
    },
  },
  {
    name: 'delete volume',
    methods: ['trashImage'],
    prepare: async (world) => {
      const { id } = await world.createVolume();
      return (clientToken) => world.core.services.volumes.delete(change(id, clientToken), admin());
    },
  },
  {
    name: 'undelete volume',
    methods: ['restoreImage'],
    prepare: async (world) => {
      const { id } = await world.createVolume();
      await world.deleteVolume(id);
      return (clientToken) => world.core.services.volumes.undelete(change(id, clientToken), admin());
    },
  },
  {
    name: 'create snapshot',
    methods: ['openConnection', 'takePoint', 'createImage', 'removePoint', 'closeConnection'],
    prepare: async (world) => {
      const { id } = await world.createVolume();
      return (clientToken) => world.createSnapshot(id, clientToken);
    },
  },
  {
    name: 'delete snapshot',
    methods: ['trashImage'],
    prepare: async (world) => {
      const { id } = await world.createSnapshot((await world.createVolume()).id);
      return (clientToken) => world.core.services.snapshots.delete(change(id, clientToken), admin());
    },
  },
  {
    name: 'undelete snapshot',
    methods: ['restoreImage'],
    prepare: async (world) => {
      const { id } = await world.createSnapshot((await world.createVolume()).id);
      await world.deleteSnapshot(id);
      return (clientToken) => world.core.services.snapshots.undelete(change(id, clientToken), admin());
    },
  },
  {
    name: 'export',
    methods: ['putCatalogueEntry', 'grantAccess'],
    prepare: async (world) => {
      const { id } = await world.createVolume();
      return (clientToken) => world.export(id, 'node-a', { clientToken });
    },
  },
  {
    name: 'unexport',
    methods: ['getUsage', 'listClients', 'revokeAccess', 'removeCatalogueEntry'],
    prepare: async (world) => {
      const { id } = await world.createVolume();
      const exportId = (await world.export(id, 'node-a')).resource.value.id;
      return (clientToken) =>
        world.core.services.exports.unexport({ clientToken, validateOnly: false, exportId, force: false }, admin());
    },
  },
  {
    name: 'unexport by force',
    methods: ['getUsage', 'listClients', 'revokeAccess', 'cutOff', 'breakLocks', 'removeCatalogueEntry'],
    prepare: async (world) => {
      const { id } = await world.createVolume();
      const exportId = (await world.export(id, 'node-a')).resource.value.id;
      world.fake.openVolume(exportId, '10.0.0.5:0/77');
      return (clientToken) =>
        world.core.services.exports.unexport({ clientToken, validateOnly: false, exportId, force: true }, admin());
    },
  },
];

const FENCE = new Set(['grantAccess', 'listClients', 'revokeAccess', 'cutOff', 'breakLocks']);

function faultsOf(method: string): readonly (readonly [string, readonly Fault[]])[] {
  const again: Fault = { kind: 'unknown-after' };
  const list: (readonly [string, readonly Fault[]])[] = [
    ['not begun', [{ kind: 'not-begun' }]],
    ['an unknown outcome before it took effect', [{ kind: 'unknown-before' }]],
    ['an unknown outcome after it took effect', [again]],
    ['an unknown outcome three times', [again, { kind: 'unknown-before' }, again]],
    ['a refusal', [{ kind: 'permanent', code: 'RESOURCE_EXHAUSTED', reason: 'ENOSPC' }]],
  ];
  if (!FENCE.has(method)) {
    list.push(['the death of the agent before', [{ kind: 'agent-dies', after: false }]]);
    list.push(['the death of the agent after', [{ kind: 'agent-dies', after: true }]]);
  }
  if (method === 'takePoint') list.push(['a refusal after an unknown outcome', [again, { kind: 'permanent' }]]);
  if (method === 'createImage') {
    list.push(['half an image', [{ kind: 'half-made' }]]);
    list.push(['half an image twice', [{ kind: 'half-made' }, { kind: 'not-begun' }, { kind: 'half-made' }]]);
    list.push(['half an image, then a refusal', [{ kind: 'half-made' }, { kind: 'permanent' }]]);
  }
  return list;
}

/** What an answer comes to, without what may differ between two answers. */
async function outcome(promise: Promise<unknown>): Promise<string> {
  try {
    const answer = (await promise) as { id?: string; resource?: { value?: { id: string } } } | undefined;
    return `ok ${answer?.id ?? answer?.resource?.value?.id ?? ''}`;
  } catch (error) {
    return (error as Error).message;
  }
}

describe('core: every fault at every step', () => {
  let world: CoreWorld;
  beforeEach(async () => {
    world = await CoreWorld.make();
  });
  afterEach(() => world.end());

  for (const { name, methods, prepare } of scenes) {
    for (const method of methods) {
      for (const [what, faults] of faultsOf(method)) {
        it(`${name}: ${what} in ${method}`, async () => {
          const call = await prepare(world);
          const queue = [...faults];
          world.fake.fault = (asked) => (asked === method ? queue.shift() : undefined);
          const token = randomUUID();
          const [first, joined] = await Promise.all([outcome(call(token)), outcome(call(token))]);
          expect(queue, 'faults that did not come up').to.deep.equal([]);
          expect(joined).to.equal(first);
          await world.idle();
          expect(await outcome(call(token))).to.equal(first);
          // One whose opening was not heard of, or that will not close, stays until its agent ends.
          if (!/Connection$/.test(method)) expect([...world.agents.connections.keys()]).to.deep.equal([]);
          await world.restart();
          expect(await outcome(call(token))).to.equal(first);
          await world.expectWhole();
        });
      }
    }
  }

  it('a refusal is told with its reason, and the resource is gone with it', async () => {
    world.fake.fault = (method) =>
      method === 'createImage' ? { kind: 'permanent', code: 'RESOURCE_EXHAUSTED', reason: 'ENOSPC' } : undefined;
    const error = await failureOf(world.createVolume());
    expect(error.code).to.equal('RESOURCE_EXHAUSTED');
    expect(error.reason).to.equal('ENOSPC');
    expect(error.metadata).to.have.property('operation_id');
    await world.expectWhole();
    expect(world.fake.images.size).to.equal(0);
  });
});
