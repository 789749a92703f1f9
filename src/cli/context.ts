import { type Command, Option } from 'commander';
import { EXIT_CODE_HELP } from './exit-codes.js';
import type { Streams } from './output.js';
import { type CommonFlags, DEFAULT_ENDPOINT, Session } from './session.js';

/** What `moorage pool init` is told; done by whoever composes the command (it needs librados). */
export interface PoolInitialisation {
  readonly configurationFile: string;
  readonly adminUser: string;
  readonly adminKeyring: string;
  readonly cephPool: string;
  readonly dataUser: string;
  readonly dataKeyringFile: string;
  readonly fenceUser: string;
  readonly fenceKeyringFile: string;
}

/** What it found and did. */
export interface PoolInitialisationResult {
  readonly fsid: string;
  readonly pools: readonly string[];
  readonly usersMade: readonly string[];
}

/** Whom a certificate is for. */
export type CertificateHolder =
  | { readonly kind: 'server'; readonly hosts: readonly string[] }
  | { readonly kind: 'caller'; readonly name: string; readonly role: 'admin' | 'node' | 'reader' };

/** Files that were written. */
export interface CertificateFiles {
  readonly certificate: string;
  readonly key: string;
}

/** What `moorage pki` does; done by whoever composes the command. Never writes over a file. */
export interface AuthorityTools {
  initialise(wish: {
    readonly directory: string;
    readonly name: string;
    readonly lifetimeMilliseconds: number;
  }): Promise<CertificateFiles>;
  issue(wish: {
    readonly directory: string;
    readonly output: string;
    readonly fileName: string;
    readonly holder: CertificateHolder;
    readonly lifetimeMilliseconds: number;
  }): Promise<CertificateFiles>;
}

/** What the command needs of its surroundings. */
export interface CommandContext extends Streams {
  readonly initialisePool: (settings: PoolInitialisation) => Promise<PoolInitialisationResult>;
  readonly authority: () => Promise<AuthorityTools>;
}

/** Adds the options of every command that calls the controller and ends when that is done. */
export function calling(command: Command, example: string): Command {
  return connecting(command, example).option('--timeout <duration>', 'how long to wait until it is done', '60s');
}

/** Adds the options of every command that calls the controller. */
export function connecting(command: Command, example: string): Command {
  return command
    .addOption(
      new Option('--endpoint <address>', 'unix:/path, host:port or [address]:port; several with commas')
        .env('MOORAGE_ENDPOINT')
        .default(DEFAULT_ENDPOINT),
    )
    .addOption(new Option('--ca <file>', "the controller's certificate authority (PEM)").env('MOORAGE_CA'))
    .addOption(new Option('--cert <file>', "the caller's certificate (PEM)").env('MOORAGE_CERTIFICATE'))
    .addOption(new Option('--key <file>', "the caller's key (PEM)").env('MOORAGE_KEY'))
    .option('--json', 'print JSON on stdout')
    .addHelpText('after', `\nExamples:\n${indent(example)}\n${EXIT_CODE_HELP}`);
}

/** Runs an action with a session, and closes it. */
export async function withSession(
  context: CommandContext,
  flags: CommonFlags,
  action: (session: Session) => Promise<void>,
): Promise<void> {
  const session = new Session(flags, context);
  try {
    await action(session);
  } finally {
    session.close();
  }
}

function indent(text: string): string {
  return text
    .trim()
    .split('\n')
    .map((line) => `  ${line.trim()}`)
    .join('\n');
}
