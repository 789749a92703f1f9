// Loaded into the Node of controllers and their agents before their programs (`--import`): in an agent it writes down which
// methods of the backend protocol are served, and at the one that a trap names it stops this agent, the other agents of its
// controller, and the controller, with SIGSTOP: the request was sent and is here, its effect is not. In any other process it
// does nothing.
//
// All lies in the folder `freeze` beside the agents' lock files, which the controllers share: `trace.log` has a line
// "<role> <method> <functions with an effect>" for each step that was served to its end; `trap.json` is {"role", "method",
// "function"}, and closes once; `reached.json` is {"controller", "agents"}, their process ids. `returned` is there once the
// function before which the machine stopped has returned, and `late` once the whole step has succeeded after all.
import { AsyncLocalStorage } from 'node:async_hooks';
import { subscribe } from 'node:diagnostics_channel';
import { appendFileSync, existsSync, readdirSync, readFileSync, renameSync, unlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { keepRoot } from '../../helpers/keep-root.mjs';

const valueAfter = (flag) => {
  const position = process.argv.indexOf(flag);
  return position === -1 ? undefined : process.argv[position + 1];
};
const role = valueAfter('--role');
const lockFile = valueAfter('--lock-file');
const folder = lockFile === undefined ? '' : join(dirname(lockFile), 'freeze');
if (role !== undefined && existsSync(folder)) {
  keepRoot();
  watch();
}

function watch() {
  const step = new AsyncLocalStorage();
  subscribe('moorage:agent-step', ({ moment, method }) => {
    if (moment === 'before') {
      const current = { method, functions: new Set(), stopped: false };
      step.enterWith(current);
      current.stopped = spring(method, '');
    } else {
      const { functions, stopped } = step.getStore();
      if (stopped) writeFileSync(join(folder, 'late'), method);
      appendFileSync(join(folder, 'trace.log'), `${role} ${method} ${[...functions].join(',')}\n`);
    }
  });
  subscribe('moorage:agent-native', ({ moment, functionName }) => {
    const current = step.getStore();
    if (current === undefined || !isEffect(functionName)) return;
    if (moment === 'after') {
      if (current.stopped) writeFileSync(join(folder, 'returned'), functionName);
      return;
    }
    if (current.functions.has(functionName)) return;
    current.functions.add(functionName);
    if (spring(current.method, functionName)) current.stopped = true;
  });
}

/** Does this function change anything in Ceph? */
function isEffect(functionName) {
  return !/(read|get|stat|list|open|close|connect|create_read_op|create_write_op|release|ioctx|wait_for)/.test(
    functionName,
  );
}

/** Stops the whole machine, as it were, and goes on when it is continued. */
function spring(method, functionName) {
  const file = join(folder, 'trap.json');
  let trap;
  try {
    trap = JSON.parse(readFileSync(file, 'utf8'));
    if (trap.role !== role || trap.method !== method || trap.function !== functionName) return false;
    unlinkSync(file);
  } catch {
    // None is set, or another agent has just taken it.
    return false;
  }
  const controller = process.ppid;
  const agents = childrenOf(controller);
  for (const id of [controller, ...agents.filter((one) => one !== process.pid)]) process.kill(id, 'SIGSTOP');
  writeFileSync(join(folder, 'reached.new'), JSON.stringify({ controller, agents }));
  renameSync(join(folder, 'reached.new'), join(folder, 'reached.json'));
  process.kill(process.pid, 'SIGSTOP');
  return true;
}

function childrenOf(controller) {
  return readdirSync(`/proc/${controller}/task`).flatMap((thread) =>
    readFileSync(`/proc/${controller}/task/${thread}/children`, 'utf8').split(' ').filter(Boolean).map(Number),
  );
}
