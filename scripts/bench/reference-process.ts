import { connectAgent } from '../../src/agents/rbd/agent-context.js';
import { cloneImage, createImage } from '../../src/agents/rbd/librbd/create.js';
import { RbdImage } from '../../src/agents/rbd/librbd/image.js';
import type { PoolContext } from '../../src/agents/rbd/librbd/pool-context.js';
import { createSnapshot, removeSnapshot } from '../../src/agents/rbd/librbd/snapshot.js';
import { moveToTrash } from '../../src/agents/rbd/librbd/trash.js';
import { inParallel, timed } from './statistics.js';

/*
 * The bare reference: the agent's own bindings called alone in a process of their own, with the same features and as many
 * threads, and nothing else: no journal, no catalogue, no gRPC. It is told what to do over Node's IPC and answers with the
 * time that the calls took.
 */

/** What the reference can be asked for. */
export type ReferenceTask =
  | { readonly task: 'create'; readonly name: string; readonly sizeBytes: number }
  | { readonly task: 'clone'; readonly parent: string; readonly point: string; readonly name: string }
  | { readonly task: 'snapshot'; readonly volume: string; readonly point: string; readonly name: string }
  | { readonly task: 'trash'; readonly name: string }
  | { readonly task: 'open'; readonly name: string }
  | { readonly task: 'catalogue'; readonly name: string }
  | {
      readonly task: 'clones';
      readonly parent: string;
      readonly point: string;
      readonly names: readonly string[];
      readonly width: number;
    }
  | { readonly task: 'snapshots'; readonly volumes: readonly string[]; readonly point: string };

const [configurationFile = '', user = '', keyringFile = '', poolName = ''] = process.argv.slice(2);
// Connected as an agent is, so that librbd has the same settings on both sides.
const { shared: cluster, connect } = await connectAgent({
  configurationFile,
  user,
  keyringFile,
  requestTimeoutSeconds: 30,
});

/** The calls of a snapshot up to `completed`, as the operation table has them. */
async function snapshot(volume: string, point: string, name: string): Promise<void> {
  const own = await connect();
  try {
    await own.withPool(poolName, (pool) =>
      RbdImage.with(pool, { name: volume }, {}, async (image) => {
        await image.flush();
        await createSnapshot(image, point);
      }),
    );
    await cluster.withPool(poolName, async (pool) => {
      await cloneImage(pool, { name: volume, snapshot: point }, pool, name);
      await RbdImage.with(pool, { name }, {}, (image) => createSnapshot(image, 'base'));
    });
    await own.withPool(poolName, (pool) =>
      RbdImage.with(pool, { name: volume }, {}, async (image) => {
        await image.flush();
        await removeSnapshot(image, point);
      }),
    );
  } finally {
    await own.close();
  }
}

/** How long it takes to open an image, in milliseconds; closing it is not counted. */
async function open(name: string, pool: PoolContext): Promise<number> {
  let image: RbdImage | undefined;
  try {
    return await timed(async () => {
      image = await RbdImage.open(pool, { name });
    });
  } finally {
    await image?.close();
  }
}

async function work(task: Exclude<ReferenceTask, { task: 'open' }>, pool: PoolContext): Promise<void> {
  switch (task.task) {
    case 'create':
      return createImage(pool, task.name, BigInt(task.sizeBytes));
    case 'clone':
      return cloneImage(pool, { name: task.parent, snapshot: task.point }, pool, task.name);
    case 'snapshot':
      return snapshot(task.volume, task.point, task.name);
    case 'trash':
      return moveToTrash(pool, task.name, 0n);
    case 'catalogue':
      return pool.omapSet('bench_catalogue', [{ key: task.name, value: Buffer.alloc(512, 7) }]);
    case 'clones': {
      const { parent, point, names, width } = task;
      return inParallel(width, names, (name) =>
        cluster.withPool(poolName, (own) => cloneImage(own, { name: parent, snapshot: point }, own, name)),
      );
    }
    case 'snapshots':
      await Promise.all(task.volumes.map((volume) => snapshot(volume, task.point, `${volume}-${task.point}`)));
  }
}

process.on('message', (task: ReferenceTask) => {
  cluster
    .withPool(poolName, (pool) => (task.task === 'open' ? open(task.name, pool) : timed(() => work(task, pool))))
    .then(
      (milliseconds) => process.send?.({ milliseconds }),
      (error: unknown) => process.send?.({ error: error instanceof Error ? error.message : String(error) }),
    );
});
process.on('disconnect', () => process.exit(0));
process.send?.({ milliseconds: 0 });
