#!/usr/bin/env node
import { writeFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { Command, CommanderError } from 'commander';
import { type Configuration, ConfigurationError, loadConfiguration } from '../config/index.js';
import { formatControllerPublicKey, loadOrCreateControllerKeyFile } from '../descriptor/index.js';
import { createLogger } from '../observability/index.js';
import { createMasterKeyFile } from '../sealing/index.js';
import { startController } from './controller.js';
import { restoreStore } from './store.js';

const EXIT_CODES = `
Exit codes:
  0  ended as it was told to, or done
  1  cannot start, or ended by a fault; the last lines of the log say why
  2  wrong usage, or a configuration that cannot be used`;

interface ConfigurationFlags {
  readonly config?: string;
  readonly set: readonly string[];
}

function collect(value: string, before: readonly string[]): readonly string[] {
  return [...before, value];
}

function configured(command: Command): Command {
  return command
    .option('--config <file>', 'the configuration (examples/controller.yaml explains it)')
    .option('--set <setting=value>', 'a setting, as log.level=debug; may be repeated', collect, []);
}

function load({ config, set }: ConfigurationFlags): Configuration {
  if (config === undefined) throw new ConfigurationError(['--config FILE is needed']);
  return loadConfiguration({ file: config, environment: process.env, flags: set });
}

/** The master key must not end up on a disk: a core dump of this process holds no memory. */
function forbidCoreDumps(): void {
  writeFileSync('/proc/self/coredump_filter', '0');
}

async function serve(flags: ConfigurationFlags): Promise<void> {
  const configuration = load(flags);
  const logger = createLogger(configuration.log.level);
  const fatal = (error: unknown): void => {
    logger.fatal({ err: error }, 'the controller ends by a fault of its own');
    process.exit(1);
  };
  process.on('uncaughtException', fatal);
  process.on('unhandledRejection', fatal);
  const controller = await startController(configuration, logger);
  logger.info({ addresses: controller.addresses, metrics: controller.metricsAddress ?? '' }, 'serving');
  let stopping = false;
  const stop = (signal: string): void => {
    if (stopping) return;
    stopping = true;
    logger.info({ signal }, 'stopping');
    controller.stop().then(() => {
      logger.info({}, 'stopped');
      process.exit(0);
    }, fatal);
  };
  process.on('SIGHUP', () => controller.reload());
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
}

const program = configured(new Command('moorage-controller'))
  .exitOverride()
  .description('The controller of Moorage: serves the API and owns every volume, snapshot and export.')
  .addHelpText(
    'after',
    `${EXIT_CODES}

Examples:
  moorage-controller init-master-key /etc/moorage/master.key
  moorage-controller --config /etc/moorage/controller.yaml
  moorage-controller --config /etc/moorage/controller.yaml --set log.level=debug
  MOORAGE_LOG__LEVEL=debug moorage-controller --config /etc/moorage/controller.yaml`,
  )
  .action(serve);

program
  .command('init-master-key')
  .argument('<file>', 'where to make it (0600); never overwritten')
  .description('make a master key')
  .action(async (file: string) => {
    const id = await createMasterKeyFile(file);
    process.stdout.write(`Made the master key ${id} in ${file}. Keep a copy of it apart from copies of the store.\n`);
  });

program
  .command('public-key')
  .description(
    'print the public part of the descriptor key, for nodes (`storage-utils trust`); makes the key if there is none',
  )
  .action(async () => {
    const keys = await loadOrCreateControllerKeyFile(load(program.opts<ConfigurationFlags>()).descriptor_key);
    for (const key of keys.all) process.stdout.write(`${formatControllerPublicKey(key.publicKey)}\n`);
  });

program
  .command('restore-store')
  .argument('<file>', 'the copy that `moorage store backup` made, of a store on SQLite or on Redis')
  .description('make the store of a copy, where there is none; with all controllers stopped')
  .action(async (file: string) => {
    await restoreStore(load(program.opts<ConfigurationFlags>()), resolve(file));
    process.stdout.write(
      'Restored. A controller that starts on it holds all changes until `moorage repair` has gone through.\n',
    );
  });

program
  .command('check-configuration')
  .description('read the configuration and say what is wrong with it')
  .action(() => {
    load(program.opts<ConfigurationFlags>());
    process.stdout.write('The configuration can be used.\n');
  });

process.umask(0o077);
forbidCoreDumps();
program.parseAsync().catch((error: unknown) => {
  // Commander has said by itself what is wrong with the usage, or printed the help.
  if (error instanceof CommanderError) process.exit(error.exitCode === 0 ? 0 : 2);
  process.stderr.write(`moorage-controller: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exit(error instanceof ConfigurationError ? 2 : 1);
});
