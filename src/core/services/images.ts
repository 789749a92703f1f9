import { type ErrorCode, MoorageError } from '../errors.js';
import type { PhaseContext } from '../journal/definition.js';
import { putDebris } from '../journal/documents.js';
import { type ImageParent, type ImageRecord, nextImageName } from '../model/image.js';
import type { Debris, Pool } from '../model/resources.js';
import { type BackendError, BackendError as BackendFailure, type OwnConnection } from '../ports/backend.js';
import type { Write } from '../ports/store.js';
import { type ImageIdentity, imageEntry } from './catalogue.js';
import type { CoreContext } from './context.js';

/** What the plan of an operation that makes an image holds for it. */
export interface ImagePlan {
  readonly identity: ImageIdentity;
  readonly parent?: ImageParent;
  /** Empty for none. */
  readonly pointName: string;
}

/** What came of making an image: it, or what to purge before the step is done again under the next name. */
export type MadeImage = { readonly made: ImageRecord } | { readonly again: ImagePlan; readonly debris: Debris };

/**
 * Makes an image after its catalogue entry, or finds that a former try left something under that name that cannot be used.
 * @throws BackendError
 */
export async function makeImage<Plan>(
  core: CoreContext,
  context: PhaseContext<Plan>,
  pool: Pool,
  plan: ImagePlan,
): Promise<MadeImage> {
  const { identity } = plan;
  const outcome = await context.step('create-image', (step) =>
    core.backend().data.createImage(
      pool,
      {
        catalogueEntry: imageEntry(core.vault, identity),
        name: identity.name,
        sizeBytes: identity.sizeBytes,
        pointName: plan.pointName,
        ...(plan.parent === undefined ? {} : { parent: plan.parent }),
      },
      step,
    ),
  );
  const record = imageRecord(plan, outcome.backendId, outcome.points);
  if (outcome.kind === 'made') return { made: record };
  const name = nextImageName(identity.id, identity.name);
  return {
    again: { ...plan, identity: { ...identity, name } },
    debris: {
      name: identity.name,
      poolId: pool.id,
      image: record,
      reason: outcome.reason,
      createTime: core.clock.now(),
    },
  };
}

/** Moorage's record of an image that a plan makes. */
export function imageRecord(plan: ImagePlan, backendId: string, points: ImageRecord['points']): ImageRecord {
  const { identity } = plan;
  return {
    name: identity.name,
    backendId,
    sizeBytes: identity.sizeBytes,
    largestSizeBytes: identity.sizeBytes,
    points,
    formerNames: identity.formerNames,
    ...(plan.parent === undefined ? {} : { parent: plan.parent }),
  };
}

/** What a plan that could not be carried out leaves to the reaper: the image, or whatever may be there under its name. */
export function debrisOf(core: CoreContext, pool: Pool, plan: ImagePlan, reason: string, made?: ImageRecord): Write {
  const image = made ?? imageRecord(plan, '', []);
  return putDebris({ name: image.name, poolId: pool.id, image, reason, createTime: core.clock.now() }, 'any');
}

const CALLER_CODES: ReadonlySet<string> = new Set(['RESOURCE_EXHAUSTED', 'OUT_OF_RANGE', 'FAILED_PRECONDITION']);

/** A step's refusal as the caller is told. */
export function refusal(error: BackendError, what: string): MoorageError {
  const code: ErrorCode = CALLER_CODES.has(error.code) ? (error.code as ErrorCode) : 'FAILED_PRECONDITION';
  return new MoorageError(code, `${what}: ${error.message}`, {
    reason: error.reason,
    metadata: error.metadata,
    cause: error,
  });
}

/** What an agent says of a connection of its own: it went with the agent that opened it, or the node cut it off. */
const LOST_CONNECTION: ReadonlySet<string> = new Set(['UNKNOWN_CONNECTION', 'CONNECTION_CUT_OFF']);

/** Whether a step failed because its own connection is gone: it needs another one. */
export function isLostConnection(error: unknown): boolean {
  return error instanceof BackendFailure && LOST_CONNECTION.has(error.reason);
}

/**
 * Closes a connection of its own. A refusal is passed over: what was done on it stays done, and nothing is undone for that.
 * @throws BackendError when the outcome is unknown
 */
export async function closeConnection<Plan>(
  core: CoreContext,
  context: PhaseContext<Plan>,
  pool: Pool,
  connection: OwnConnection,
): Promise<void> {
  try {
    await context.step('close-connection', (step) => core.backend().data.closeConnection(pool, connection, step));
  } catch (error) {
    if (!(error instanceof BackendFailure && error.failure === 'permanent')) throw error;
  }
}
