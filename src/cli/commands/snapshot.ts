import type { Command } from 'commander';
import { pages, type Snapshot } from '../../client/index.js';
import { type CommandContext, calling, withSession } from '../context.js';
import { type LabelFlags, labelling, updateFields } from '../labels.js';
import { formatTags, formatTime, properties, table } from '../output.js';
import type { CommonFlags, Session } from '../session.js';
import { collectTag, formatSize, shortState, stateName } from '../values.js';
import { changing, mutation } from './volume.js';

const STATES = [
  'SNAPSHOT_STATE_PENDING',
  'SNAPSHOT_STATE_COMPLETED',
  'SNAPSHOT_STATE_DELETING',
  'SNAPSHOT_STATE_DELETED',
  'SNAPSHOT_STATE_PURGING',
  'SNAPSHOT_STATE_ERROR',
] as const;

interface MutationFlags extends CommonFlags {
  readonly token?: string;
  readonly validateOnly?: boolean;
}

interface CreateFlags extends MutationFlags {
  readonly name: string;
  readonly tag: Record<string, string>;
}

interface ListFlags extends CommonFlags {
  readonly pool: string;
  readonly volume: string;
  readonly state: (typeof STATES)[number][];
  readonly tag: Record<string, string>;
}

/** `moorage snapshot …` */
export function addSnapshotCommands(program: Command, context: CommandContext): void {
  const group = program.command('snapshot').description('snapshots: the content of a volume at one point in time');

  changing(
    calling(
      group.command('create').description('take a snapshot, also while a guest writes').argument('<volume>'),
      'moorage snapshot create vol-0123456789abcdef0 --name nightly',
    ),
  )
    .option('--name <text>', 'a name for people', '')
    .option('--tag <key=value>', 'a tag; may be repeated', collectTag, {})
    .action(async (volumeId: string, flags: CreateFlags) =>
      withSession(context, flags, async (session) => {
        const { snapshot, operationId } = await session.client.createSnapshot(
          { ...mutation(flags), volumeId, displayName: flags.name, tags: flags.tag },
          session.patient,
        );
        await showChanged(session, snapshot, operationId, flags);
      }),
    );

  calling(
    group.command('get').description('show a snapshot').argument('<snapshot>'),
    'moorage snapshot get snap-0123456789abcdef0',
  ).action(async (snapshotId: string, flags: CommonFlags) =>
    withSession(context, flags, async (session) => {
      const { snapshot } = await session.client.getSnapshot({ snapshotId });
      session.show(snapshot, describeSnapshot(snapshot));
    }),
  );

  calling(
    group.command('list').description('list snapshots, oldest first'),
    'moorage snapshot list --volume vol-0123456789abcdef0',
  )
    .option('--pool <name>', 'only snapshots of this pool', '')
    .option('--volume <id>', 'only snapshots of this volume', '')
    .option(
      '--state <state>',
      'only snapshots in this state; may be repeated',
      stateName('SNAPSHOT_STATE_', STATES),
      [],
    )
    .option('--tag <key=value>', 'only snapshots with this tag; may be repeated', collectTag, {})
    .action(async (flags: ListFlags) => withSession(context, flags, (session) => list(session, flags)));

  labelling(
    changing(
      calling(
        group.command('update').description("change a snapshot's name and tags").argument('<snapshot>'),
        'moorage snapshot update snap-0123456789abcdef0 --name db --tag tier=gold --untag owner',
      ),
    ),
  )
    .option('--name <text>', 'a name for people')
    .action(async (snapshotId: string, flags: MutationFlags & LabelFlags & { name?: string }) =>
      withSession(context, flags, async (session) => {
        const { snapshot, operationId } = await session.client.updateSnapshot(
          {
            ...mutation(flags),
            ...updateFields(flags, flags.name === undefined ? [] : ['display_name']),
            snapshotId,
            displayName: flags.name ?? '',
          },
          session.patient,
        );
        await showChanged(session, snapshot, operationId, flags);
      }),
    );

  changing(
    calling(
      group.command('delete').description('delete snapshots; volumes made from them live on').argument('<snapshot...>'),
      'moorage snapshot delete snap-0123456789abcdef0',
    ),
  ).action(async (ids: string[], flags: MutationFlags) =>
    withSession(context, flags, async (session) => {
      const ended: Snapshot[] = [];
      for (const snapshotId of ids) {
        const { snapshot, operationId } = await session.client.deleteSnapshot(
          { ...mutation(flags), snapshotId },
          session.patient,
        );
        if (snapshot === null) session.note(`${snapshotId} was purged before; there is nothing to delete`);
        const after = await settled(session, snapshot, operationId, flags);
        if (after !== null) ended.push(after);
      }
      session.show(ids.length === 1 ? ended[0] : ended, ended.map(describeSnapshot).join('\n'));
    }),
  );

  changing(
    calling(
      group.command('undelete').description('bring a deleted snapshot back').argument('<snapshot>'),
      'moorage snapshot undelete snap-0123456789abcdef0',
    ),
  ).action(async (snapshotId: string, flags: MutationFlags) =>
    withSession(context, flags, async (session) => {
      const { snapshot, operationId } = await session.client.undeleteSnapshot(
        { ...mutation(flags), snapshotId },
        session.patient,
      );
      await showChanged(session, snapshot, operationId, flags);
    }),
  );
}

/** Waits for a change, and shows the snapshot as it is then. */
async function showChanged(
  session: Session,
  changed: Snapshot | null,
  operationId: string,
  flags: MutationFlags,
): Promise<void> {
  const after = await settled(session, changed, operationId, flags);
  session.show(after, describeSnapshot(after));
}

async function settled(
  session: Session,
  changed: Snapshot | null,
  operationId: string,
  flags: MutationFlags,
): Promise<Snapshot | null> {
  if (changed === null || flags.validateOnly || changed.operationId === '') return changed;
  await session.finish(operationId);
  const { snapshot } = await session.client.getSnapshot({ snapshotId: changed.id });
  return snapshot;
}

async function list(session: Session, flags: ListFlags): Promise<void> {
  const snapshots: Snapshot[] = [];
  const read = (pageToken: string) =>
    session.client.listSnapshots({
      pageSize: 1000,
      pageToken,
      poolId: flags.pool,
      volumeId: flags.volume,
      states: flags.state,
      tags: flags.tag,
    });
  for await (const page of pages(read)) snapshots.push(...page.snapshots);
  const head = ['ID', 'NAME', 'SIZE', 'STATE', 'VOLUME', 'POOL', 'POINT IN TIME'];
  const rows = snapshots.map((snapshot) => [
    snapshot.id,
    snapshot.displayName,
    formatSize(snapshot.sizeBytes),
    shortState(snapshot.state),
    snapshot.volumeId,
    snapshot.poolId,
    formatTime(snapshot.pointTime),
  ]);
  session.show(snapshots, table([head, ...rows]));
}

function describeSnapshot(snapshot: Snapshot | null): string {
  if (snapshot === null) return '';
  return properties([
    ['id', snapshot.id],
    ['name', snapshot.displayName],
    ['state', shortState(snapshot.state)],
    ['why', snapshot.statusMessage],
    ['size', formatSize(snapshot.sizeBytes)],
    ['volume', snapshot.volumeId],
    ['pool', snapshot.poolId],
    ['tags', formatTags(snapshot.tags)],
    ['point in time', formatTime(snapshot.pointTime)],
    ['created', formatTime(snapshot.createTime)],
    ['deleted', formatTime(snapshot.deleteTime)],
    ['undelete until', formatTime(snapshot.purgeTime)],
    ['operation', snapshot.operationId],
  ]);
}
