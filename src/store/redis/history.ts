/*
 * How a primary is noticed that lacks commits. The store counts its commits, and notes each primary that it had, by its
 * replication id, with the count at which that one began. Whoever saw commit N acknowledged under primary A, and finds a
 * primary after A that began before N, knows that commits from there to N are lost, however many there were since.
 */

/** One primary's time. */
export interface Epoch {
  /** Its replication id, which is new at each promotion. */
  readonly id: string;
  /** Commits that there were when it began. */
  readonly start: number;
}

/** What a primary holds of the store. */
export interface StoreHistory {
  /** Made with the store; undefined when the server holds none. */
  readonly storeId: string | undefined;
  readonly commits: number;
  /** In order; the last one is now. */
  readonly epochs: readonly Epoch[];
}

/** The last commit that a controller saw acknowledged. */
export interface Acknowledged {
  readonly storeId: string;
  readonly commits: number;
  /** Under which primary. */
  readonly epoch: string;
}

/** So many epochs are kept. */
export const EPOCHS_KEPT = 200;

/** What is missing on a primary, as the end of a sentence "the Redis server …"; undefined when nothing is. */
export function lossOf(known: Acknowledged, found: StoreHistory): string | undefined {
  if (found.storeId === undefined)
    return `holds nothing of the store ${known.storeId}, which had ${known.commits} commits`;
  if (found.storeId !== known.storeId) return `holds another store (${found.storeId} instead of ${known.storeId})`;
  const position = found.epochs.findIndex(({ id }) => id === known.epoch);
  if (position < 0) {
    const [first] = found.epochs;
    const forgotten = found.epochs.length >= EPOCHS_KEPT && first !== undefined && first.start >= known.commits;
    return forgotten ? undefined : `does not know the primary under which commit ${known.commits} was acknowledged`;
  }
  const shared = found.epochs[position + 1]?.start ?? found.commits;
  if (shared >= known.commits) return undefined;
  return `lacks ${known.commits - shared} acknowledged commits (it had ${shared} of ${known.commits})`;
}
