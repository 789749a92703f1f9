import { Command, InvalidArgumentError, Option } from 'commander';

/** What an agent is started with. */
export interface AgentOptions {
  readonly role: 'data' | 'fence';
  /** Path of the unix socket to listen on. */
  readonly socket: string;
  readonly cephConf: string;
  /** The cephx user without "client.". */
  readonly user: string;
  /** Path of that user's keyring. */
  readonly keyring: string;
  /** Path of the file whose lock is held for the agent's life. */
  readonly lockFile: string;
  /** Threads that calls into librbd may take: UV_THREADPOOL_SIZE of this process must be at least this. */
  readonly threads: number;
  /** Steps of one pool that may run at once. */
  readonly lane: number;
  /** Steps of one pool that may wait. */
  readonly laneQueue: number;
  /** How long one request to a server of the cluster may take, in seconds. */
  readonly osdTimeoutSeconds: number;
  readonly logLevel: string;
}

const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'];

/**
 * Reads the command line.
 * @param threadPoolSize UV_THREADPOOL_SIZE as the process was started with it
 * @throws CommanderError for wrong options (exitOverride), Error for too few threads
 */
export function parseAgentOptions(argv: readonly string[], threadPoolSize: string | undefined): AgentOptions {
  const available = Number(threadPoolSize ?? '4');
  const command = new Command('moorage-agent-rbd')
    .description(
      'Agent of the backend "rbd". Started by the controller, which is to be its parent and holds its standard input.',
    )
    .exitOverride()
    .addOption(new Option('--role <role>', 'what it does').choices(['data', 'fence']).makeOptionMandatory())
    .requiredOption('--socket <path>', 'unix socket to listen on; its folder must be 0700')
    .requiredOption('--ceph-conf <file>', "the cluster's ceph.conf")
    .requiredOption('--user <name>', 'cephx user, without "client."')
    .requiredOption('--keyring <file>', "that user's keyring")
    .requiredOption('--lock-file <path>', 'locked for the life of the agent')
    .option('--threads <n>', 'threads for calls into librbd; UV_THREADPOOL_SIZE must allow them', wholeNumber(4, 1024))
    .option('--lane <n>', 'steps of one pool that run at once', wholeNumber(1, 512))
    .option('--lane-queue <n>', 'steps of one pool that wait', wholeNumber(0, 100_000), 1000)
    .option('--osd-timeout-seconds <n>', 'longest wait for one answer of the cluster', wholeNumber(1, 600), 30)
    .addOption(new Option('--log-level <level>', 'least level that is logged').choices(LOG_LEVELS).default('info'));
  command.parse(argv, { from: 'user' });
  const options = command.opts<Omit<AgentOptions, 'threads' | 'lane'> & { threads?: number; lane?: number }>();
  const threads = options.threads ?? available;
  if (!(available >= threads)) {
    throw new Error(
      `--threads ${threads}: this process was started with UV_THREADPOOL_SIZE=${threadPoolSize ?? '(unset: 4)'}; set it to at least that`,
    );
  }
  // Steps take one thread, a few for a moment; a third each keeps one for two other pools that are stuck.
  const lane = options.lane ?? Math.max(1, Math.min(32, Math.floor(threads / 3)));
  if (lane > threads) throw new Error(`--lane ${lane}: more than the ${threads} threads there are`);
  return { ...options, threads, lane };
}

function wholeNumber(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^[0-9]+$/.test(text) || value < least || value > most) {
      throw new InvalidArgumentError(`must be a whole number from ${least} to ${most}`);
    }
    return value;
  };
}
