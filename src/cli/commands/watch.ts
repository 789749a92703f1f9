import { type Command, InvalidArgumentError, Option } from 'commander';
import type { WatchEvent } from '../../client/index.js';
import { type CommandContext, connecting, withSession } from '../context.js';
import { printable, toJson } from '../output.js';
import type { CommonFlags, Session } from '../session.js';
import { formatSize, parseDuration, shortState } from '../values.js';

const KINDS = ['volume', 'snapshot', 'export', 'node', 'pool', 'operation'] as const;
type Kind = (typeof KINDS)[number];

interface WatchFlags extends Omit<CommonFlags, 'timeout'> {
  readonly type: Kind[];
  readonly pool: string;
  readonly resume: string;
  readonly for?: number;
}

/** `moorage watch` */
export function addWatchCommand(program: Command, context: CommandContext): void {
  connecting(
    program.command('watch').description('show what there is, then what changes, until interrupted'),
    `moorage watch
     moorage watch --type volume --type export --pool ssd --json`,
  )
    .addOption(
      new Option('--type <kind>', 'only this kind of resource; may be repeated')
        .choices(KINDS)
        .argParser((text: string, before: Kind[]) => {
          const kind = KINDS.find((each) => each === text);
          if (kind === undefined) throw new InvalidArgumentError(`must be one of ${KINDS.join(', ')}`);
          return [...before, kind];
        })
        .default([]),
    )
    .option('--pool <name>', 'only what belongs to this pool', '')
    .option('--resume <token>', 'go on after the message that had this resume token (--json shows them)', '')
    .option('--for <duration>', 'how long to watch', parseDuration)
    .action(async (flags: WatchFlags) =>
      withSession(context, { ...flags, timeout: '60s' }, (session) => watch(session, context, flags)),
    );
}

async function watch(session: Session, { stdout }: CommandContext, flags: WatchFlags): Promise<void> {
  const request = {
    types: flags.type.map((kind) => `RESOURCE_TYPE_${kind.toUpperCase() as Uppercase<Kind>}` as const),
    poolId: flags.pool,
    resumeToken: flags.resume,
  };
  const signal = flags.for === undefined ? undefined : AbortSignal.timeout(flags.for * 1000);
  for await (const event of session.client.watch(request, signal && { signal })) {
    if (flags.json) stdout.write(`${JSON.stringify(toJson(event))}\n`);
    else if (event.synced !== undefined && event.synced !== null)
      session.note('that is all there is; now what changes');
    else stdout.write(describe(event));
  }
}

/** One line about an event; empty for what says nothing to people. */
function describe({ volume, snapshot, export: item, node, pool, operation, gone }: WatchEvent): string {
  if (volume)
    return line('volume', volume.id, shortState(volume.state), formatSize(volume.sizeBytes), volume.displayName);
  if (snapshot)
    return line('snapshot', snapshot.id, shortState(snapshot.state), snapshot.volumeId, snapshot.displayName);
  if (item) return line('export', item.id, shortState(item.state), item.volumeId, item.nodeId);
  if (node) return line('node', node.id, 'registered', ...node.storageAddresses);
  if (pool) return line('pool', pool.id, 'known', `${pool.undeleteWindowSeconds} s`);
  if (operation) {
    const progress = operation.progressPercent > 0 ? `${operation.progressPercent}%` : '';
    return line('operation', operation.id, shortState(operation.state), operation.kind, operation.resourceId, progress);
  }
  if (gone) return line(shortType(gone.type), gone.id, 'gone', gone.reason);
  return '';
}

function shortType(type: string): string {
  return type.replace('RESOURCE_TYPE_', '').toLowerCase();
}

function line(kind: string, id: string, state: string, ...more: readonly string[]): string {
  const words = [kind.padEnd(9), id, state, ...more].filter((word) => word !== '');
  return `${words.map(printable).join('  ')}\n`;
}
