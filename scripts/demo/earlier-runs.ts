import type { Export, Snapshot, Volume } from '../../src/client/index.js';
import { CommandError } from '../../test/helpers/exec.js';
import { waitFor } from '../../test/helpers/wait.js';
import type { Development } from '../development/development.js';

/** What the demo makes carries this tag, so that it deletes nothing else. */
export const DEMO_TAG = 'made-by=demo';

/** Volumes and snapshots of earlier runs, which their owner may have looked at since. */
export interface EarlierRuns {
  readonly volumeIds: readonly string[];
  readonly snapshotIds: readonly string[];
}

/**
 * Finds what earlier runs left, and withdraws the exports of one that was cut short: its guests are gone.
 * @throws CommandError
 */
export async function findEarlierRuns({ commands }: Development): Promise<EarlierRuns> {
  const mine = <Item>(kind: string): Promise<readonly Item[]> =>
    commands.askQuietly<readonly Item[]>('moorage', kind, 'list', '--tag', DEMO_TAG);
  const volumes = await mine<Volume>('volume');
  const snapshots = await mine<Snapshot>('snapshot');
  const exported = volumes.filter((volume) => volume.exportIds.length > 0).map((volume) => volume.id);
  if (exported.length > 0) {
    const exports = await commands.askQuietly<readonly Export[]>('moorage', 'exports', 'list');
    for (const { id, volumeId } of exports) {
      if (!exported.includes(volumeId)) continue;
      await withdraw(commands, id);
    }
  }
  return { volumeIds: volumes.map((each) => each.id), snapshotIds: snapshots.map((each) => each.id) };
}

/** A guest that was killed counts as there until Ceph misses it; then its export can be withdrawn in peace. */
async function withdraw(commands: Development['commands'], exportId: string): Promise<void> {
  const inPeace = async (): Promise<boolean> => {
    try {
      await commands.quietly('moorage', 'unexport', exportId);
      return true;
    } catch (error) {
      if (error instanceof CommandError && error.exitCode === 4) return false;
      throw error;
    }
  };
  await waitFor(`${exportId} is withdrawn`, inPeace, { timeoutMilliseconds: 40_000, intervalMilliseconds: 500 }).catch(
    () => commands.run('moorage', 'unexport', exportId, '--force'),
  );
}
