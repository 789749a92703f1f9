import { randomUUID } from 'node:crypto';
import { open, readFile, rename, rm, stat } from 'node:fs/promises';
import { ACCESS_USER_PREFIX, dataCaps, fenceCaps } from './fence/caps.js';
import { monitorJson } from './fence/monitor.js';
import { Cluster, timeoutOverrides } from './librbd/cluster.js';
import { CephError, isCephError } from './librbd/errors.js';
import { TRASH_OBJECT } from './librbd/header.js';
import { initialiseForRbd } from './librbd/pool.js';

/** What {@link initialisePool} is told. */
export interface PoolInitialisation {
  /** Path of the cluster's ceph.conf. */
  readonly configurationFile: string;
  /** An administrator, without "client.", as "admin". */
  readonly adminUser: string;
  /** Path of the administrator's keyring. Used here and kept nowhere. */
  readonly adminKeyring: string;
  /** Name of the pool; it must exist. */
  readonly cephPool: string;
  /** User of the role "data", without "client.". */
  readonly dataUser: string;
  /** Where its keyring is written (0600). */
  readonly dataKeyringFile: string;
  /** User of the role "fence", without "client.". */
  readonly fenceUser: string;
  /** Where its keyring is written (0600). */
  readonly fenceKeyringFile: string;
}

/** What {@link initialisePool} found and did; no secret. */
export interface PoolInitialisationResult {
  readonly fsid: string;
  /** Every pool that the two users may reach now. */
  readonly pools: readonly string[];
  /** Users that were made; others were there and got their rights set. */
  readonly usersMade: readonly string[];
}

interface AuthEntry {
  readonly entity: string;
  readonly key: string;
  readonly caps: Readonly<Record<string, string>>;
}

/**
 * Makes a Ceph pool ready for Moorage, with an administrator's key: the pool's tag for RBD, and the controller's two users
 * with the least rights that do, whose keyrings are written to files. May be called again, and for several pools of a
 * cluster: the users then may reach all of them.
 * @throws Error that says what is wrong with the settings; CephError
 */
export async function initialisePool(settings: PoolInitialisation): Promise<PoolInitialisationResult> {
  requireUser('dataUser', settings.dataUser);
  requireUser('fenceUser', settings.fenceUser);
  if (settings.dataUser === settings.fenceUser) {
    throw new Error('dataUser and fenceUser must be two users: whoever moves data must not be able to cut clients off');
  }
  if (!/^[A-Za-z0-9_.][A-Za-z0-9_.-]{0,127}$/.test(settings.cephPool)) {
    throw new Error(`cephPool: ${JSON.stringify(settings.cephPool)} must be letters, digits, "_", "-" and "."`);
  }
  const cluster = await Cluster.connect({
    configurationFile: settings.configurationFile,
    user: settings.adminUser,
    keyringFile: settings.adminKeyring,
    overrides: timeoutOverrides(30),
  });
  try {
    await preparePool(cluster, settings.cephPool);
    const [data, fence] = [`client.${settings.dataUser}`, `client.${settings.fenceUser}`];
    const before = { data: await findUser(cluster, data), fence: await findUser(cluster, fence) };
    const pools = [...new Set([...poolsOf(before.data), ...poolsOf(before.fence), settings.cephPool])].sort();
    const dataKey = await setUser(cluster, data, dataCaps(pools), before.data);
    const fenceKey = await setUser(cluster, fence, fenceCaps(pools), before.fence);
    await writeKeyring(settings.dataKeyringFile, data, dataKey);
    await writeKeyring(settings.fenceKeyringFile, fence, fenceKey);
    const usersMade = [
      ...(before.data === undefined ? [settings.dataUser] : []),
      ...(before.fence === undefined ? [settings.fenceUser] : []),
    ];
    return { fsid: cluster.fsid(), pools, usersMade };
  } finally {
    await cluster.close();
  }
}

function requireUser(field: string, user: string): void {
  if (!/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$/.test(user)) {
    throw new Error(`${field}: ${JSON.stringify(user)} must be letters, digits, "_", "-" and ".", without "client."`);
  }
  if (user.startsWith(ACCESS_USER_PREFIX)) {
    throw new Error(
      `${field}: ${JSON.stringify(user)} must not begin with "${ACCESS_USER_PREFIX}": the users of exports do`,
    );
  }
}

async function preparePool(cluster: Cluster, name: string): Promise<void> {
  let applications: string[];
  try {
    const tags = await monitorJson<Readonly<Record<string, unknown>>>(cluster, {
      prefix: 'osd pool application get',
      pool: name,
    });
    applications = Object.keys(tags);
  } catch (error) {
    if (!isCephError(error, 'ENOENT')) throw error;
    throw new Error(`there is no pool "${name}" in this cluster; make it first: ceph osd pool create ${name}`, {
      cause: error,
    });
  }
  const others = applications.filter((application) => application !== 'rbd');
  if (others.length > 0) {
    throw new Error(`pool "${name}" is used for ${others.join(', ')}; Moorage needs a pool of its own, tagged "rbd"`);
  }
  await cluster.withPool(name, async (pool) => {
    await initialiseForRbd(pool);
    // A full pool takes no new object, and deleting must work there: the first image that is deleted must find RBD's trash.
    if (!(await pool.exists(TRASH_OBJECT))) await pool.writeFull(TRASH_OBJECT, Buffer.alloc(0));
  });
}

async function findUser(cluster: Cluster, entity: string): Promise<AuthEntry | undefined> {
  try {
    return (await monitorJson<readonly AuthEntry[]>(cluster, { prefix: 'auth get', entity }))[0];
  } catch (error) {
    if (isCephError(error, 'ENOENT')) return undefined;
    throw error;
  }
}

/** Pools that our own rights name. */
function poolsOf(user: AuthEntry | undefined): string[] {
  return [...(user?.caps.osd ?? '').matchAll(/\bpool=([A-Za-z0-9_.-]+)/g)].map((match) => match[1] as string);
}

async function setUser(
  cluster: Cluster,
  entity: string,
  caps: readonly string[],
  before: AuthEntry | undefined,
): Promise<string> {
  if (before !== undefined) {
    await cluster.monCommand({ prefix: 'auth caps', entity, caps });
    return before.key;
  }
  const [made] = await monitorJson<readonly AuthEntry[]>(cluster, { prefix: 'auth get-or-create', entity, caps });
  if (made === undefined) throw new CephError('auth get-or-create', 5, entity);
  return made.key;
}

/**
 * Whole or not at all, and never readable by others, not for a moment. One that says this already stays as it is, with its owner
 * and mode: an agent that is started meanwhile must be able to read it.
 */
async function writeKeyring(path: string, entity: string, key: string): Promise<void> {
  const content = `[${entity}]\n\tkey = ${key}\n`;
  if (await isWritten(path, content)) return;
  const temporary = `${path}.${randomUUID()}.new`;
  const file = await open(temporary, 'wx', 0o600);
  try {
    await file.writeFile(content);
    await file.sync();
    await file.close();
    await rename(temporary, path);
  } catch (error) {
    await file.close().catch(() => undefined);
    await rm(temporary, { force: true });
    throw error;
  }
}

async function isWritten(path: string, content: string): Promise<boolean> {
  try {
    return (await readFile(path, 'utf8')) === content && ((await stat(path)).mode & 0o007) === 0;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw error;
  }
}
