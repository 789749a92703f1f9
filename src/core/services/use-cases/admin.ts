import type { Finding, FindingClass } from '../admin/findings.js';
import type { Caller, PageRequest } from './call.js';

export interface CheckRequest extends PageRequest {
  /** Empty: all. */
  readonly poolId: string;
}

/** How much one call has looked at. */
export interface CheckProgress {
  readonly resources: number;
  readonly entries: number;
  readonly images: number;
  readonly foreignImages: number;
  /** Things that differed while operations worked on them. */
  readonly busy: number;
}

export interface CheckAnswer {
  readonly findings: readonly Finding[];
  readonly nextPageToken: string;
  readonly progress: CheckProgress;
}

export interface RepairRequest extends CheckRequest {
  /** Empty: all that are mended without being asked for. */
  readonly classes: readonly FindingClass[];
  /** Empty: all. */
  readonly resourceIds: readonly string[];
  readonly validateOnly: boolean;
}

/** A difference and what came of it. */
export interface Repaired {
  readonly finding: Finding;
  readonly outcome: 'mended' | 'would-mend' | 'left' | 'failed';
  /** Why it could not be mended; empty otherwise. */
  readonly message: string;
}

export interface RepairAnswer {
  readonly repaired: readonly Repaired[];
  readonly nextPageToken: string;
  readonly progress: CheckProgress;
  /** On the last page: the store was restored from a backup and is held all the same. */
  readonly stillHeld: boolean;
}

export interface RebuildRequest {
  readonly validateOnly: boolean;
  readonly pageToken: string;
}

export interface RebuildAnswer {
  readonly repaired: readonly Repaired[];
  readonly nextPageToken: string;
  readonly progress: CheckProgress;
  /** On the last page: what no catalogue knows, each a sentence. */
  readonly unknown: readonly string[];
}

/** A copy of the store. */
export interface StoreBackup {
  readonly path: string;
  readonly sizeBytes: number;
  /** Milliseconds since the epoch. */
  readonly time: number;
}

export interface AdminService {
  check(request: CheckRequest, caller: Caller): Promise<CheckAnswer>;
  repair(request: RepairRequest, caller: Caller): Promise<RepairAnswer>;
  rebuild(request: RebuildRequest, caller: Caller): Promise<RebuildAnswer>;
  backupStore(caller: Caller): Promise<StoreBackup>;
}
