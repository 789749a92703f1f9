import type { Image__Output } from '../../../generated/moorage/backend/v1/Image.js';
import type { Cluster } from '../librbd/cluster.js';
import { CephError, isCephError } from '../librbd/errors.js';
import { unlessAbsent } from '../librbd/header.js';
import { invalidField } from '../step-error.js';
import { ACCESS_OBJECT, accessCaps, accessUser, type CapsImage } from './caps.js';
import { forEachBounded, monitorJson } from './monitor.js';

interface AuthEntry {
  readonly entity: string;
  readonly key: string;
  readonly caps?: Readonly<Record<string, string>>;
}

/** Users that the monitors are asked for at once. */
const USERS_AT_ONCE = 16;

/**
 * Makes the export's user, or gives the one that is there exactly these rights.
 * @returns the user without "client.", and its key
 */
export async function grantAccess(
  cluster: Cluster,
  poolName: string,
  request: {
    readonly exportId: string;
    readonly image: Image__Output | null;
    readonly ancestors: readonly Image__Output[];
    readonly readOnly: boolean;
  },
): Promise<{ readonly user: string; readonly key: string }> {
  const user = userOf(request.exportId);
  const image = capsImage('image', request.image);
  const ancestors = request.ancestors.map((each, index) => capsImage(`ancestors[${index}]`, each));
  const caps = accessCaps(image, ancestors, request.readOnly);
  // Listed before it is made and as long as it may exist: the monitors list users only together with their keys.
  await cluster.withPool(poolName, (pool) =>
    pool.omapSet(ACCESS_OBJECT, [{ key: request.exportId, value: Buffer.from('1') }]),
  );
  const entity = `client.${user}`;
  const make = () => monitorJson<readonly AuthEntry[]>(cluster, { prefix: 'auth get-or-create', entity, caps });
  const entries = await make().catch(async (error: unknown) => {
    // It is there with other rights.
    if (!isCephError(error, 'EINVAL')) throw error;
    await cluster.monCommand({ prefix: 'auth caps', entity, caps });
    return make();
  });
  const key = entries.find((entry) => entry.entity === entity)?.key;
  if (key === undefined || key === '') throw new Error(`the monitors gave no key for ${entity}`);
  return { user, key };
}

/** Whether the export's user is there, and is as `grantAccess` would make it now. */
export async function inspectAccess(
  cluster: Cluster,
  request: {
    readonly exportId: string;
    readonly image: Image__Output | null;
    readonly ancestors: readonly Image__Output[];
    readonly readOnly: boolean;
    readonly accessJson: Buffer;
  },
): Promise<{ readonly exists: boolean; readonly rightsMatch: boolean; readonly accessMatches: boolean }> {
  const user = userOf(request.exportId);
  const ancestors = request.ancestors.map((each, index) => capsImage(`ancestors[${index}]`, each));
  const wanted =
    request.image === null ? [] : accessCaps(capsImage('image', request.image), ancestors, request.readOnly);
  const entity = `client.${user}`;
  let entries: readonly AuthEntry[];
  try {
    entries = await monitorJson<readonly AuthEntry[]>(cluster, { prefix: 'auth get', entity });
  } catch (error) {
    if (isCephError(error, 'ENOENT')) return { exists: false, rightsMatch: false, accessMatches: false };
    throw error;
  }
  const found = entries.find((entry) => entry.entity === entity);
  const caps = Object.entries(found?.caps ?? {}).flat();
  const access = JSON.stringify({ mode: 'managed', user, key: found?.key ?? '' });
  return {
    exists: found !== undefined,
    rightsMatch: JSON.stringify([...caps].sort()) === JSON.stringify([...wanted].sort()),
    accessMatches: request.accessJson.toString('utf8') === access,
  };
}

/** Deletes the export's user. One that is gone is OK. Clients that are connected stay so. */
export async function revokeAccess(cluster: Cluster, poolName: string, exportId: string): Promise<void> {
  const entity = `client.${userOf(exportId)}`;
  await ignoring('ENOENT', () => cluster.monCommand({ prefix: 'auth del', entity }));
  await cluster.withPool(poolName, (pool) => unlessAbsent(undefined, () => pool.omapRemove(ACCESS_OBJECT, [exportId])));
}

/** Exports of the pool whose users exist. */
export async function listAccess(cluster: Cluster, poolName: string): Promise<string[]> {
  return cluster.withPool(poolName, async (pool) => {
    const found: string[] = [];
    for (let after = ''; ; ) {
      const page = await unlessAbsent({ entries: [], more: false }, () =>
        pool.omapList(ACCESS_OBJECT, after, '', 1000),
      );
      await forEachBounded(page.entries, USERS_AT_ONCE, async ({ key }) => {
        if (await exists(cluster, key)) found.push(key);
      });
      const last = page.entries.at(-1);
      if (!page.more || last === undefined) return found;
      after = last.key;
    }
  });
}

async function exists(cluster: Cluster, exportId: string): Promise<boolean> {
  try {
    await cluster.monCommand({ prefix: 'auth get', entity: `client.${userOf(exportId)}` });
    return true;
  } catch (error) {
    if (isCephError(error, 'ENOENT')) return false;
    throw error;
  }
}

/** The user of an export, without "client.". @throws StepError when the id would not do as part of a user's name */
export function userOf(exportId: string): string {
  // Only with this beginning is the user's name under the prefix that the fence user may touch.
  if (!/^exp-[A-Za-z0-9][A-Za-z0-9-]{0,59}$/.test(exportId)) {
    throw invalidField(
      'export_id',
      'must be "exp-", then letters, digits and "-", at most 64, as exp-0123456789abcdef0',
    );
  }
  return accessUser(exportId);
}

// Both become part of rights: nothing may be in them that ends a prefix and begins another grant.
function capsImage(field: string, image: Image__Output | null): CapsImage {
  if (image === null) throw invalidField(field, 'must be given');
  return {
    name: requireName(`${field}.name`, image.name),
    backendId: requireId(`${field}.backend_id`, image.backendId),
  };
}

function requireName(field: string, name: string): string {
  if (!/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/.test(name)) {
    throw invalidField(field, 'must be letters, digits, "_", "-" and ".", at most 128');
  }
  return name;
}

/** An image's id in RBD. @throws StepError when it cannot be one */
export function requireId(field: string, id: string): string {
  if (!/^[0-9a-zA-Z]{1,64}$/.test(id)) throw invalidField(field, 'must be the id of an RBD image: letters and digits');
  return id;
}

async function ignoring(errnoName: string, act: () => Promise<unknown>): Promise<void> {
  try {
    await act();
  } catch (error) {
    if (!(error instanceof CephError) || error.errnoName !== errnoName) throw error;
  }
}
