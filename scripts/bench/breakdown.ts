import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { putOperation, putToken, putVolume } from '../../src/core/journal/documents.js';
import { newId } from '../../src/core/model/ids.js';
import type { Operation } from '../../src/core/model/operation.js';
import { openSqliteStore } from '../../src/store/sqlite/index.js';
import { developmentDirectory } from '../../test/helpers/cluster.js';
import { type Bench, emptyCall } from './measures.js';
import { sampleVolume } from './populate.js';
import { median, timed } from './statistics.js';

/** Where our own share of a create goes: each part measured alone, medians in milliseconds. */
export interface Breakdown {
  /** A call that does nothing, to the server and back. */
  readonly grpc: number;
  /** The two commits of an operation. */
  readonly store: number;
  /** The catalogue entry. */
  readonly catalogue: number;
  /** What is left: the hop to the agent and back, the image's id and the search for ids that begin alike, the core itself. */
  readonly agentAndRest: number;
}

/** Measures the parts. @param ownShare our create less the bare one, in milliseconds */
export async function breakDown(bench: Bench, ownShare: number): Promise<Breakdown> {
  const empty = emptyCall(bench.system);
  const grpc = median(await times(200, () => timed(empty.call)));
  empty.close();
  const store = await commits();
  const catalogue = median(
    await times(100, (round) => bench.reference.run({ task: 'catalogue', name: `entry-${round}` })),
  );
  return { grpc, store, catalogue, agentAndRest: ownShare - grpc - store - catalogue };
}

async function times(rounds: number, measure: (round: number) => Promise<number>): Promise<number[]> {
  const found: number[] = [];
  for (let round = 0; round < rounds; round += 1) found.push(await measure(round));
  return found;
}

async function commits(): Promise<number> {
  const folder = await mkdtemp(join(developmentDirectory, 'bench-store-'));
  const store = await openSqliteStore({ path: join(folder, 'store.db') });
  try {
    return median(
      await times(200, (round) =>
        timed(async () => {
          const volume = sampleVolume(round);
          const operation = sampleOperation(volume.id);
          const token = {
            parametersHash: 'x'.repeat(64),
            resourceId: volume.id,
            operationId: operation.id,
            createTime: 0,
          };
          const begun = await store.commit([
            putVolume({ ...volume, state: 'creating' }, 'absent'),
            putOperation(operation, 'absent'),
            putToken(`token/bench/CreateVolume/${operation.id}`, token, 'absent'),
          ]);
          const rev = begun.ok ? begun.rev : 'absent';
          await store.commit([putVolume(volume, rev), putOperation({ ...operation, state: 'succeeded' }, rev)]);
        }),
      ),
    );
  } finally {
    await store.close();
    await rm(folder, { recursive: true, force: true });
  }
}

function sampleOperation(resourceId: string): Operation {
  return {
    id: newId('op'),
    kind: 'volume.create',
    resourceId,
    poolId: 'main',
    owner: 'bench',
    state: 'running',
    phase: 'create-image',
    plan: { image: { identity: { id: resourceId, name: resourceId, sizeBytes: 1 }, pointName: '' } },
    locks: [{ resourceId, mode: 'exclusive' }],
    progressPercent: 0,
    statusMessage: '',
    principal: 'bench',
    createTime: 1_700_000_000_000,
    updateTime: 1_700_000_000_000,
  };
}
