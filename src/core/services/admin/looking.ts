import type { Export, Snapshot, Volume } from '../../model/resources.js';
import type { StoredDocument } from '../../ports/store.js';
import type { CoreContext } from '../context.js';
import { examineExports } from './exports.js';
import type { Difference } from './findings.js';
import { type Examined, examineResources, type Stray } from './resources.js';
import { examineStrayExports, examineStrays } from './strays.js';
import type { Survey } from './survey.js';

/** How often something that an operation works on is looked at again, and the first pause before it, in milliseconds. */
const LOOKS = 6;
const PAUSE_MILLISECONDS = 50;

/** How much was looked at. */
export interface Progress {
  resources: number;
  entries: number;
  images: number;
  foreignImages: number;
  busy: number;
}

/** What a batch came to. */
export interface Batch {
  /** By id of what they concern, so that those of one thing can be mended one after the other. */
  readonly found: ReadonlyMap<string, readonly Difference[]>;
  /** Looks at one of them again. */
  readonly again: (id: string) => Promise<readonly Difference[]>;
  /** Undefined: this walk is done. */
  readonly cursor: string | undefined;
}

/** Examines things by their ids. */
export type Look = (ids: readonly string[]) => Promise<ReadonlyMap<string, Examined>>;

/**
 * Looks until what differs has been seen twice with nothing working on it: what is read from two places is never read at one
 * moment, and a difference that is gone at the second look was none.
 */
export async function settle(
  core: CoreContext,
  look: Look,
  ids: readonly string[],
  progress: Progress,
  cursor: string | undefined,
): Promise<Batch> {
  const found = new Map<string, readonly Difference[]>();
  let open = new Map([...(await look(ids))].filter(([, examined]) => examined.differences.length > 0));
  for (let looks = 1; open.size > 0 && looks < LOOKS; looks += 1) {
    await core.clock.sleep(PAUSE_MILLISECONDS * looks);
    const second = await look([...open.keys()]);
    const left = new Map<string, Examined>();
    for (const [id, before] of open) {
      const now = second.get(id);
      if (now === undefined || now.differences.length === 0) continue;
      if (now.busy || before.busy) {
        left.set(id, now);
        continue;
      }
      const seen = new Set(before.differences.map(essence));
      const same = now.differences.filter((difference) => seen.has(essence(difference)));
      if (same.length > 0) found.set(id, same);
    }
    open = left;
  }
  progress.busy += open.size;
  return { found, cursor, again: async (id) => (await look([id])).get(id)?.differences ?? [] };
}

function essence({ finding }: Difference): string {
  return JSON.stringify([finding.class, finding.imageName, finding.imageBackendId, finding.description]);
}

const NO_STRAYS: ReadonlyMap<string, readonly Stray[]> = new Map();

/** Examines volumes and snapshots, whether the store has them or not. */
export function lookAtResources(survey: Survey, strays: ReadonlyMap<string, readonly Stray[]> = NO_STRAYS): Look {
  return async (ids) => {
    const documents = await survey.resources(ids);
    const live: StoredDocument<Volume | Snapshot>[] = [];
    const absent: string[] = [];
    for (const id of ids) {
      const document = documents.get(id);
      if (document === undefined || document.value.state === 'gone') absent.push(id);
      else live.push(document as StoredDocument<Volume | Snapshot>);
    }
    const [known, unknown] = await Promise.all([
      live.length === 0 ? new Map<string, Examined>() : examineResources(survey, live, strays),
      absent.length === 0 ? new Map<string, Examined>() : examineStrays(survey, absent, strays),
    ]);
    return new Map([...known, ...unknown]);
  };
}

export function lookAtExports(survey: Survey): Look {
  return async (ids) => {
    const documents = await survey.exports(ids);
    const live: StoredDocument<Export>[] = [];
    const absent: string[] = [];
    for (const id of ids) {
      const document = documents.get(id);
      if (document === undefined || document.value.state === 'gone') absent.push(id);
      else live.push(document as StoredDocument<Export>);
    }
    const [known, unknown] = await Promise.all([
      live.length === 0 ? new Map<string, Examined>() : examineExports(survey, live),
      absent.length === 0 ? new Map<string, Examined>() : examineStrayExports(survey, absent),
    ]);
    return new Map([...known, ...unknown]);
  };
}

/** Of what is found beside, the other walks tell. */
export function onlyOf(look: Look, strays: ReadonlyMap<string, readonly Stray[]>): Look {
  return async (ids) => {
    const looked = await look(ids);
    const kept = [...looked].map(([id, examined]) => {
      const mine = new Set((strays.get(id) ?? []).map((stray) => `${stray.name}/${stray.backendId}`));
      const differences = examined.differences.filter(({ finding }) =>
        mine.has(`${finding.imageName}/${finding.imageBackendId}`),
      );
      return [id, { ...examined, differences }] as const;
    });
    return new Map(kept);
  };
}
