// Loaded into the Node of a controller and of its agents before their programs (`--import`), where a test plants a bug: one
// place of one file of the program is another text, as `points/planted.json` of the system's folder says.
import { existsSync, readFileSync } from 'node:fs';
import { register } from 'node:module';
import { dirname, join } from 'node:path';

const flag = process.argv.includes('--role') ? '--lock-file' : '--config';
const marker = process.argv[process.argv.indexOf(flag) + 1] ?? '';
const file = join(dirname(marker), 'points', 'planted.json');
if (process.argv.includes(flag) && existsSync(file)) {
  register('./planted-loader.mjs', import.meta.url, { data: JSON.parse(readFileSync(file, 'utf8')) });
}
