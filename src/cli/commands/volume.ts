import type { Command } from 'commander';
import { pages, type Volume } from '../../client/index.js';
import { type CommandContext, calling, withSession } from '../context.js';
import { CommandFailure, EXIT } from '../exit-codes.js';
import { type LabelFlags, labelling, updateFields } from '../labels.js';
import { formatTags, formatTime, properties, table } from '../output.js';
import type { CommonFlags, Session } from '../session.js';
import { collectTag, formatSize, parseSize, shortState, stateName } from '../values.js';

const STATES = [
  'VOLUME_STATE_CREATING',
  'VOLUME_STATE_AVAILABLE',
  'VOLUME_STATE_DELETING',
  'VOLUME_STATE_DELETED',
  'VOLUME_STATE_PURGING',
  'VOLUME_STATE_ERROR',
] as const;

interface MutationFlags extends CommonFlags {
  readonly token?: string;
  readonly validateOnly?: boolean;
}

/** Options of every change. */
export function changing(command: Command): Command {
  return command
    .option('--token <text>', 'client token: the same one makes it happen once, however often it is run')
    .option('--validate-only', 'check everything and change nothing');
}

/** The fields of every change. */
export function mutation(flags: MutationFlags): { clientToken?: string; validateOnly: boolean } {
  return {
    validateOnly: flags.validateOnly ?? false,
    ...(flags.token !== undefined && { clientToken: flags.token }),
  };
}

/** `moorage volume …` */
export function addVolumeCommands(program: Command, context: CommandContext): void {
  const group = program.command('volume').description('volumes: block devices');

  changing(
    calling(
      group.command('create').description('make a volume, empty or from a snapshot'),
      `moorage volume create --size 10GiB --name db
       moorage volume create --from-snapshot snap-0123456789abcdef0 --pool ssd`,
    ),
  )
    .option('--size <size>', 'its size, as 10GiB; from a snapshot: that of the snapshot unless given', parseSize)
    .option('--name <text>', 'a name for people', '')
    .option('--pool <name>', 'the pool; needed when there are several')
    .option('--from-snapshot <id>', 'the snapshot to make it from', '')
    .option('--tag <key=value>', 'a tag; may be repeated', collectTag, {})
    .option('--multi-attach', 'let more than one node hold it at once')
    .action(async (flags: CreateFlags) => withSession(context, flags, (session) => create(session, flags)));

  calling(
    group.command('get').description('show a volume').argument('<volume>'),
    'moorage volume get vol-0123456789abcdef0',
  ).action(async (volumeId: string, flags: CommonFlags) =>
    withSession(context, flags, async (session) => {
      const { volume } = await session.client.getVolume({ volumeId });
      session.show(volume, describeVolume(volume));
    }),
  );

  calling(
    group.command('list').description('list volumes, oldest first'),
    `moorage volume list --pool ssd
     moorage volume list --state deleted --tag tier=gold --json`,
  )
    .option('--pool <name>', 'only volumes of this pool', '')
    .option('--from-snapshot <id>', 'only volumes made from this snapshot', '')
    .option('--state <state>', 'only volumes in this state; may be repeated', stateName('VOLUME_STATE_', STATES), [])
    .option('--tag <key=value>', 'only volumes with this tag; may be repeated', collectTag, {})
    .action(async (flags: ListFlags) => withSession(context, flags, (session) => list(session, flags)));

  labelling(
    changing(
      calling(
        group.command('update').description("change a volume's name and tags").argument('<volume>'),
        'moorage volume update vol-0123456789abcdef0 --name db --tag tier=gold --untag owner',
      ),
    ),
  )
    .option('--name <text>', 'a name for people')
    .action(async (volumeId: string, flags: MutationFlags & LabelFlags & { name?: string }) =>
      withSession(context, flags, async (session) => {
        const { volume, operationId } = await session.client.updateVolume(
          {
            ...mutation(flags),
            ...updateFields(flags, flags.name === undefined ? [] : ['display_name']),
            volumeId,
            displayName: flags.name ?? '',
          },
          session.patient,
        );
        await showChanged(session, volume, operationId, flags);
      }),
    );

  changing(
    calling(
      group
        .command('expand')
        .description('make a volume larger; a guest that has it open sees it')
        .argument('<volume>'),
      'moorage volume expand vol-0123456789abcdef0 --size 20GiB',
    ),
  )
    .requiredOption('--size <size>', 'the new size', parseSize)
    .action(async (volumeId: string, flags: MutationFlags & { size: string }) =>
      withSession(context, flags, async (session) => {
        const { volume, operationId } = await session.client.expandVolume(
          { ...mutation(flags), volumeId, sizeBytes: flags.size },
          session.patient,
        );
        await showChanged(session, volume, operationId, flags);
      }),
    );

  changing(
    calling(
      group.command('delete').description('delete volumes that nobody has exported').argument('<volume...>'),
      'moorage volume delete vol-0123456789abcdef0',
    ),
  ).action(async (ids: string[], flags: MutationFlags) =>
    withSession(context, flags, async (session) => {
      const ended: Volume[] = [];
      for (const volumeId of ids) {
        const { volume, operationId } = await session.client.deleteVolume(
          { ...mutation(flags), volumeId },
          session.patient,
        );
        if (volume === null) session.note(`${volumeId} was purged before; there is nothing to delete`);
        const after = await settled(session, volume, operationId, flags);
        if (after !== null) ended.push(after);
      }
      session.show(ids.length === 1 ? ended[0] : ended, ended.map(describeVolume).join('\n'));
    }),
  );

  changing(
    calling(
      group.command('undelete').description('bring a deleted volume back').argument('<volume>'),
      'moorage volume undelete vol-0123456789abcdef0',
    ),
  ).action(async (volumeId: string, flags: MutationFlags) =>
    withSession(context, flags, async (session) => {
      const { volume, operationId } = await session.client.undeleteVolume(
        { ...mutation(flags), volumeId },
        session.patient,
      );
      await showChanged(session, volume, operationId, flags);
    }),
  );
}

interface CreateFlags extends MutationFlags {
  readonly size?: string;
  readonly name: string;
  readonly pool?: string;
  readonly fromSnapshot: string;
  readonly tag: Record<string, string>;
  readonly multiAttach?: boolean;
}

interface ListFlags extends CommonFlags {
  readonly pool: string;
  readonly fromSnapshot: string;
  readonly state: (typeof STATES)[number][];
  readonly tag: Record<string, string>;
}

async function create(session: Session, flags: CreateFlags): Promise<void> {
  if (flags.size === undefined && flags.fromSnapshot === '') {
    throw new CommandFailure(EXIT.usage, 'give --size, or --from-snapshot');
  }
  const poolId = flags.pool ?? (flags.fromSnapshot === '' ? await onlyPool(session) : '');
  const { volume, operationId } = await session.client.createVolume(
    {
      ...mutation(flags),
      poolId,
      sizeBytes: flags.size ?? '0',
      ...(flags.fromSnapshot !== '' && { source: { snapshotId: flags.fromSnapshot } }),
      displayName: flags.name,
      tags: flags.tag,
      multiAttach: flags.multiAttach ?? false,
    },
    session.patient,
  );
  await showChanged(session, volume, operationId, flags);
}

/** Most sites have one pool, and then nobody wants to name it. */
async function onlyPool(session: Session): Promise<string> {
  const { pools } = await session.client.listPools({ pageSize: 2 });
  const [first, second] = pools;
  if (first !== undefined && second === undefined) return first.id;
  throw new CommandFailure(
    EXIT.usage,
    first === undefined
      ? 'there is no pool yet; make one with: moorage pool create'
      : 'there are several pools; name one with --pool (moorage pool list)',
  );
}

/** Waits for a change, and shows the volume as it is then. */
async function showChanged(
  session: Session,
  changed: Volume | null,
  operationId: string,
  flags: MutationFlags,
): Promise<void> {
  const after = await settled(session, changed, operationId, flags);
  session.show(after, describeVolume(after));
}

async function settled(
  session: Session,
  changed: Volume | null,
  operationId: string,
  flags: MutationFlags,
): Promise<Volume | null> {
  if (changed === null || flags.validateOnly || changed.operationId === '') return changed;
  await session.finish(operationId);
  const { volume } = await session.client.getVolume({ volumeId: changed.id });
  return volume;
}

async function list(session: Session, flags: ListFlags): Promise<void> {
  const volumes: Volume[] = [];
  const read = (pageToken: string) =>
    session.client.listVolumes({
      pageSize: 1000,
      pageToken,
      poolId: flags.pool,
      sourceSnapshotId: flags.fromSnapshot,
      states: flags.state,
      tags: flags.tag,
    });
  for await (const page of pages(read)) volumes.push(...page.volumes);
  const head = ['ID', 'NAME', 'SIZE', 'STATE', 'POOL', 'FROM', 'EXPORTS', 'CREATED'];
  const rows = volumes.map((volume) => [
    volume.id,
    volume.displayName,
    formatSize(volume.sizeBytes),
    shortState(volume.state),
    volume.poolId,
    volume.source?.snapshotId ?? '',
    String(volume.exportIds.length),
    formatTime(volume.createTime),
  ]);
  session.show(volumes, table([head, ...rows]));
}

function describeVolume(volume: Volume | null): string {
  if (volume === null) return '';
  return properties([
    ['id', volume.id],
    ['name', volume.displayName],
    ['state', shortState(volume.state)],
    ['why', volume.statusMessage],
    ['size', formatSize(volume.sizeBytes)],
    ['pool', volume.poolId],
    ['from', volume.source?.snapshotId ?? ''],
    ['exports', volume.exportIds.join(' ')],
    ['multi-attach', volume.multiAttach ? 'yes' : ''],
    ['tags', formatTags(volume.tags)],
    ['created', formatTime(volume.createTime)],
    ['deleted', formatTime(volume.deleteTime)],
    ['undelete until', formatTime(volume.purgeTime)],
    ['operation', volume.operationId],
  ]);
}
