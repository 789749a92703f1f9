#!/usr/bin/env node
import { dirname, join } from 'node:path';
import { CommanderError } from 'commander';
import pino from 'pino';
import { serveAgent } from '../agents/rbd/agent.js';
import { connectAgent } from '../agents/rbd/agent-context.js';
import { dataSteps } from '../agents/rbd/data/index.js';
import { enterEmptyRoot } from '../agents/rbd/librbd/empty-root.js';
import { forbidDumps, lockForLife } from '../agents/rbd/librbd/process.js';
import { type AgentOptions, parseAgentOptions } from '../agents/rbd/options.js';
import { serveSteps } from '../agents/rbd/steps.js';

/** Wrong command line, lock held, cluster not reachable. */
const EXIT_START = 2;
/** The cluster refuses this agent for good. */
const EXIT_CUT_OFF = 3;

// Whoever started it holds the other end of standard input. When it dies, this dies at once, whatever librbd is doing.
function dieWithParent(): void {
  const die = (): void => {
    process.kill(process.pid, 'SIGKILL');
  };
  process.stdin.on('end', die);
  process.stdin.on('close', die);
  process.stdin.on('error', die);
  process.stdin.resume();
}

async function run(options: AgentOptions): Promise<void> {
  const logger = pino(
    { name: `agent-rbd-${options.role}`, level: options.logLevel },
    pino.destination({ fd: 2, sync: true }),
  );
  lockForLife(options.lockFile);
  forbidDumps();
  const cluster = await connectAgent({
    configurationFile: options.cephConf,
    user: options.user,
    keyringFile: options.keyring,
    requestTimeoutSeconds: options.osdTimeoutSeconds,
  });
  const ending = new AbortController();
  const steps =
    options.role === 'data'
      ? dataSteps(cluster, ending.signal)
      : (await import('../agents/rbd/fence/index.js')).fenceSteps(cluster);
  const agent = await serveAgent(
    options,
    cluster,
    (stepOptions) => serveSteps(steps as never, stepOptions),
    logger,
    () => {
      logger.fatal('the cluster has cut this agent off; it ends');
      process.exit(EXIT_CUT_OFF);
    },
  );
  // From here on nothing is read from a file: a forged header that names one finds none.
  const confined = enterEmptyRoot(join(dirname(options.socket), `root-${options.role}`));
  let stopping = false;
  const stop = (): void => {
    if (stopping) return;
    stopping = true;
    ending.abort();
    agent.stop().then(
      () => process.exit(0),
      (error: unknown) => {
        logger.error({ err: error }, 'could not stop in good order');
        process.exit(1);
      },
    );
  };
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
  if (!confined)
    logger.warn('this agent could not enter an empty root: give it CAP_SYS_CHROOT, or run the controller as root');
  logger.info({ socket: options.socket, addresses: cluster.shared.addresses(), confined }, 'serving');
}

process.umask(0o077);
dieWithParent();
try {
  await run(parseAgentOptions(process.argv.slice(2), process.env.UV_THREADPOOL_SIZE));
} catch (error) {
  if (error instanceof CommanderError) process.exit(error.exitCode === 0 ? 0 : EXIT_START);
  const cause = error instanceof Error && error.cause instanceof Error ? `: ${error.cause.message}` : '';
  process.stderr.write(`moorage-agent-rbd: ${error instanceof Error ? error.message : String(error)}${cause}\n`);
  process.exit(EXIT_START);
}
