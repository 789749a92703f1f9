import { once } from 'node:events';
import { StoreError } from '../../src/core/ports/store.js';
import { openSqliteStore } from '../../src/store/sqlite/index.js';

/* A process that opens the store of its argument, says what came of it, and keeps it until its stdin ends. */
const [path = ''] = process.argv.slice(2);
try {
  await openSqliteStore({ path });
  console.log('open');
} catch (error) {
  console.log(error instanceof StoreError ? error.kind : error);
}
process.stdin.resume();
await once(process.stdin, 'end');
