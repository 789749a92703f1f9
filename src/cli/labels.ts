import type { Command } from 'commander';
import { CommandFailure, EXIT } from './exit-codes.js';
import { collect, collectTag } from './values.js';

/** The options of every update. */
export interface LabelFlags {
  readonly tag: Readonly<Record<string, string>>;
  readonly untag: readonly string[];
}

/** What every update sends. */
export interface UpdateFields {
  readonly updateMask: { readonly paths: string[] };
  readonly tags: Record<string, string>;
}

/** Adds the options of every update. */
export function labelling(command: Command): Command {
  return command
    .option('--tag <key=value>', 'set a tag, the others stay; may be repeated', collectTag, {})
    .option('--untag <key>', 'remove a tag; may be repeated', collect, []);
}

/**
 * The mask and the tags of an update: single tags, so that nobody else's change of another one is lost.
 * @param fields the other fields that were given, as the API spells them
 * @throws CommandFailure when there is nothing to change
 */
export function updateFields(flags: LabelFlags, fields: readonly string[]): UpdateFields {
  const both = flags.untag.find((key) => Object.hasOwn(flags.tag, key));
  if (both !== undefined) throw new CommandFailure(EXIT.usage, `--tag and --untag both name ${both}`);
  if (flags.untag.includes('')) throw new CommandFailure(EXIT.usage, '--untag must name a tag');
  const paths = [...fields, ...[...Object.keys(flags.tag), ...flags.untag].map((key) => `tags.${key}`)];
  if (paths.length === 0) throw new CommandFailure(EXIT.usage, 'say what to change; --help shows the options');
  return { updateMask: { paths }, tags: { ...flags.tag } };
}
