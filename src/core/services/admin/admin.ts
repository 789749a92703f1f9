import { createHash, randomBytes } from 'node:crypto';
import { MoorageError } from '../../errors.js';
import { listAll } from '../../journal/agents.js';
import { indexes, keys } from '../../journal/documents.js';
import type { Journal } from '../../journal/journal.js';
import type { Export, Pool } from '../../model/resources.js';
import { pageSize, requireName } from '../../model/validation.js';
import { BackendError } from '../../ports/backend.js';
import { type CoreContext, getPool } from '../context.js';
import { openToken, sealToken } from '../page-tokens.js';
import type {
  AdminService,
  Caller,
  CheckAnswer,
  CheckRequest,
  RebuildAnswer,
  RebuildRequest,
  RepairAnswer,
  Repaired,
  RepairRequest,
  StoreBackup,
} from '../types.js';
import { type Difference, type FindingClass, Report } from './findings.js';
import { type Hold, markCopy } from './hold.js';
import type { Progress } from './looking.js';
import { Mender } from './mender.js';
import { Survey } from './survey.js';
import { REBUILD_WALKS, takeBatch, WALKS, type Walk } from './walk.js';

/** How long one call looks at most, in milliseconds, so that whoever watches sees it go on. */
const LONGEST_CALL_MILLISECONDS = 20_000;

/** Where a call goes on. */
interface Position {
  readonly poolId: string;
  readonly walk: Walk;
  readonly cursor: string;
  /** Whether something of what has been looked at by now could not be mended. */
  readonly failed: boolean;
}

/** What a walk through everything does with what differs. */
type Handle = (difference: readonly Difference[], again: () => Promise<readonly Difference[]>) => Promise<boolean>;

/** The use cases of whether store, catalogue and backend agree. */
export class Admin implements AdminService {
  readonly #core: CoreContext;
  readonly #journal: Journal;
  readonly #hold: Hold;
  readonly #inc: string;
  readonly #signal: AbortSignal;

  constructor(core: CoreContext, journal: Journal, hold: Hold, controller: { inc: string; signal: AbortSignal }) {
    this.#core = core;
    this.#journal = journal;
    this.#hold = hold;
    this.#inc = controller.inc;
    this.#signal = controller.signal;
  }

  async check(request: CheckRequest, caller: Caller): Promise<CheckAnswer> {
    const limit = pageSize(request.pageSize);
    const binding = bindingOf(caller, ['Check', request.poolId]);
    const findings: CheckAnswer['findings'][number][] = [];
    const walked = await this.#walk(request.poolId, WALKS, this.#open(request.pageToken, binding), caller, {
      full: () => findings.length >= limit,
      handle: async (differences) => {
        findings.push(...differences.map(({ finding }) => finding));
        return true;
      },
    });
    return { findings, nextPageToken: this.#seal(walked.next, binding), progress: walked.progress };
  }

  async repair(request: RepairRequest, caller: Caller): Promise<RepairAnswer> {
    const limit = pageSize(request.pageSize);
    const { classes, resourceIds, validateOnly, poolId } = request;
    const binding = bindingOf(caller, ['Repair', poolId, [...classes].sort(), [...resourceIds].sort(), validateOnly]);
    const repaired: Repaired[] = [];
    const mender = this.#mender(caller, classes, validateOnly);
    const only = new Set(resourceIds);
    const walked = await this.#walk(poolId, WALKS, this.#open(request.pageToken, binding), caller, {
      full: () => repaired.length >= limit,
      handle: async (differences, again) => {
        const wanted = (difference: Difference) => only.size === 0 || only.has(difference.finding.resourceId);
        const outcomes = await mender.mendAll(differences.filter(wanted), async () => (await again()).filter(wanted));
        repaired.push(...outcomes);
        return outcomes.every(({ outcome }) => outcome !== 'failed');
      },
    });
    const complete = poolId === '' && classes.length === 0 && only.size === 0 && !validateOnly;
    if (walked.next === undefined && complete && !walked.failed) await this.#hold.release(this.#core);
    const stillHeld = walked.next === undefined && (await this.#hold.mark()) !== undefined;
    return { repaired, nextPageToken: this.#seal(walked.next, binding), progress: walked.progress, stillHeld };
  }

  async rebuild(request: RebuildRequest, caller: Caller): Promise<RebuildAnswer> {
    const binding = bindingOf(caller, ['Rebuild', request.validateOnly]);
    const position = this.#open(request.pageToken, binding);
    if (position === undefined) await this.#requireEmpty();
    const repaired: Repaired[] = [];
    const mender = this.#mender(caller, [], request.validateOnly);
    const walked = await this.#walk('', REBUILD_WALKS, position, caller, {
      full: () => repaired.length >= 1000,
      handle: async (differences, again) => {
        const outcomes = await mender.mendAll(differences, again);
        repaired.push(...outcomes);
        return outcomes.every(({ outcome }) => outcome !== 'failed');
      },
    });
    const unknown = walked.next === undefined ? await this.#unknown() : [];
    return { repaired, nextPageToken: this.#seal(walked.next, binding), progress: walked.progress, unknown };
  }

  async backupStore(_caller: Caller): Promise<StoreBackup> {
    const { store, clock, settings } = this.#core;
    const time = clock.now();
    const stamp = new Date(time).toISOString().replaceAll(/[-:]/g, '').replace(/\..*/, 'Z');
    const path = `${settings.backupDirectory}/store-${stamp}-${randomBytes(4).toString('hex')}.db`;
    const { sizeBytes } = await store.backup(path, markCopy({ backupTime: time, settled: false }));
    return { path, sizeBytes, time };
  }

  /**
   * What may be put right without anybody asking: images, users and cut-offs that a late request has made, and users whose
   * rights somebody has changed.
   */
  async sweep(): Promise<number> {
    const caller: Caller = {
      name: 'sweep',
      role: 'admin',
      deadline: Number.POSITIVE_INFINITY,
      requestId: '',
      signal: this.#signal,
    };
    const swept: readonly FindingClass[] = ['image-orphaned', 'access-orphaned', 'access-differs', 'cut-off-left'];
    const mender = this.#mender(caller, [], false);
    let mended = 0;
    await this.#walk('', ['exports', 'catalogue', 'users', 'images', 'cut-offs'], undefined, caller, {
      full: () => this.#signal.aborted,
      handle: async (differences, again) => {
        const mine = (all: readonly Difference[]) => all.filter(({ finding }) => swept.includes(finding.class));
        const outcomes = await mender.mendAll(mine(differences), async () => mine(await again()));
        for (const { finding, outcome } of outcomes) {
          if (outcome !== 'mended') continue;
          mended += 1;
          this.#core.events.notice({
            level: 'warn',
            message: 'something on the storage was not as it should be, and was put right',
            fields: { class: finding.class, resource: finding.resourceId, pool: finding.poolId },
          });
        }
        return true;
      },
    });
    return mended;
  }

  #mender(caller: Caller, classes: readonly FindingClass[], validateOnly: boolean): Mender {
    return new Mender(this.#core, this.#journal, { caller, classes, validateOnly, inc: this.#inc });
  }

  #open(token: string, binding: string): Position | undefined {
    if (token === '') return undefined;
    return JSON.parse(openToken(this.#core.vault, token, binding)) as Position;
  }

  #seal(position: Position | undefined, binding: string): string {
    return position === undefined ? '' : sealToken(this.#core.vault, JSON.stringify(position), binding);
  }

  /** Goes through all walks of all pools from a position, until there is enough for one answer. */
  async #walk(
    onlyPool: string,
    walks: readonly Walk[],
    from: Position | undefined,
    caller: Caller,
    work: { readonly full: () => boolean; readonly handle: Handle },
  ): Promise<{ readonly next: Position | undefined; readonly progress: Progress; readonly failed: boolean }> {
    const progress: Progress = { resources: 0, entries: 0, images: 0, foreignImages: 0, busy: 0 };
    const { clock } = this.#core;
    const began = clock.monotonic();
    const share = (caller.deadline - began) / 2;
    const until = began + (Number.isFinite(share) ? Math.min(share, LONGEST_CALL_MILLISECONDS) : share);
    const pools = await this.#pools(onlyPool);
    const [first] = pools;
    let position: Position | undefined =
      from ?? (first && { poolId: first.id, walk: walks[0] as Walk, cursor: '', failed: false });
    let failed = from?.failed ?? false;
    while (position !== undefined) {
      if (work.full() || clock.monotonic() >= until || caller.signal?.aborted === true) break;
      const { poolId, walk, cursor }: Position = position;
      const pool = pools.find(({ id }) => id === poolId);
      let rest: string | undefined;
      let skip = pool === undefined;
      if (pool !== undefined) {
        try {
          const survey = new Survey(this.#core, pool, caller.signal);
          const batch = await takeBatch(survey, walk, cursor, progress);
          for (const [id, differences] of batch.found) {
            if (!(await work.handle(differences, () => batch.again(id)))) failed = true;
          }
          rest = batch.cursor;
        } catch (error) {
          if (!(error instanceof BackendError)) throw error;
          skip = true;
          failed = true;
          await work.handle(notChecked(pool, error), async () => []);
        }
      }
      position = nextPosition(position, rest, skip, walks, pools, failed);
    }
    return { next: position, progress, failed };
  }

  async #pools(only: string): Promise<readonly Pool[]> {
    if (only !== '') {
      requireName('pool_id', only);
      return [(await getPool(this.#core.store, only)).value];
    }
    return (await listAll<Pool>(this.#core.store, indexes.pools)).map(({ value }) => value);
  }

  async #requireEmpty(): Promise<void> {
    const { store } = this.#core;
    for (const [index, what] of [
      [indexes.volumesAll, 'volumes'],
      [indexes.snapshotsAll, 'snapshots'],
      [indexes.exports, 'exports'],
    ] as const) {
      if ((await store.list(index, { limit: 1 })).documents.length === 0) continue;
      throw new MoorageError(
        'FAILED_PRECONDITION',
        `The store has ${what}: Rebuild is for an empty one. Repair takes in what a store does not know of.`,
        { reason: 'STORE_NOT_EMPTY' },
      );
    }
    if ((await listAll<Pool>(store, indexes.pools)).length === 0) {
      throw new MoorageError(
        'FAILED_PRECONDITION',
        'The store has no pools: create each under the id that it had, with its cluster and Ceph pool, and rebuild then.',
        { reason: 'NO_POOLS' },
      );
    }
  }

  /** What the catalogue does not hold. */
  async #unknown(): Promise<readonly string[]> {
    const { store } = this.#core;
    const items = (await listAll<Export>(store, indexes.exports)).map(({ value }) => value);
    const nodeIds = [...new Set(items.map(({ nodeId }) => nodeId))];
    const nodes = await store.getMany(nodeIds.map(keys.node));
    const missing = nodeIds.filter((_id, position) => nodes[position] === undefined);
    const told = missing.map((id) => {
      const open = items.filter(({ nodeId }) => nodeId === id).map((item) => item.id);
      return `The node ${id} has ${open.length} open exports (${open.slice(0, 10).join(', ')}), and its public key is not known: register it again.`;
    });
    return [
      ...told,
      'Nodes without open exports, their keys, addresses and tags: register them again.',
      'Grants that were not redeemed: ask for them again.',
      'Client tokens: a call that is repeated now with a token of before is a new call.',
      'Ids of what was purged: they are answered with NOT_FOUND now, as if they never had been.',
      'Settings and tags of the pools: they are what they were created with now.',
      'When something was last changed, where that was after its catalogue entry was written; and operations of before.',
    ];
  }
}

function bindingOf(caller: Caller, filter: unknown): string {
  return createHash('sha256')
    .update(JSON.stringify([caller.name, caller.role, filter]))
    .digest('base64url');
}

function notChecked(pool: Pool, error: BackendError): readonly Difference[] {
  const report = new Report(pool.id, '');
  report.none({
    class: 'pool-not-checked',
    says: `The storage of the pool ${pool.id} does not answer: ${error.message}`,
    remedy: 'See to it that it does, and check again.',
  });
  return report.differences;
}

function nextPosition(
  { poolId, walk }: Position,
  cursor: string | undefined,
  skipPool: boolean,
  walks: readonly Walk[],
  pools: readonly Pool[],
  failed: boolean,
): Position | undefined {
  if (cursor !== undefined) return { poolId, walk, cursor, failed };
  const following = skipPool ? undefined : walks[walks.indexOf(walk) + 1];
  if (following !== undefined) return { poolId, walk: following, cursor: '', failed };
  // Also when the pool was deleted meanwhile: the next by its name.
  const next = pools.find(({ id }) => id > poolId);
  return next && { poolId: next.id, walk: walks[0] as Walk, cursor: '', failed };
}
