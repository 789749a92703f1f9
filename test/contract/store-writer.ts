import { storeKinds } from './store-kinds.js';

/*
 * A process that commits until it is killed, and says on stdout what was acknowledged: "<key> <rev>" per line.
 * Arguments: the store's kind, its location, a name that makes its keys its own. Each of its eight loops makes a document,
 * and moves a document of its own in an index; both in one commit.
 */
const [kind = '', location = '', run = ''] = process.argv.slice(2);
const open = storeKinds[kind];
if (open === undefined) throw new Error(`no store of the kind "${kind}"`);
const store = await open(location);

async function loop(worker: number): Promise<never> {
  let rev: number | 'absent' = 'absent';
  const moving = `moving/${run}/${worker}`;
  for (let round = 0; ; round += 1) {
    const key = `written/${run}/${worker}/${round}`;
    const outcome = await store.commit([
      { kind: 'put', key, expect: 'absent', value: { round }, indexes: [{ index: 'written', sort: key }] },
      { kind: 'put', key: moving, expect: rev, value: { key }, indexes: [{ index: 'moving', sort: `${round}` }] },
    ]);
    if (!outcome.ok) throw new Error(`conflict: ${JSON.stringify(outcome.conflicts)}`);
    rev = outcome.rev;
    // Waits for a reader that is slow; a synchronous write would fail of the full pipe (EAGAIN).
    await new Promise((written) => process.stdout.write(`${key} ${rev}\n`, written));
  }
}

await Promise.all(Array.from({ length: 8 }, (_, worker) => loop(worker)));
