import type { Store } from '../../src/core/ports/store.js';
import { backupContract } from './store-contract-backup.js';
import { commitContract } from './store-contract-commit.js';
import { durabilityContract } from './store-contract-durability.js';
import { listContract } from './store-contract-list.js';

/** A store on data of its own, empty at first. */
export interface StoreUnderTest {
  readonly store: Store;
  /** Where the data is, for another process: what its opener in store-kinds.ts takes. */
  readonly location: string;
  /** Opens the same data again, after `store` was closed or while another process had it. */
  reopen(): Promise<Store>;
  /** Closes what is open, and removes the data. */
  dispose(): Promise<void>;
}

/** How a contract gets at stores of one kind. */
export interface StoreHarness {
  /** Name of its opener in store-kinds.ts. */
  readonly kind: string;
  open(): Promise<StoreUnderTest>;
  /** Makes a store of a copy. */
  restore(copy: string): Promise<StoreUnderTest>;
  /** Tries to do so where a store is. */
  restoreOver(store: StoreUnderTest, copy: string): Promise<void>;
}

/** What every store must do: the port's comments, held to. */
export function storeContract(name: string, harness: StoreHarness): void {
  describe(`store contract: ${name}`, () => {
    commitContract(harness);
    listContract(harness);
    durabilityContract(harness);
    backupContract(harness);
  });
}
