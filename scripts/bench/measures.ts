import { Client, credentials } from '@grpc/grpc-js';
import nacl from 'tweetnacl';
import { execute } from '../../test/helpers/exec.js';
import type { System } from '../../test/helpers/system.js';
import { fresh, SIZE_BYTES } from './names.js';
import type { Reference } from './reference.js';
import { alternate, type Figure, figure, timed } from './statistics.js';

/*
 * One function a figure of the list: our full path (a call of the API up to its answer) beside the bare reference, on
 * the same cluster, in turn.
 */

/** What the measures work with. */
export interface Bench {
  readonly system: System;
  readonly reference: Reference;
  /** A volume with 64 MiB of data, and a completed snapshot of it. */
  readonly volumeId: string;
  readonly snapshotId: string;
}

/** Makes a volume; its id. */
export async function createVolume(system: System, sizeBytes = SIZE_BYTES): Promise<string> {
  const { volume } = await system.client.createVolume({ poolId: system.poolId, sizeBytes });
  if (volume === null) throw new Error('the controller answered without a volume');
  return volume.id;
}

/** Makes a volume from a snapshot. */
export async function cloneVolume(system: System, snapshotId: string): Promise<void> {
  await system.client.createVolume({ source: { source: 'snapshotId', snapshotId } });
}

/** create/librbd and create/rbd-cli. */
export async function measureCreate({ system, reference }: Bench): Promise<readonly Figure[]> {
  const ours = () => timed(() => createVolume(system));
  const bare = await alternate(200, ours, () =>
    reference.run({ task: 'create', name: fresh(), sizeBytes: SIZE_BYTES }),
  );
  const options = ['--image-feature', 'layering,exclusive-lock,deep-flatten', '--size', '10G'];
  const environment = { CEPH_CONF: system.cluster.configurationFile };
  const command = await alternate(30, ours, () =>
    timed(() => execute('rbd', ['create', '-p', system.cephPool, ...options, fresh()], { environment })),
  );
  return [
    figure('create/librbd', bare.ours, bare.reference),
    figure('create/rbd-cli', command.ours, command.reference),
  ];
}

/** from-snapshot/librbd. */
export async function measureFromSnapshot({ system, reference, snapshotId }: Bench): Promise<readonly Figure[]> {
  const times = await alternate(
    100,
    () => timed(() => cloneVolume(system, snapshotId)),
    () => reference.run({ task: 'clone', parent: snapshotId, point: 'base', name: fresh() }),
  );
  return [figure('from-snapshot/librbd', times.ours, times.reference)];
}

/** snapshot/librbd: up to `completed`, beside the same sequence of calls. */
export async function measureSnapshot({ system, reference }: Bench): Promise<readonly Figure[]> {
  const mine = await createVolume(system);
  const theirs = fresh();
  await reference.run({ task: 'create', name: theirs, sizeBytes: SIZE_BYTES });
  const times = await alternate(
    10,
    () => timed(() => system.client.createSnapshot({ volumeId: mine })),
    () => reference.run({ task: 'snapshot', volume: theirs, point: fresh(), name: fresh() }),
  );
  return [figure('snapshot/librbd', times.ours, times.reference)];
}

/** delete/librbd: as the caller sees it, beside a bare move to the trash. */
export async function measureDelete({ system, reference }: Bench): Promise<readonly Figure[]> {
  const rounds = 100;
  const mine: string[] = [];
  const theirs: string[] = [];
  for (let round = 0; round < rounds; round += 1) {
    mine.push(await createVolume(system));
    const name = fresh();
    await reference.run({ task: 'create', name, sizeBytes: SIZE_BYTES });
    theirs.push(name);
  }
  const times = await alternate(
    rounds,
    (round) => timed(() => system.client.deleteVolume({ volumeId: mine[round] ?? '' })),
    (round) => reference.run({ task: 'trash', name: theirs[round] ?? '' }),
  );
  return [figure('delete/librbd', times.ours, times.reference)];
}

/** An unary call of the same server that does nothing: the standard health check. */
export function emptyCall(system: System): { call: () => Promise<unknown>; close: () => void } {
  const client = new Client(system.endpoint, credentials.createInsecure());
  const asIs = (bytes: Buffer): Buffer => bytes;
  const call = () =>
    new Promise((resolve, reject) => {
      const path = '/grpc.health.v1.Health/Check';
      client.makeUnaryRequest(path, asIs, asIs, Buffer.alloc(0), (error, answer) => {
        if (error === null) resolve(answer);
        else reject(error);
      });
    });
  return { call, close: () => client.close() };
}

/** export/empty-call: Export of a volume that is exported already. */
export async function measureExport({ system, volumeId }: Bench): Promise<readonly Figure[]> {
  const publicKey = Buffer.from(nacl.box.keyPair().publicKey);
  await system.client.registerNode({ nodeId: 'bench', publicKey, storageAddresses: ['127.0.0.1'] });
  const ours = () => system.client.export({ volumeId, authority: 'direct', direct: { nodeId: 'bench' } });
  const made = await ours();
  const empty = emptyCall(system);
  try {
    const times = await alternate(
      1000,
      () => timed(ours),
      () => timed(empty.call),
    );
    return [figure('export/empty-call', times.ours, times.reference)];
  } finally {
    empty.close();
    await system.client.unexport({ exportId: made.export?.id ?? '' });
  }
}
