import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { accessCaps } from '../../src/agents/rbd/fence/caps.js';
import type { Cluster as Connection } from '../../src/agents/rbd/librbd/cluster.js';
import { RbdImage } from '../../src/agents/rbd/librbd/image.js';
import type { GetUsageResponse__Output } from '../../src/generated/moorage/backend/v1/GetUsageResponse.js';
import type { Image__Output } from '../../src/generated/moorage/backend/v1/Image.js';
import type { Point__Output } from '../../src/generated/moorage/backend/v1/Point.js';
import type { TakePointResponse__Output } from '../../src/generated/moorage/backend/v1/TakePointResponse.js';
import { cleanUp } from '../helpers/clean-up.js';
import { type Cluster, startCluster } from '../helpers/cluster.js';
import { waitFor } from '../helpers/wait.js';
import { connectAdmin, failure, parentOf, TestAgent, uniqueName } from './agent-rbd-harness.js';

const MIB = 1024 * 1024;

interface GuestReport {
  readonly writes: number;
  readonly errors: readonly string[];
  readonly longestPauseMilliseconds: number;
}

/** A client with an export's rights that writes all the time. */
class Guest {
  readonly #process: ChildProcess;
  #output = '';

  constructor(settings: object) {
    this.#process = spawn(
      process.execPath,
      ['--import', 'tsx', fileURLToPath(new URL('agent-rbd-guest.ts', import.meta.url))],
      { stdio: ['pipe', 'pipe', 'inherit'] },
    );
    this.#process.stdout?.on('data', (data: Buffer) => {
      this.#output += data.toString();
    });
    this.#process.stdin?.write(JSON.stringify(settings));
  }

  async ready(): Promise<string> {
    return (await waitFor('the guest writes', () => this.#line<{ ready: string }>(0))).ready;
  }

  async stop(): Promise<GuestReport> {
    this.#process.stdin?.write('stop');
    return waitFor('the guest has stopped', () => this.#line<GuestReport>(1));
  }

  kill(): void {
    this.#process.kill('SIGKILL');
  }

  #line<Result>(index: number): Result | undefined {
    const lines = this.#output.split('\n');
    return lines.length > index + 1 ? (JSON.parse(lines[index] as string) as Result) : undefined;
  }
}

describe('RBD agent on an image that a guest writes to', function () {
  this.timeout(300_000);
  let cluster: Cluster;
  let admin: Connection;
  let agent: TestAgent;
  let volume: Image__Output;
  let guest: Guest;
  let address: string;
  const user = `client.moorage-test.${process.pid}`;

  before(async () => {
    cluster = await startCluster();
    admin = await connectAdmin(cluster);
    agent = await new TestAgent(cluster).ready();
    volume = await agent.create(uniqueName('vol'), 64 * MIB);
    const caps = accessCaps(volume, [], false);
    const { output } = await admin.monCommand({ prefix: 'auth get-or-create-key', entity: user, caps, format: 'json' });
    guest = new Guest({
      configuration: cluster.configurationFile,
      user: user.slice('client.'.length),
      key: (JSON.parse(output.toString()) as { key: string }).key,
      pool: 'moorage',
      image: volume.name,
    });
    address = await guest.ready();
  });

  after(async () => {
    await cleanUp(
      () => guest?.kill(),
      () => admin?.monCommand({ prefix: 'auth del', entity: user }),
      () => waitFor('the volume purges', async () => agent.purge(volume).then(() => true)),
      () => agent?.kill(),
      () => admin?.close(),
    );
  });

  it('takes points, expands, removes points; the guest sees no error, each point is right', async () => {
    const usage = await agent.step<GetUsageResponse__Output>('GetUsage', { image: volume });
    expect(usage.holders).to.have.length(1);
    expect(usage.holders[0]).to.include({ address, watches: true, locks: true });
    const snapshots: Image__Output[] = [];
    for (let round = 0; round < 3; round += 1) {
      await agent.withConnection(async (connectionId) => {
        const request = { connectionId, image: volume };
        const taken = await agent.step<TakePointResponse__Output>('TakePoint', { ...request, pointName: `p${round}` });
        volume.points.push(taken.point as Point__Output);
        expect(taken.sizeBytes).to.equal(String((64 + round * 4) * MIB));
        const snapshot = await agent.create(uniqueName('snap'), Number(taken.sizeBytes), {
          parent: parentOf(volume, taken.point as Point__Output),
        });
        snapshots.push(snapshot);
        const sizeBytes = (64 + (round + 1) * 4) * MIB;
        expect(await agent.step('ExpandImage', { ...request, sizeBytes })).to.deep.equal({
          sizeBytes: String(sizeBytes),
        });
        volume.largestSizeBytes = String(sizeBytes);
        await agent.step('RemovePoint', { ...request, point: taken.point });
      });
    }
    const report = await guest.stop();
    process.stdout.write(
      `      the guest wrote ${report.writes} times, its longest pause was ${report.longestPauseMilliseconds} ms\n`,
    );
    expect(report.errors).to.deep.equal([]);
    expect(report.writes).to.be.greaterThan(20);
    // What a point shows are consecutive writes: every block of one pass over the 64 blocks, or of the pass before.
    for (const snapshot of snapshots) {
      const numbers = await admin.withPool('moorage', (pool) =>
        RbdImage.with(pool, { id: snapshot.backendId }, { readOnly: true }, async (image) => {
          const data = await image.read(0n, 64 * 4096);
          return Array.from({ length: 64 }, (_, block) => data.readUInt32LE(block * 4096));
        }),
      );
      const newest = Math.max(...numbers);
      for (const [block, number] of numbers.entries()) {
        const expected = newest - ((((newest - block) % 64) + 64) % 64);
        expect(number, `block ${block} with ${newest} written`).to.equal(Math.max(0, expected));
      }
      await agent.purge(snapshot);
    }
  });

  it('refuses a connection that it does not know, as an unknown outcome', async () => {
    const answer = await failure(
      agent.step('TakePoint', { connectionId: 'of another start', image: volume, pointName: 'p' }),
    );
    expect(answer).to.include({ code: 14, reason: 'UNKNOWN_CONNECTION' });
  });
});
