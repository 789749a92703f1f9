import { listCatalogueEntries, putCatalogueEntry, removeCatalogueEntry } from '../../src/agents/rbd/data/catalogue.js';
import type { OmapEntry, PoolContext } from '../../src/agents/rbd/librbd/pool-context.js';
import { type Finding, pages, type Repaired } from '../../src/client/index.js';
import { keys } from '../../src/core/journal/documents.js';
import type { Export, Snapshot, Volume } from '../../src/core/model/resources.js';
import type { Store } from '../../src/core/ports/store.js';
import type { System } from './system.js';

/** All that Check finds. */
export async function checkAll({ client }: System): Promise<readonly Finding[]> {
  const findings: Finding[] = [];
  for await (const page of pages((pageToken) => client.check({ pageToken }))) findings.push(...page.findings);
  return findings;
}

/** What a Repair that went through everything came to. */
export interface WholeRepair {
  readonly repaired: readonly Repaired[];
  readonly stillHeld: boolean;
}

export async function repairAll(
  { client }: System,
  request: {
    readonly classes?: readonly string[];
    readonly resourceIds?: string[];
    readonly validateOnly?: boolean;
  } = {},
): Promise<WholeRepair> {
  const { classes = [], ...rest } = request;
  const repaired: Repaired[] = [];
  let stillHeld = false;
  const named = classes.map(longClass);
  for await (const page of pages((pageToken) => client.repair({ ...rest, classes: named as never, pageToken }))) {
    repaired.push(...page.repaired);
    stillHeld = page.stillHeld;
  }
  return { repaired, stillHeld };
}

const longClass = (name: string): string => `FINDING_CLASS_${name.toUpperCase().replaceAll('-', '_')}`;

/** "class what" of findings, sorted, for comparing. */
export function brief(findings: readonly (Finding | null)[]): string[] {
  return findings
    .map((finding) => {
      const name = (finding?.class ?? '').replace('FINDING_CLASS_', '').toLowerCase().replaceAll('_', '-');
      return `${name} ${finding?.resourceId || finding?.imageName || finding?.poolId}`;
    })
    .sort();
}

/** "outcome class what" of what Repair did, sorted. */
export function briefOutcomes(repaired: readonly Repaired[]): string[] {
  return repaired
    .map(({ finding, outcome }) => `${outcome.replace('REPAIR_OUTCOME_', '').toLowerCase()} ${brief([finding])[0]}`)
    .sort();
}

/** The entry of a key as it is in the catalogue now. */
export async function entryOf(pool: PoolContext, key: string): Promise<OmapEntry> {
  for (let cursor = ''; ; ) {
    const page = await listCatalogueEntries(pool, cursor, 1000);
    const found = page.entries.find((entry) => entry.key === key);
    if (found !== undefined) return found;
    if (page.nextCursor === '') throw new Error(`the catalogue has no entry ${key}`);
    cursor = page.nextCursor;
  }
}

export { putCatalogueEntry, removeCatalogueEntry };

/** Changes the store behind the controller's back: it is stopped, and started again. */
export async function editStore(system: System, edit: (store: StoreEditor) => Promise<void>): Promise<void> {
  await system.stop();
  const store = await system.store.open();
  try {
    await edit(new StoreEditor(store));
  } finally {
    await store.close();
  }
  await system.start();
}

/** Documents as a test wants them. */
export class StoreEditor {
  readonly store: Store;

  constructor(store: Store) {
    this.store = store;
  }

  async read<T>(key: string): Promise<T> {
    const document = await this.store.get<T>(key);
    if (document === undefined) throw new Error(`there is no document ${key}`);
    return document.value;
  }

  volume(id: string): Promise<Volume> {
    return this.read(keys.volume(id));
  }

  snapshot(id: string): Promise<Snapshot> {
    return this.read(keys.snapshot(id));
  }

  export(id: string): Promise<Export> {
    return this.read(keys.export(id));
  }

  async remove(key: string): Promise<void> {
    await this.store.commit([{ kind: 'delete', key, expect: 'any' }]);
  }
}
