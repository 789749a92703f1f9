import { MoorageError } from '../../errors.js';
import { listAll } from '../../journal/agents.js';
import { indexes, keys } from '../../journal/documents.js';
import type { Export, Pool, Snapshot, Tombstone, Volume } from '../../model/resources.js';
import { BackendError } from '../../ports/backend.js';
import { isReplicated, type Store, type StoredDocument, StoreError, type Write } from '../../ports/store.js';
import type { CoreContext } from '../context.js';
import type { Finding, FindingClass } from './findings.js';
import { type Hold, markLoss, settleRestored } from './hold.js';
import { type Look, lookAtExports, lookAtResources, settle } from './looking.js';
import { ownerOf } from './names.js';
import { Survey } from './survey.js';

/*
 * AFTER A CHANGE OF THE STORE'S PRIMARY
 *
 * A new primary may lack what was acknowledged to a controller that has died since: then nobody is left who could refuse it.
 * The storage remembers. So whoever begins on a primary that no controller has compared with the storage yet does that
 * first; until then nothing is changed, no operation is resumed and the reaper stands still.
 *   1. A quick look at everything: the catalogue's entries and RBD's list of images against the documents, without opening
 *      an image. What does not fit is looked at as Check does it, so that what an operation is at counts as nothing.
 *   2. Nothing lost: the primary's time is noted in the store, and the others need not look again.
 *   3. Something lost: the same commit puts the mark of a store that was restored from a backup, and it is treated as one
 *      (hold.ts): operations end without a step, changes are refused until a Repair of everything.
 * Whoever is slower than another accepts what that one found: two verdicts on one primary would be one too many.
 */

/** Which primary was compared with the storage last. */
interface ComparedPrimary {
  /** Its time, as the store names it. */
  readonly time: string;
}

/** Differences that only a change makes which the store does not have; others are no fault of the primary. */
const LOSSES: ReadonlySet<FindingClass> = new Set<FindingClass>([
  'not-in-store',
  'export-not-in-store',
  'entry-differs',
  'entry-missing',
  'export-ended',
  'image-trashed',
  'image-not-trashed',
  'image-renamed',
]);

const PAGE = 1000;
/** How many suspects are looked at closely in one go. */
const CLOSE_LOOK = 100;
/** After so many losses it is clear what is to be done; Check says the rest. */
const ENOUGH = 20;
/** How long a call waits for the comparison before it is turned away, and when it should come again, milliseconds. */
const CALL_WAITS_MILLISECONDS = 1_000;
const COME_AGAIN_MILLISECONDS = 500;

type Resource = Volume | Snapshot;

/** Compares the store with the storage once after each change of the primary. */
export class Reconciliation {
  readonly #core: CoreContext;
  readonly #hold: Hold;
  readonly #primaryTime: (() => Promise<string>) | undefined;
  readonly #signal: AbortSignal;
  readonly #done: Promise<void>;
  #release: () => void = () => undefined;
  #pending: boolean;

  /** @param store the one that controllers share, if it is one whose primary changes */
  constructor(core: CoreContext, hold: Hold, store: Store, signal: AbortSignal) {
    this.#core = core;
    this.#hold = hold;
    this.#primaryTime = isReplicated(store) ? () => store.primaryTime() : undefined;
    this.#signal = signal;
    this.#pending = this.#primaryTime !== undefined;
    this.#done = new Promise((resolve) => {
      this.#release = resolve;
    });
  }

  /** Whether nothing may be changed yet. */
  get pending(): boolean {
    return this.#pending;
  }

  /** Waits a little for the comparison. @throws MoorageError UNAVAILABLE while it is not done; what `liveCheck` throws */
  async check(): Promise<void> {
    if (!this.#pending) return;
    // Before this controller is registered nothing is compared yet either.
    this.#core.liveCheck();
    await Promise.race([this.#done, this.#core.clock.sleep(CALL_WAITS_MILLISECONDS, this.#signal)]);
    if (!this.#pending) return;
    throw new MoorageError(
      'UNAVAILABLE',
      'The store has another primary, and it is still being compared with the storage. Try again in a moment.',
      { reason: 'STORE_RECONCILING', retryAfterMilliseconds: COME_AGAIN_MILLISECONDS },
    );
  }

  /** To be called at the start, before anything is taken over: where there is nothing to compare, calls pass from the start. */
  async begin(): Promise<void> {
    if (this.#primaryTime === undefined) return;
    const compared = await this.#core.store.get<ComparedPrimary>(keys.primary);
    if (compared?.value.time === (await this.#primaryTime())) this.#pass();
  }

  /** Compares, for as long as it takes; with the agents, so after `begin` and beside everything else. */
  async run(): Promise<void> {
    for (let pause = 50; this.#pending && !this.#signal.aborted; pause = Math.min(2 * pause, 2_000)) {
      try {
        await this.#compare();
        this.#pass();
        return;
      } catch (error) {
        if (this.#signal.aborted) return;
        // After a start the agents are not there yet: nothing has gone wrong.
        const waits = error instanceof BackendError && error.failure === 'not-begun';
        this.#core.events.notice({
          level: waits ? 'info' : 'warn',
          message: 'the store cannot be compared with the storage yet; changes wait for it',
          fields: {},
          error,
        });
      }
      await this.#core.clock.sleep(pause, this.#signal);
    }
  }

  #pass(): void {
    this.#pending = false;
    this.#release();
  }

  async #compare(): Promise<void> {
    const { store } = this.#core;
    const time = (await this.#primaryTime?.()) ?? '';
    const before = await store.get<ComparedPrimary>(keys.primary);
    if (before?.value.time !== time) {
      const found = await this.#losses();
      const held = (await this.#hold.mark()) !== undefined;
      const note: Write = {
        ...{ kind: 'put', key: keys.primary, expect: before?.rev ?? 'absent' },
        ...{ value: { time } satisfies ComparedPrimary, indexes: [] },
      };
      const lost = found.length > 0 && !held ? markLoss(this.#core.clock.now()) : [];
      const outcome = await store.commit([note, ...lost, this.#core.liveCheck()]);
      if (!outcome.ok) {
        await this.#core.refreshMembership();
        throw new StoreError('unknown', 'Another controller compares the store too.');
      }
      if (lost.length > 0) this.#tell(found);
    }
    this.#hold.lookAgain();
    await settleRestored(this.#core, this.#hold);
  }

  #tell(found: readonly Finding[]): void {
    this.#core.events.notice({
      level: 'error',
      message:
        'the new primary of the store lacks changes that were acknowledged: nothing is changed before a Repair of everything',
      fields: { found: found.map(({ description }) => description) },
    });
  }

  async #losses(): Promise<readonly Finding[]> {
    const found: Finding[] = [];
    for (const { value } of await listAll<Pool>(this.#core.store, indexes.pools)) {
      const survey = new Survey(this.#core, value, this.#signal);
      const { resources, exports } = await suspects(survey);
      for (const [ids, look] of [
        [resources, lookAtResources(survey)],
        [exports, lookAtExports(survey)],
      ] as const) {
        if (found.length < ENOUGH) found.push(...(await this.#lookClosely(ids, look)));
      }
    }
    return found;
  }

  async #lookClosely(ids: readonly string[], look: Look): Promise<readonly Finding[]> {
    const progress = { resources: 0, entries: 0, images: 0, foreignImages: 0, busy: 0 };
    const losses: Finding[] = [];
    for (let from = 0; from < ids.length && losses.length < ENOUGH; from += CLOSE_LOOK) {
      const batch = await settle(this.#core, look, ids.slice(from, from + CLOSE_LOOK), progress, undefined);
      const findings = [...batch.found.values()].flat().map(({ finding }) => finding);
      losses.push(...findings.filter((finding) => LOSSES.has(finding.class)));
    }
    return losses;
  }
}

/** What does not fit at first sight. Reads the storage first: what is made meanwhile is then in the store already. */
async function suspects(
  survey: Survey,
): Promise<{ readonly resources: readonly string[]; readonly exports: readonly string[] }> {
  const images = await namesOfImages(survey);
  const entries = new Set<string>();
  const resources = new Set<string>();
  const exports = new Set<string>();
  const { data } = survey.core.backend();
  for (let cursor = ''; ; ) {
    const page = await data.listCatalogueEntries(survey.pool, { cursor, limit: PAGE }, survey.context('list-entries'));
    for (const { key } of page.entries) entries.add(key);
    const documents = await survey.resources(page.entries.map(({ key }) => key).filter((key) => ownerOf(key) === key));
    const opened = await survey.exports(page.entries.map(({ key }) => key).filter((key) => key.startsWith('exp-')));
    for (const { key, value } of page.entries) {
      if (key.startsWith('exp-')) {
        if (!opened.has(key)) exports.add(key);
      } else if (ownerOf(key) === key && isNewer(survey, key, value, documents.get(key)?.value)) resources.add(key);
    }
    cursor = page.nextCursor;
    if (cursor === '') break;
  }
  for (const index of [indexes.volumesOfPool(survey.pool.id), indexes.snapshotsOfPool(survey.pool.id)]) {
    for await (const { value } of each<Resource>(survey.core.store, index)) {
      if (!entries.has(value.id) || isElsewhere(value, images)) resources.add(value.id);
    }
  }
  for await (const { value } of each<Export>(survey.core.store, indexes.exports)) {
    if (value.poolId === survey.pool.id && !entries.has(value.id)) exports.add(value.id);
  }
  return { resources: [...resources], exports: [...exports] };
}

/** Whether an entry tells of a change that the store does not have. One of a thing that is gone was made late. */
function isNewer(survey: Survey, key: string, value: Uint8Array, document: Resource | Tombstone | undefined): boolean {
  if (document === undefined) return true;
  if (document.state === 'gone') return false;
  const entry = survey.entry(key, value);
  if ('forged' in entry || entry.identity.kind === 'export') return false;
  return (entry.identity.updateTime ?? 0) > (document as Resource).updateTime;
}

/** Whether an image lies in the trash, or out of it, against what its record says, or has another name. */
function isElsewhere({ state, image }: Resource, images: ReadonlyMap<string, string>): boolean {
  if (image === undefined) return false;
  const name = images.get(image.backendId);
  if (state === 'available' || state === 'completed') return name !== image.name;
  return state === 'deleted' && name !== undefined;
}

/** Names of the images that do not lie in the trash, by their ids. */
async function namesOfImages(survey: Survey): Promise<ReadonlyMap<string, string>> {
  const { data } = survey.core.backend();
  const names = new Map<string, string>();
  for (let cursor = ''; ; ) {
    const page = await data.listImages(survey.pool, { cursor, limit: PAGE }, survey.context('list-images'));
    for (const { name, backendId, trashed } of page.images) if (!trashed) names.set(backendId, name);
    cursor = page.nextCursor;
    if (cursor === '') return names;
  }
}

async function* each<T>(store: Store, index: string): AsyncGenerator<StoredDocument<T>> {
  let after: string | undefined;
  do {
    const page = await store.list<T>(index, { limit: PAGE, ...(after === undefined ? {} : { after }) });
    yield* page.documents;
    after = page.cursor;
  } while (after !== undefined);
}
