import { chmod, mkdir, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { repositoryDirectory } from '../../test/helpers/cluster.js';
import { CommandError, type CommandResult, execute } from '../../test/helpers/exec.js';
import type { Narration } from './narration.js';
import { builtProgram, commandDirectory, endpoint, NODE_ID, nodeKeyFile, stateDirectory, stateFile } from './places.js';

/**
 * Makes the commands for a PATH. `storage-utils` there is that of the node: it runs where the files of the development
 * libvirt host are, as an installed one would find them.
 */
export async function installCommands(): Promise<void> {
  await rm(commandDirectory, { recursive: true, force: true });
  await mkdir(commandDirectory, { recursive: true });
  for (const name of ['moorage', 'moorage-controller']) await symlink(builtProgram(name), join(commandDirectory, name));
  const wrapper = join(commandDirectory, 'storage-utils');
  await writeFile(
    wrapper,
    `#!/bin/bash
# storage-utils of the development node ${NODE_ID}.
export MOORAGE_NODE_KEY_FILE="\${MOORAGE_NODE_KEY_FILE:-${nodeKeyFile}}"
case \${1:-} in
  connect | disconnect | attach | detach | extend | doctor) set -- "$@" --lock-directory '${stateFile('locks')}' ;;
esac
exec '${join(repositoryDirectory, 'scripts/libvirt-host.sh')}' run ${NODE_ID} \\
  '${process.execPath}' '${builtProgram('storage-utils')}' "$@"
`,
  );
  await chmod(wrapper, 0o755);
}

/** Runs the commands as a user does, in the state folder, and tells which. */
export class Commands {
  readonly #narration: Narration;

  constructor(narration: Narration) {
    this.#narration = narration;
  }

  /** Runs it, shown as it was typed. @throws CommandError */
  run(program: string, ...parameters: string[]): Promise<CommandResult> {
    this.#narration.command([program, ...parameters]);
    return this.quietly(program, ...parameters);
  }

  /** Runs it with its output in a file, shown with `> file`. Only this user can read the file. @throws CommandError */
  async runInto(file: string, program: string, ...parameters: string[]): Promise<void> {
    this.#narration.command([program, ...parameters], ` > ${file}`);
    const { stdout } = await this.quietly(program, ...parameters);
    await writeFile(stateFile(file), stdout, { mode: 0o600 });
  }

  /** Runs it with `--json` and reads the answer; shown without that option. @throws CommandError */
  async ask<Answer>(program: string, ...parameters: string[]): Promise<Answer> {
    this.#narration.command([program, ...parameters]);
    return this.askQuietly<Answer>(program, ...parameters);
  }

  /** The same, not shown. @throws CommandError */
  async askQuietly<Answer>(program: string, ...parameters: string[]): Promise<Answer> {
    return JSON.parse((await this.quietly(program, ...parameters, '--json')).stdout) as Answer;
  }

  /** Runs what must be refused, and shows with what words. @throws Error when it is not refused with that exit code */
  async runRefused(exitCode: number, program: string, ...parameters: string[]): Promise<void> {
    this.#narration.command([program, ...parameters]);
    try {
      await this.quietly(program, ...parameters);
    } catch (error) {
      if (!(error instanceof CommandError) || error.exitCode !== exitCode) throw error;
      this.#narration.fact(`refused, exit code ${exitCode}: ${error.stderr.trim()}`);
      return;
    }
    throw new Error(`${program} ${parameters.join(' ')} was not refused`);
  }

  /** Runs it and says nothing. @throws CommandError */
  quietly(program: string, ...parameters: string[]): Promise<CommandResult> {
    return execute(join(commandDirectory, program), parameters, {
      workingDirectory: stateDirectory,
      environment: { MOORAGE_ENDPOINT: endpoint },
    });
  }
}
