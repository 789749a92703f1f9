import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import type { StoreHarness, StoreUnderTest } from './store-contract.js';
import { listAll } from './store-helpers.js';

const writerProgram = fileURLToPath(new URL('./store-writer.ts', import.meta.url));

/** What a process said was acknowledged, and its end. */
interface KilledWriter {
  readonly acknowledged: ReadonlyMap<string, number>;
  readonly child: ChildProcess;
}

/** Starts store-writer.ts, and kills it once it has said `lines` lines. */
async function writeAndKill(kind: string, location: string, run: string, lines: number): Promise<KilledWriter> {
  const child = spawn(process.execPath, ['--import', 'tsx', writerProgram, kind, location, run], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const closed = once(child, 'close');
  const acknowledged = new Map<string, number>();
  let whole = 0;
  for await (const line of createInterface({ input: child.stdout })) {
    const [key, rev] = line.split(' ');
    if (key === undefined || !/^\d+$/.test(rev ?? '')) throw new Error(`not a line of the writer: "${line}"`);
    acknowledged.set(key, Number(rev));
    whole += 1;
    if (whole === lines) child.kill('SIGKILL');
  }
  await closed;
  return { acknowledged, child };
}

/** What outlives a process. */
export function durabilityContract(harness: StoreHarness): void {
  describe('durability', () => {
    let opened: StoreUnderTest;
    beforeEach(async () => {
      opened = await harness.open();
    });
    afterEach(() => opened.dispose());

    it('has everything after it was closed and opened again', async () => {
      const { store } = opened;
      const write = { kind: 'put', key: 'a', expect: 'any', value: 1, indexes: [{ index: 'i', sort: 's' }] } as const;
      const outcome = await store.commit([write]);
      await store.close();
      const again = await opened.reopen();
      opened = { ...opened, store: again };
      expect(outcome.ok && (await again.get('a'))).to.deep.equal({
        key: 'a',
        rev: outcome.ok && outcome.rev,
        value: 1,
      });
      expect(await again.count('i')).to.equal(1);
    });

    it('has everything that was acknowledged before a SIGKILL, and no half of a commit', async () => {
      await opened.store.close();
      const everything = new Map<string, number>();
      for (const [run, lines] of [1, 100, 777, 2500].entries()) {
        const { acknowledged, child } = await writeAndKill(harness.kind, opened.location, `${run}`, lines);
        expect(child.signalCode).to.equal('SIGKILL');
        for (const [key, rev] of acknowledged) everything.set(key, rev);
        const store = await opened.reopen();
        opened = { ...opened, store };
        const keys = [...everything.keys()];
        const read = await store.getMany(keys);
        expect(read.map((document) => document?.rev)).to.deep.equal([...everything.values()]);

        const written = await listAll(store, 'written');
        expect(await store.count('written')).to.equal(written.length);
        const byKey = new Map(written.map((document) => [document.key, document]));
        const moving = await listAll(store, 'moving');
        expect(moving.length).to.be.within(1, 8 * (run + 1));
        for (const { rev, value } of moving) expect(byKey.get((value as { key: string }).key)?.rev).to.equal(rev);
        await store.close();
      }
      opened = { ...opened, store: await opened.reopen() };
    });
  });
}
