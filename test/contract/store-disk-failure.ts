import { StoreError } from '../../src/core/ports/store.js';
import { openSqliteStore } from '../../src/store/sqlite/index.js';

/* A process whose files may not grow beyond a limit: commits until the store fails, and says how all calls fail then. */
const [path = ''] = process.argv.slice(2);
const store = await openSqliteStore({ path });
const kinds: string[] = [];
const attempt = async (call: () => Promise<unknown>) => {
  try {
    await call();
  } catch (error) {
    kinds.push(error instanceof StoreError ? error.kind : String(error));
  }
};

let acknowledged = 0;
while (kinds.length === 0) {
  await attempt(async () => {
    const value = 'x'.repeat(20_000);
    const indexes = [{ index: 'i', sort: 's' }];
    await store.commit([{ kind: 'put', key: `k${acknowledged}`, expect: 'absent', value, indexes }]);
    acknowledged += 1;
  });
}
await attempt(() => store.get('k0'));
await attempt(() => store.list('i', { limit: 1 }));
await attempt(() => store.commit([]));
console.log(JSON.stringify({ kinds, acknowledged }));
