import { type ChildProcess, spawn } from 'node:child_process';
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { extname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { AgentRole, AgentSettings, ClusterSettings } from './settings.js';

/** Most bytes of a unix socket's path (Linux' sun_path less its final NUL). */
const SOCKET_PATH_BYTES = 107;
const SOCKET_DIRECTORY_PREFIX = 'agent-';

/** One running agent process. */
export interface AgentProcess {
  readonly processId: number | undefined;
  /** Where it listens, as gRPC spells it: "unix:/…". */
  readonly target: string;
  /** Resolves with how it ended, once it is reaped; never rejects. */
  readonly exited: Promise<string>;
  /** Ends it, frozen or not; resolves once it is reaped and its socket is gone. Again: the same. */
  kill(): Promise<void>;
}

/** Starts agent processes. */
export interface AgentLauncher {
  /**
   * @param onLine takes what the agent writes for its log, line by line
   * @throws Error when it cannot be started at all
   */
  launch(cluster: ClusterSettings, role: AgentRole, onLine: (line: string) => void): Promise<AgentProcess>;
}

/** Starts `moorage-agent-rbd` as a child process, from beside this file. */
export function processLauncher(settings: AgentSettings): AgentLauncher {
  return {
    async launch(cluster, role, onLine) {
      const directory = await makeSocketDirectory(settings.runDirectory);
      try {
        await mkdir(settings.stateDirectory, { recursive: true, mode: 0o700 });
        const socket = join(directory, `${role}.sock`);
        if (Buffer.byteLength(socket) > SOCKET_PATH_BYTES) {
          throw new Error(
            `the run directory ${settings.runDirectory} is too long for a unix socket (${SOCKET_PATH_BYTES} bytes with the socket's name): set a shorter one, as /run/moorage`,
          );
        }
        return watchProcess(startProcess(settings, cluster, role, socket), socket, directory, onLine);
      } catch (error) {
        await rm(directory, { recursive: true, force: true });
        throw error;
      }
    },
  };
}

/** Removes what controllers that were killed left in the run directory. */
export async function removeStaleSockets(runDirectory: string): Promise<void> {
  await mkdir(runDirectory, { recursive: true, mode: 0o700 });
  const pattern = new RegExp(`^${SOCKET_DIRECTORY_PREFIX}([0-9]+)-`);
  for (const name of await readdir(runDirectory)) {
    const owner = pattern.exec(name)?.[1];
    if (owner === undefined || isAlive(Number(owner))) continue;
    await rm(join(runDirectory, name), { recursive: true, force: true });
  }
}

async function makeSocketDirectory(runDirectory: string): Promise<string> {
  await mkdir(runDirectory, { recursive: true, mode: 0o700 });
  return mkdtemp(join(runDirectory, `${SOCKET_DIRECTORY_PREFIX}${process.pid}-`));
}

function isAlive(processId: number): boolean {
  try {
    process.kill(processId, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ESRCH';
  }
}

function startProcess(
  settings: AgentSettings,
  cluster: ClusterSettings,
  role: AgentRole,
  socket: string,
): ChildProcess {
  const [user, keyring] =
    role === 'data' ? [cluster.dataUser, cluster.dataKeyringFile] : [cluster.fenceUser, cluster.fenceKeyringFile];
  const script = fileURLToPath(new URL(`../bin/moorage-agent-rbd${extname(import.meta.url)}`, import.meta.url));
  const options: Readonly<Record<string, string | number>> = {
    role,
    socket,
    'ceph-conf': cluster.configurationFile,
    user,
    keyring,
    'lock-file': join(settings.stateDirectory, `agent-${cluster.name}-${role}.lock`),
    threads: settings.threads,
    lane: settings.lane,
    'lane-queue': settings.laneQueue,
    'osd-timeout-seconds': settings.osdTimeoutSeconds,
  };
  const flags = Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)]);
  return spawn(process.execPath, [...nodeArguments(script), script, ...flags], {
    // Its standard input is its lifeline: it ends when this process does, whatever ends this.
    stdio: ['pipe', 'ignore', 'pipe'],
    env: agentEnvironment(settings.threads),
    // A Ctrl-C at the terminal is for the controller, which lets its operations end first.
    detached: true,
  });
}

/** The agent gets no more of the environment than it needs: neither secrets nor what would change Ceph's configuration. */
function agentEnvironment(threads: number): NodeJS.ProcessEnv {
  const kept = ['PATH', 'LANG', 'LC_ALL', 'TZ', 'TMPDIR', 'NODE_V8_COVERAGE', 'TSX_TSCONFIG_PATH'];
  const environment: NodeJS.ProcessEnv = {};
  for (const name of kept) if (process.env[name] !== undefined) environment[name] = process.env[name];
  // Read by libuv when the process starts. Some more than Ceph's calls take: files and names are looked up here too.
  environment.UV_THREADPOOL_SIZE = String(threads + 8);
  return environment;
}

/** What this process' Node was told and the agent's must be told too; nothing about debuggers, test runners or inline code. */
export function nodeArguments(script: string, given: readonly string[] = process.execArgv): string[] {
  const withValue = new Set(['--import', '--require', '-r', '--loader', '--experimental-loader', '--conditions', '-C']);
  const kept: string[] = [];
  for (let index = 0; index < given.length; index += 1) {
    const argument = given[index] as string;
    if (withValue.has(argument)) {
      const value = given[index + 1];
      index += 1;
      if (value !== undefined) kept.push(argument, value);
    } else if (
      /^--(import|require|loader|experimental-loader|conditions|enable-source-maps|max-old-space-size)\b/.test(argument)
    ) {
      kept.push(argument);
    }
  }
  // From the sources, under a test runner that loaded the TypeScript loader by itself.
  if (script.endsWith('.ts') && !kept.some((each) => each.includes('tsx'))) {
    kept.push('--import', pathToFileURL(createRequire(import.meta.url).resolve('tsx')).href);
  }
  return kept;
}

function watchProcess(
  child: ChildProcess,
  socket: string,
  directory: string,
  onLine: (line: string) => void,
): AgentProcess {
  // Closing its end of the pipe gives EPIPE here; how the process ended is told by `exited`.
  child.stdin?.on('error', () => {});
  if (child.stderr !== null) createInterface({ input: child.stderr }).on('line', onLine);
  const exited = new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(`it could not be started: ${error.message}`));
    child.once('exit', (code, signal) => resolve(signal === null ? `exit code ${code}` : `signal ${signal}`));
  });
  return {
    processId: child.pid,
    target: `unix:${socket}`,
    exited,
    async kill() {
      child.kill('SIGKILL');
      await exited;
      child.stdin?.destroy();
      await rm(directory, { recursive: true, force: true });
    },
  };
}
