/** The command `moorage`: the API for people and scripts. docs/cli.md tells how it is used. */
import { Command, CommanderError } from 'commander';
import { addAdminCommands } from './commands/admin.js';
import { addExportCommands } from './commands/export.js';
import { addNodeCommands } from './commands/node.js';
import { addOperationCommands } from './commands/operation.js';
import { addPkiCommands } from './commands/pki.js';
import { addPoolCommands } from './commands/pool.js';
import { addSnapshotCommands } from './commands/snapshot.js';
import { addTreeCommand } from './commands/tree.js';
import { addVolumeCommands } from './commands/volume.js';
import { addWatchCommand } from './commands/watch.js';
import type { CommandContext } from './context.js';
import { EXIT, EXIT_CODE_HELP, exitCodeOf, sentenceOf } from './exit-codes.js';

export type { AuthorityTools, CommandContext, PoolInitialisation, PoolInitialisationResult } from './context.js';

/**
 * Runs the command.
 * @param argv the parameters, without the program
 * @returns the exit code; never rejects
 */
export async function runCommand(argv: readonly string[], context: CommandContext): Promise<number> {
  try {
    await buildProgram(context).parseAsync([...argv], { from: 'user' });
    return EXIT.done;
  } catch (error) {
    // Commander has said by itself what is wrong with the usage.
    if (!(error instanceof CommanderError)) context.stderr.write(`moorage: ${sentenceOf(error)}\n`);
    return exitCodeOf(error);
  }
}

function buildProgram(context: CommandContext): Command {
  const program = new Command('moorage')
    .description('Volumes for virtual machines: the administrator’s command.')
    .addHelpText(
      'after',
      `
Examples:
  moorage volume create --size 10GiB --name db
  moorage snapshot create vol-0123456789abcdef0
  moorage volume create --from-snapshot snap-0123456789abcdef0
  moorage export vol-0123456789abcdef0 --node nc-a > descriptor
  moorage unexport vol-0123456789abcdef0 --node nc-a
  moorage tree
${EXIT_CODE_HELP}`,
    )
    .helpCommand(false);
  addVolumeCommands(program, context);
  addSnapshotCommands(program, context);
  addExportCommands(program, context);
  addNodeCommands(program, context);
  addPoolCommands(program, context);
  addPkiCommands(program, context);
  addOperationCommands(program, context);
  addTreeCommand(program, context);
  addWatchCommand(program, context);
  addAdminCommands(program, context);
  for (const command of everyCommand(program)) {
    command.exitOverride().configureOutput({
      writeOut: (text) => context.stdout.write(text),
      writeErr: (text) => context.stderr.write(text),
    });
  }
  return program;
}

function everyCommand(command: Command): Command[] {
  return [command, ...command.commands.flatMap(everyCommand)];
}
