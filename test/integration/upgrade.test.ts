import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'chai';
import { LAYOUT, type LayoutRecord } from '../../src/core/journal/layout.js';
import { cleanUp } from '../helpers/clean-up.js';
import { startCluster } from '../helpers/cluster.js';
import { auditPool } from '../helpers/pool-audit.js';
import { thisMachine } from '../helpers/private-network.js';
import { type RedisGroup, startRedis } from '../helpers/redis.js';
import { redisTimes, SeveralControllers } from '../helpers/several-controllers.js';
import { endAtFirstFailure } from '../helpers/steps.js';
import { waitFor } from '../helpers/wait.js';

const SIZE_BYTES = 2 ** 20;
/** The program as it is, but for one place: it knows one layout more. */
const NEXT_VERSION = {
  file: 'core/journal/layout-steps.js',
  find: 'layoutSteps = [toSecond];',
  replace: 'layoutSteps = [toSecond, () => Promise.resolve()];',
};

describe('a rolling upgrade of two controllers on Redis', function () {
  this.timeout(300_000);
  endAtFirstFailure();
  let redis: RedisGroup;
  let several: SeveralControllers;
  const made = new Set<string>();

  before(async () => {
    redis = await startRedis();
    several = await SeveralControllers.start({
      name: 'upgrade',
      cluster: await startCluster(),
      hosts: [thisMachine, thisMachine],
      redis: { server: redis.servers[0]?.address, replicas: 0, ...redisTimes },
      nodeArguments: ['--import', new URL('../faults/crash-matrix/planted.mjs', import.meta.url).href],
    });
  });
  after(() =>
    cleanUp(
      () => several?.remove(),
      () => redis?.remove(),
    ),
  );

  const install = async (index: number): Promise<void> => {
    const folder = join(several.directory, String(index + 1), 'points');
    await mkdir(folder, { recursive: true });
    await writeFile(join(folder, 'planted.json'), JSON.stringify(NEXT_VERSION));
  };
  const document = async <Value>(key: string): Promise<Value> => {
    const text = await (await redis.primary()).call<string>('GET', key);
    return JSON.parse(text.split('\n')[2] ?? '');
  };
  const layoutInUse = (): Promise<LayoutRecord> => document(`${several.cephPool}:d:store/layout`);
  /** Until each controller has looked at the others several times: it does so about as often as it beats. */
  const looksAround = async (): Promise<void> => {
    const keys = await (await redis.primary()).call<readonly string[]>('KEYS', `${several.cephPool}:d:beat/*`);
    for (const key of keys) {
      const beats = async (): Promise<number> => (await document<{ beat: number }>(key)).beat;
      const before = await beats();
      await waitFor('ten beats of a controller', async () => (await beats()) >= before + 10);
    }
  };
  /** Sixteen creates at once, at this controller first; once the first is answered something happens. All are made. */
  const createWhile = async (first: number, happens: () => Promise<void> = () => Promise.resolve()): Promise<void> => {
    const client = several.connect(first);
    try {
      const creates = Array.from({ length: 16 }, () =>
        client.createVolume({ poolId: several.poolId, sizeBytes: SIZE_BYTES }, { deadlineMilliseconds: 120_000 }),
      );
      const [answers] = await Promise.all([Promise.all(creates), Promise.race(creates).then(happens)]);
      for (const { volume } of answers) {
        const volumeId = volume?.id ?? '';
        made.add(volumeId);
        await waitFor(`${volumeId} to be available`, async () => {
          const { volume: now } = await several.client.getVolume({ volumeId });
          return now?.state === 'VOLUME_STATE_AVAILABLE';
        });
      }
    } finally {
      client.close();
    }
  };
  const hasTakenOver = (index: number, times: number): Promise<boolean> =>
    waitFor('a take-over', () => several.one(index).said('took over from a controller') === times);

  it('one that is stopped ends or hands over what it is at, and no call fails', async () => {
    await createWhile(0, () => several.one(0).process.end('SIGTERM'));
    await hasTakenOver(1, 1);
  });

  it('the new version serves beside the old one, in the old layout', async () => {
    await install(0);
    await several.one(0).process.start();
    await createWhile(0);
    await looksAround();
    expect(await layoutInUse()).to.deep.equal({ version: LAYOUT, migrated: LAYOUT });
  });

  it('the old one takes over from the new one that dies', async () => {
    await createWhile(0, () => several.one(0).process.end('SIGKILL'));
    await hasTakenOver(1, 2);
    await several.one(0).process.start();
    expect(await layoutInUse()).to.deep.equal({ version: LAYOUT, migrated: LAYOUT });
  });

  it('the new one takes over from the last old one that dies, and then the new layout comes into use', async () => {
    await createWhile(1, () => several.one(1).process.end('SIGKILL'));
    await hasTakenOver(0, 1);
    await waitFor('the new layout', async () => {
      const { version, migrated } = await layoutInUse();
      return version === LAYOUT + 1 && migrated === LAYOUT + 1;
    });
    expect(several.one(0).process.log).to.match(
      new RegExp(`"to":${LAYOUT + 1}.*a newer layout of the store is in use`),
    );
  });

  it('the old version does not start any more, and says why; the new one does', async () => {
    const refused: unknown = await several
      .one(1)
      .process.start()
      .catch((error: unknown) => error);
    expect(String(refused)).to.include(
      `in use by a newer Moorage (layout ${LAYOUT + 1}; this one understands ${LAYOUT}): run that version`,
    );
    await install(1);
    await several.one(1).process.start();
    await createWhile(1);
    const inventory = await waitFor('the pool to be as the store says', async () => {
      const audit = await auditPool(several.seenBy(1));
      if (audit.problems.length > 0) throw new Error(audit.problems.join('\n'));
      return audit.inventory;
    });
    expect(
      inventory.volumes.map(({ id }) => id),
      'each create made one volume',
    ).to.have.members([...made]);
    expect(made.size).to.equal(5 * 16);
  });
});
