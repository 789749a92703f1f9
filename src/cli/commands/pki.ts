import { type Command, InvalidArgumentError, Option } from 'commander';
import type { CertificateHolder, CommandContext } from '../context.js';
import { CommandFailure, EXIT, EXIT_CODE_HELP } from '../exit-codes.js';
import { collect, parseDuration } from '../values.js';

const DEFAULT_DIRECTORY = '/etc/moorage/pki';
const ROLES = ['admin', 'node', 'reader'] as const;

interface InitFlags {
  readonly directory: string;
  readonly name: string;
  readonly lifetime: number;
}

interface IssueFlags {
  readonly directory: string;
  readonly output?: string;
  readonly role?: (typeof ROLES)[number];
  readonly server?: boolean;
  readonly host: string[];
  readonly lifetime: number;
}

/** `moorage pki …` */
export function addPkiCommands(program: Command, context: CommandContext): void {
  const group = program
    .command('pki')
    .description('certificates, for those who have no authority of their own (the controller is not asked)');

  local(group.command('init').description('make a certificate authority'), 'moorage pki init --directory pki')
    .option('--name <text>', 'its name', 'Moorage')
    .option('--lifetime <duration>', 'how long its certificate is good', parseDuration, parseDuration('3650d'))
    .action(async (flags: InitFlags) => {
      const made = await (await context.authority()).initialise({
        directory: flags.directory,
        name: flags.name,
        lifetimeMilliseconds: flags.lifetime * 1000,
      });
      context.stdout.write(`${made.certificate}\n${made.key}\n`);
      context.stderr.write('whoever has the key makes certificates for every role: keep it apart, and a copy of it\n');
    });

  local(
    group
      .command('issue')
      .description('make a key and a certificate: for a caller (--role), or for a controller (--server)')
      .argument('<name>', 'the name of the caller, or of the server', parseName),
    `moorage pki issue alice --role admin --directory pki
     moorage pki issue controller --server --host controller.example.net --host 192.0.2.5 --directory pki`,
  )
    .addOption(new Option('--role <role>', 'what the caller may do').choices(ROLES).conflicts('server'))
    .option('--server', 'for a controller')
    .option('--host <name-or-address>', 'how the controller is reached; may be repeated', collect, [])
    .option('--lifetime <duration>', 'how long it is good', parseDuration, parseDuration('365d'))
    .option(
      '--output <folder>',
      'where NAME.pem and NAME.key (0600) are written; in the folder of the authority unless given',
    )
    .action(async (name: string, flags: IssueFlags) => {
      const made = await (await context.authority()).issue({
        directory: flags.directory,
        output: flags.output ?? flags.directory,
        fileName: name,
        holder: holderOf(name, flags),
        lifetimeMilliseconds: flags.lifetime * 1000,
      });
      context.stdout.write(`${made.certificate}\n${made.key}\n`);
    });
}

function local(command: Command, example: string): Command {
  const indented = example.replace(/\n\s*/g, '\n  ');
  return command
    .option('--directory <folder>', 'the folder of the authority', DEFAULT_DIRECTORY)
    .addHelpText('after', `\nExamples:\n  ${indented}\n${EXIT_CODE_HELP}`);
}

function holderOf(name: string, { role, server, host }: IssueFlags): CertificateHolder {
  if (server === true) {
    if (host.length === 0) throw new CommandFailure(EXIT.usage, 'give --host: how the controller is reached');
    return { kind: 'server', hosts: host };
  }
  if (role === undefined) throw new CommandFailure(EXIT.usage, 'give --role (admin, node or reader) or --server');
  return { kind: 'caller', name, role };
}

/** It becomes a file's name, and the subject that the controller knows the caller by. */
function parseName(text: string): string {
  if (/^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$/.test(text)) return text;
  throw new InvalidArgumentError('must be 1 to 64 letters, digits, ".", "_", "@" and "-"');
}
