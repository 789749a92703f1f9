import type { Command } from 'commander';
import { pages, type Snapshot, type Volume } from '../../client/index.js';
import { type CommandContext, calling, withSession } from '../context.js';
import type { CommonFlags, Session } from '../session.js';
import { drawTree } from '../tree.js';

interface TreeFlags extends CommonFlags {
  readonly pool: string;
  readonly all?: boolean;
}

/** `moorage tree` */
export function addTreeCommand(program: Command, context: CommandContext): void {
  calling(
    program.command('tree').description('draw volumes (■) and snapshots (◆) as the tree that they grew as'),
    `moorage tree
     moorage tree --all --pool ssd`,
  )
    .option('--pool <name>', 'only this pool', '')
    .option('--all', 'the deleted ones too')
    .action(async (flags: TreeFlags) => withSession(context, flags, (session) => tree(session, flags)));
}

async function tree(session: Session, flags: TreeFlags): Promise<void> {
  const volumes: Volume[] = [];
  const snapshots: Snapshot[] = [];
  const page = { pageSize: 1000, poolId: flags.pool };
  const volumeStates = (['CREATING', 'AVAILABLE', 'DELETING', 'DELETED', 'PURGING', 'ERROR'] as const).map(
    (state) => `VOLUME_STATE_${state}` as const,
  );
  const snapshotStates = (['PENDING', 'COMPLETED', 'DELETING', 'DELETED', 'PURGING', 'ERROR'] as const).map(
    (state) => `SNAPSHOT_STATE_${state}` as const,
  );
  const readVolumes = (pageToken: string) =>
    session.client.listVolumes({ ...page, pageToken, ...(flags.all && { states: volumeStates }) });
  const readSnapshots = (pageToken: string) =>
    session.client.listSnapshots({ ...page, pageToken, ...(flags.all && { states: snapshotStates }) });
  for await (const part of pages(readVolumes)) volumes.push(...part.volumes);
  for await (const part of pages(readSnapshots)) snapshots.push(...part.snapshots);
  session.show({ volumes, snapshots }, drawTree(volumes, snapshots));
}
