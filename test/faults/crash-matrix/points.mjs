// Loaded into the Node of a controller and of its agents before their programs (`--import`): listens at the crash points,
// writes down which were passed, and ends processes with SIGKILL at the one that a trap names. In any other process it does
// nothing.
//
// Everything lies in the folder `points` of the system's own folder. `trace.log` gets a line for each point; `now/` holds
// the phase of each step that is under way, for the agents, who do not know it; `traps/<name>.json` are the traps that are
// set: {"point", "site", "moment", "victims"}; `reached/<name>.json` says that one was reached, and whom it ended.
//
// A point is named by what is done there, in one line: "commit <operation> <phase>: <what it writes>", "step <operation>
// <phase>: <name> (<method>)", "copy of the store", "effect <operation> <phase>: <step> <function of librbd or librados>".
import { AsyncLocalStorage } from 'node:async_hooks';
import { subscribe } from 'node:diagnostics_channel';
import { appendFileSync, mkdirSync, readdirSync, readFileSync, renameSync, unlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { keepRoot } from '../../helpers/keep-root.mjs';

// None of these processes lives long enough to get back what compiling for speed costs: it is a third of a start.
setFlagsFromString('--no-opt');

const valueAfter = (flag) => {
  const position = process.argv.indexOf(flag);
  return position === -1 ? undefined : process.argv[position + 1];
};
const role = valueAfter('--role');
const marker = role === undefined ? valueAfter('--config') : valueAfter('--lock-file');
const folder = marker === undefined ? '' : join(dirname(marker), 'points');
const site = role === undefined ? 'controller' : 'agent';

if (marker !== undefined) {
  for (const each of ['now', 'traps', 'reached']) mkdirSync(join(folder, each), { recursive: true });
  if (role === undefined) watchController();
  else {
    keepRoot();
    watchAgent();
  }
}

// --- the controller -----------------------------------------------------------------------------------------------------

function watchController() {
  /** Kind and phase of each operation, as its last commit left it. */
  const operations = new Map();
  subscribe('moorage:commit', ({ moment, writes, outcome }) => {
    // Before a commit an operation is where the last one left it; a commit that begins one has no former phase.
    const name = `commit ${nameOfCommit(writes, operations)}`;
    if (moment === 'after') {
      if (!outcome.ok) {
        write(`conflict\t${name}`);
        return;
      }
      write(`committed\t${outcome.rev}`);
    }
    pass(name, moment, 'data');
    if (moment === 'before') return;
    for (const value of operationsIn(writes)) operations.set(value.id, value);
    for (const { kind, key, value } of writes) {
      if (kind === 'put' && key.startsWith('controller/')) controllers.set(value.inc, value);
    }
  });
  subscribe('moorage:backup', ({ moment }) => pass('copy of the store', moment, 'data'));
  subscribe('moorage:step', ({ moment, role: of, method, operationId, name }) => {
    const operation = operations.get(operationId);
    const where = operation === undefined ? 'none' : `${operation.kind} ${operation.phase}`;
    if (moment === 'before') {
      write(`sent\t${of} ${method}`);
      writeFileSync(join(folder, 'now', fileOf(operationId, name, method)), where);
    }
    pass(`step ${where}: ${name} (${method})`, moment, of);
  });
}

function operationsIn(writes) {
  return writes.filter((one) => one.kind === 'put' && one.key.startsWith('op/')).map((one) => one.value);
}

function nameOfCommit(writes, operations) {
  const parts = new Set();
  let where = 'none';
  for (const { kind, key, value } of writes) {
    if (kind === 'check') continue;
    const [what] = key.split('/');
    if (what === 'op' && kind === 'put') {
      const before = operations.get(value.id);
      // At whatever phase it is just then.
      if (value.cancelRequested === true && before?.cancelRequested !== true) return `${value.kind}: op called off`;
      // Nobody began it in this life: it is another's, taken over.
      const adopted = before === undefined && !writes.some((one) => one.key.startsWith('token/'));
      where = `${value.kind} ${before?.phase ?? (adopted ? value.phase : 'begin')}`;
      parts.add(adopted ? 'op adopted' : value.state === 'running' ? `op→${value.phase}` : `op ${value.state}`);
    } else if (kind === 'delete') parts.add(`-${what}`);
    else if (what === 'controller') parts.add(nameOfController(value));
    else if (what === 'beat') parts.add('beat');
    else if (what === 'point') parts.add(`point${value.connection ? '+connection' : ''}${value.point ? '+taken' : ''}`);
    else parts.add(value?.state === undefined ? what : `${what}=${value.state}`);
  }
  return `${where}: ${[...parts].sort().join(', ')}`;
}

/** The records of controllers as their last commits left them. */
const controllers = new Map();

/** By what changes in it: which agent comes first is chance. */
function nameOfController(record) {
  const { inc, state, agents } = record;
  const before = controllers.get(inc);
  if (before === undefined || before.state !== state) return `controller ${state}`;
  const known = new Map(before.agents.map((agent) => [agent.agentId, agent]));
  const changes = agents.flatMap(({ agentId, role, dead }) => {
    const former = known.get(agentId);
    known.delete(agentId);
    if (former === undefined) return `${role} ${dead ? 'inherited' : 'admitted'}`;
    return dead === former.dead ? [] : `${role} died`;
  });
  if (known.size > 0) changes.push('dead forgotten');
  return `controller's agents: ${[...new Set(changes)].sort().join(', ') || 'the same'}`;
}

// --- an agent -----------------------------------------------------------------------------------------------------------

function watchAgent() {
  const step = new AsyncLocalStorage();
  subscribe('moorage:agent-step', ({ moment, method, operationId, name }) => {
    if (moment === 'before')
      step.enterWith({ where: phaseOf(operationId, name, method), name, method, seen: new Map() });
    const { where } = step.getStore();
    if (moment === 'before') write(`served\t${role} ${method}`);
    pass(`step ${where}: ${name} (${method})`, moment, role);
  });
  subscribe('moorage:agent-native', ({ moment, functionName }) => {
    const current = step.getStore();
    if (current === undefined || readers.test(current.method) || !isEffect(functionName)) return;
    const count = (current.seen.get(functionName) ?? 0) + (moment === 'before' ? 1 : 0);
    current.seen.set(functionName, count);
    pass(`effect ${current.where}: ${current.name} (${current.method}) ${functionName} ${count}`, moment, role);
  });
}

/** Methods that change nothing. */
const readers = /^(Get|List)/;

/** Does this function change anything in Ceph? */
function isEffect(functionName) {
  return !/(read|get|stat|list|open|close|connect|ioctx_create|wait_for)/.test(functionName);
}

function phaseOf(operationId, name, method) {
  try {
    return readFileSync(join(folder, 'now', fileOf(operationId, name, method)), 'utf8');
  } catch {
    return 'none';
  }
}

function fileOf(operationId, name, method) {
  return encodeURIComponent(`${operationId}.${name}.${method}`);
}

// --- both ---------------------------------------------------------------------------------------------------------------

function write(line) {
  appendFileSync(join(folder, 'trace.log'), `${line}\n`);
}

/** A point is passed: it is written down, and who is to end here ends. */
function pass(point, moment, agent) {
  write(`point\t${site}\t${moment}\t${point}`);
  for (const name of readdirSync(join(folder, 'traps'))) spring(name, point, moment, agent);
}

function spring(name, point, moment, agent) {
  const trap = takeTrap(name, point, moment);
  if (trap === undefined) return;
  const victims = victimsOf(trap.victims, agent);
  const reached = join(folder, 'reached', name);
  writeFileSync(`${reached}.new`, JSON.stringify({ victims, agents: agentsOf(controllerId()) }));
  renameSync(`${reached}.new`, reached);
  const others = victims.filter((id) => id !== process.pid);
  for (const id of others) kill(id);
  for (const id of others) while (isAlive(id)) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
  if (victims.includes(process.pid)) kill(process.pid);
}

function takeTrap(name, point, moment) {
  const file = join(folder, 'traps', name);
  let trap;
  try {
    trap = JSON.parse(readFileSync(file, 'utf8'));
  } catch {
    // Half written, or another process has just taken it.
    return undefined;
  }
  if (trap.point !== point || trap.moment !== moment || trap.site !== site) return undefined;
  unlinkSync(file);
  return trap;
}

function controllerId() {
  return role === undefined ? process.pid : process.ppid;
}

/** The agent before the controller: so that both are gone when the last of them is. */
function victimsOf(who, agent) {
  const controller = controllerId();
  const own = role === undefined ? agentsOf(controller).find((one) => one.role === agent)?.id : process.pid;
  if (who === 'controller') return [controller];
  // There may be none yet: somebody must end here.
  if (own === undefined) return [controller];
  const agents = [own];
  if (who === 'agent') return agents;
  return role === undefined ? [...agents, controller] : [controller, ...agents];
}

function agentsOf(controller) {
  const found = [];
  for (const thread of readdirSync(`/proc/${controller}/task`)) {
    const children = readFileSync(`/proc/${controller}/task/${thread}/children`, 'utf8');
    for (const id of children.split(' ').filter(Boolean).map(Number)) {
      const commandLine = readFileSync(`/proc/${id}/cmdline`, 'utf8').split('\0');
      const position = commandLine.indexOf('--role');
      if (position !== -1) found.push({ id, role: commandLine[position + 1] });
    }
  }
  return found;
}

function kill(id) {
  try {
    process.kill(id, 'SIGKILL');
  } catch (error) {
    if (error.code !== 'ESRCH') throw error;
  }
}

/** A zombie is dead, once its last thread is: until then it holds its files. Its parent may be the one that waits here. */
function isAlive(id) {
  try {
    if (!/^\d+ \(.*\) [ZX]/.test(readFileSync(`/proc/${id}/stat`, 'utf8'))) return true;
    return readdirSync(`/proc/${id}/task`).length > 1;
  } catch {
    return false;
  }
}
