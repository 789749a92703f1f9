/** What an administrator may set of the core. Times in milliseconds. */
export interface CoreSettings {
  /** T of the journal: without a beat for half of it no step begins; without one for all of it this controller is lost. */
  readonly beatTimeoutMilliseconds: number;
  /** How long one step of an agent may take before its outcome counts as unknown. */
  readonly stepTimeoutMilliseconds: number;
  /** The same for a purge, which takes as long as the image is large. */
  readonly purgeTimeoutMilliseconds: number;
  /** Longest wait between two tries of a step. */
  readonly retryLimitMilliseconds: number;
  /** How often the reaper passes. */
  readonly reaperIntervalMilliseconds: number;
  /** How many images the reaper purges at once. */
  readonly reaperConcurrency: number;
  /** A snapshot that would lie as deep as this, or deeper, is flattened before it is completed. */
  readonly softCloneDepth: number;
  /** A clone deeper than this is refused; kernel rbd stops at 16. */
  readonly hardCloneDepth: number;
  /** How many operations may run at once on one pool before a call is shed. */
  readonly maximumRunningOperations: number;
  /** How long what is gone can be told to those who watch, in milliseconds: a resume token lasts so long at least. */
  readonly eventRetentionMilliseconds: number;
  /** How often a watch is told where it is although nothing happens, in milliseconds. */
  readonly bookmarkIntervalMilliseconds: number;
  /** How many watches there may be at once. */
  readonly maximumWatches: number;
  /** How many of them one caller may have. */
  readonly maximumWatchesPerCaller: number;
  /** How long a cut-off client stays cut off, in seconds; at least a day. */
  readonly cutOffExpirySeconds: number;
  /** How often it is looked whether all who were cut off still are, in milliseconds. */
  readonly cutOffIntervalMilliseconds: number;
  /**
   * Whether the store is locked to this process, so that every other controller in it is known to be dead (SQLite). Then
   * nobody waits for its beat to stand still.
   */
  readonly storeIsExclusive: boolean;
  /** How often images and users that belong to nothing are looked for. */
  readonly sweepIntervalMilliseconds: number;
  /** Where copies of the store are written, on the controller's host. */
  readonly backupDirectory: string;
  /** Host and process, for the controller's record. */
  readonly description: string;
}

/** What applies when nothing is set. */
export const defaultCoreSettings: CoreSettings = {
  beatTimeoutMilliseconds: 10_000,
  stepTimeoutMilliseconds: 60_000,
  purgeTimeoutMilliseconds: 600_000,
  retryLimitMilliseconds: 5_000,
  reaperIntervalMilliseconds: 60_000,
  reaperConcurrency: 4,
  softCloneDepth: 8,
  hardCloneDepth: 14,
  maximumRunningOperations: 512,
  eventRetentionMilliseconds: 24 * 60 * 60 * 1000,
  bookmarkIntervalMilliseconds: 10_000,
  maximumWatches: 256,
  maximumWatchesPerCaller: 32,
  cutOffExpirySeconds: 30 * 24 * 60 * 60,
  cutOffIntervalMilliseconds: 60_000,
  storeIsExclusive: true,
  sweepIntervalMilliseconds: 3_600_000,
  backupDirectory: '/var/lib/moorage/backup',
  description: '',
};
