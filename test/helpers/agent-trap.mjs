// Loaded into the Node of an agent before its program (`--import`): notes when calls of librbd begin and end, and ends the
// process with SIGKILL inside one of them when a trap is set for it. In any other process it does nothing.
//
// The folder of the agent's lock file holds `trap.json`, {"<call>": <milliseconds after its begin>, …}; a trap goes when a
// call meets it. `calls.log` gets a line for each event: "<event> <call> <milliseconds>", the events being "ended", "killed"
// and "missed" (the call ended before the trap closed). Calls are named by function and by what they work on.
import { appendFileSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import koffi from 'koffi';
import { keepRoot } from './keep-root.mjs';

/** Is this the name of a volume's point in time, which lives until the snapshot's image is made of it? */
const isPoint = (name) => String(name).startsWith('pt-');

const traced = new Map([
  ['rbd_create4', () => 'create'],
  ['rbd_clone3', (values) => (isPoint(values[2]) ? 'snapshot-clone' : 'clone')],
  ['rbd_flush', () => 'flush'],
  ['rbd_snap_create', (values) => (isPoint(values[1]) ? 'snapshot' : 'snapshot-base')],
  ['rbd_snap_remove', () => 'remove_snap'],
  ['rbd_flatten_with_progress', () => 'flatten'],
]);

const argumentAfter = (flag) => process.argv[process.argv.indexOf(flag) + 1];

if (process.argv.includes('--role') && argumentAfter('--role') === 'data') {
  const folder = dirname(argumentAfter('--lock-file'));
  keepRoot();
  const load = koffi.load;
  koffi.load = (...libraries) => {
    const library = load(...libraries);
    // The handle itself is read-only.
    return {
      func: (prototype) => trace(folder, prototype, library.func(prototype)),
      symbol: (...names) => library.symbol(...names),
    };
  };
}

function trace(folder, prototype, native) {
  const nameOf = traced.get(/(\w+)\(/.exec(prototype)?.[1] ?? '');
  if (nameOf === undefined) return native;
  const wrapped = (...values) => native(...values);
  wrapped.async = (...values) => {
    const done = values.pop();
    const ended = begin(folder, nameOf(values));
    native.async(...values, (...outcome) => {
      ended();
      done(...outcome);
    });
  };
  return wrapped;
}

function begin(folder, call) {
  const began = performance.now();
  const note = (event) =>
    appendFileSync(join(folder, 'calls.log'), `${event} ${call} ${(performance.now() - began).toFixed(2)}\n`);
  const delay = takeTrap(folder, call);
  let met = delay !== undefined;
  // Timers count whole milliseconds, and the calls are short: the last two are waited for round by round of the loop, so
  // that a call that ends meanwhile is heard of.
  const close = () => {
    if (!met) return;
    if (performance.now() - began < delay) {
      setImmediate(close);
      return;
    }
    note('killed');
    process.kill(process.pid, 'SIGKILL');
  };
  const timer = delay === undefined ? undefined : delay < 3 ? setImmediate(close) : setTimeout(close, delay - 2);
  return () => {
    clearTimeout(timer);
    clearImmediate(timer);
    note(met ? 'missed' : 'ended');
    met = false;
  };
}

function takeTrap(folder, call) {
  const file = join(folder, 'trap.json');
  let traps;
  try {
    traps = JSON.parse(readFileSync(file, 'utf8'));
  } catch {
    return undefined;
  }
  const delay = traps[call];
  if (delay === undefined) return undefined;
  delete traps[call];
  writeFileSync(`${file}.new`, JSON.stringify(traps));
  renameSync(`${file}.new`, file);
  return delay;
}
