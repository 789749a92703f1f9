/**
 * The key files: the node's (its key pairs, and the controllers that it trusts) and the controller's (its sealing key
 * pairs). JSON, mode 0600, written whole or not at all.
 */
import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, link, mkdir, open, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import { KeyError } from './errors.js';
import { decodeKey, generateKeyPair, type KeyPair, keyIdOf, keyPairFromSecret } from './keys.js';
import { describeIssues } from './schema.js';

const storedKey = z.object({
  key_id: z.string(),
  public_key: z.string(),
  secret_key: z.string(),
  created_at: z.iso.datetime(),
});
const storedPrevious = storedKey.extend({ expires_at: z.iso.datetime() });
const nodeFileSchema = z.object({
  kind: z.literal('moorage-node-keys'),
  version: z.literal(1),
  current: storedKey,
  previous: z.array(storedPrevious),
  /** The next one, which the controller may know already. */
  pending: storedKey.optional(),
  controller_keys: z.array(z.object({ key_id: z.string(), public_key: z.string() })),
});
const controllerFileSchema = z.object({
  kind: z.literal('moorage-controller-keys'),
  version: z.literal(1),
  current: storedKey,
  previous: z.array(storedPrevious),
});
const NO_NODE_FILE = 'run "storage-utils init", or "storage-utils enroll"';
type NodeFile = z.infer<typeof nodeFileSchema>;
type ControllerFile = z.infer<typeof controllerFileSchema>;
type StoredKey = z.infer<typeof storedKey>;

/** What a node's key file holds. */
export interface NodeKeys {
  /** What new descriptors are sealed to. */
  readonly current: KeyPair;
  /** The current pair first, then the next one and the previous ones that have not expired: what descriptors are opened with. */
  readonly all: readonly KeyPair[];
  /** Public keys of the controllers whose descriptors this node takes. */
  readonly controllerPublicKeys: readonly Uint8Array[];
}

/** What the controller's key file holds. */
export interface ControllerKeys {
  /** Seals new descriptors. */
  readonly current: KeyPair;
  /** The current pair first, then the previous ones that have not expired: what the public keys are printed of. */
  readonly all: readonly KeyPair[];
}

/**
 * Makes a node's key file.
 * @param controllerPublicKeys the controllers to trust from the beginning; more with {@link trustController}.
 * @throws {KeyError} `exists` when there is a file already: it is never overwritten.
 */
export async function createNodeKeyFile(
  path: string,
  controllerPublicKeys: readonly Uint8Array[] = [],
): Promise<NodeKeys> {
  const file: NodeFile = {
    kind: 'moorage-node-keys',
    version: 1,
    current: store(generateKeyPair()),
    previous: [],
    controller_keys: controllerPublicKeys.map(storePublic),
  };
  await writeKeyFile(path, file, 'new');
  return nodeKeys(file, path, new Date());
}

/**
 * Reads a node's key file.
 * @throws {KeyError} when it is missing, readable by others, owned by another user or malformed.
 */
export async function loadNodeKeyFile(path: string, now: Date = new Date()): Promise<NodeKeys> {
  return nodeKeys(await readKeyFile(path, nodeFileSchema, NO_NODE_FILE), path, now);
}

/** Adds a controller's public key to those that this node trusts; does nothing when it is there. Throws as {@link loadNodeKeyFile}. */
export async function trustController(path: string, controllerPublicKey: Uint8Array): Promise<NodeKeys> {
  const file = await readKeyFile(path, nodeFileSchema, NO_NODE_FILE);
  const added = storePublic(controllerPublicKey);
  if (!file.controller_keys.some((known) => known.public_key === added.public_key)) {
    file.controller_keys.push(added);
    await writeKeyFile(path, file, 'replace');
  }
  return nodeKeys(file, path, new Date());
}

/**
 * Makes the key pair that is to follow the current one, or gives the one that was made and not adopted yet. Descriptors that are
 * sealed to it open from now on. Throws as {@link loadNodeKeyFile}.
 */
export async function prepareNodeKey(path: string): Promise<KeyPair> {
  const file = await readKeyFile(path, nodeFileSchema, NO_NODE_FILE);
  if (file.pending === undefined) {
    file.pending = store(generateKeyPair());
    await writeKeyFile(path, file, 'replace');
  }
  return restore(file.pending, path);
}

/**
 * Makes the prepared key pair the current one; the old one still opens descriptors until `previousExpiresAt`, and what expired
 * before is dropped. Does nothing when none was prepared. Throws as {@link loadNodeKeyFile}.
 */
export async function adoptNodeKey(path: string, previousExpiresAt: Date, now: Date = new Date()): Promise<NodeKeys> {
  const file = await readKeyFile(path, nodeFileSchema, NO_NODE_FILE);
  const { pending, ...rest } = file;
  if (pending === undefined) return nodeKeys(file, path, now);
  const alive = file.previous.filter((key) => Date.parse(key.expires_at) > now.getTime());
  const previous = [{ ...file.current, expires_at: previousExpiresAt.toISOString() }, ...alive];
  const adopted: NodeFile = { ...rest, current: pending, previous };
  await writeKeyFile(path, adopted, 'replace');
  return nodeKeys(adopted, path, now);
}

/** Makes the controller's key file. @throws {KeyError} `exists` when there is a file already. */
export async function createControllerKeyFile(path: string): Promise<ControllerKeys> {
  const file: ControllerFile = {
    kind: 'moorage-controller-keys',
    version: 1,
    current: store(generateKeyPair()),
    previous: [],
  };
  await writeKeyFile(path, file, 'new');
  return { current: restore(file.current, path), all: allKeys(file, path, new Date()) };
}

/** Reads the controller's key file. Throws as {@link loadNodeKeyFile}. */
export async function loadControllerKeyFile(path: string, now: Date = new Date()): Promise<ControllerKeys> {
  const file = await readKeyFile(path, controllerFileSchema, "make it with the controller's set-up");
  return { current: restore(file.current, path), all: allKeys(file, path, now) };
}

/** Reads the controller's key file, and makes it first when there is none. Safe when two processes do so at once. */
export async function loadOrCreateControllerKeyFile(path: string): Promise<ControllerKeys> {
  try {
    return await loadControllerKeyFile(path);
  } catch (error) {
    if (!(error instanceof KeyError && error.code === 'missing')) {
      throw error;
    }
  }
  try {
    return await createControllerKeyFile(path);
  } catch (error) {
    if (error instanceof KeyError && error.code === 'exists') {
      return loadControllerKeyFile(path);
    }
    throw error;
  }
}

function nodeKeys(file: NodeFile, path: string, now: Date): NodeKeys {
  const all = allKeys(file, path, now);
  return {
    current: restore(file.current, path),
    all,
    controllerPublicKeys: file.controller_keys.map((key) => decodeKey(key.public_key, `controller_keys of ${path}`)),
  };
}

function allKeys(file: NodeFile | ControllerFile, path: string, now: Date): KeyPair[] {
  const alive = file.previous.filter((key) => Date.parse(key.expires_at) > now.getTime());
  const pending = 'pending' in file && file.pending !== undefined ? [file.pending] : [];
  return [file.current, ...pending, ...alive].map((key) => restore(key, path));
}

function store(pair: KeyPair): StoredKey {
  return {
    key_id: pair.keyId,
    public_key: Buffer.from(pair.publicKey).toString('base64'),
    secret_key: Buffer.from(pair.secretKey).toString('base64'),
    created_at: new Date().toISOString(),
  };
}

function storePublic(publicKey: Uint8Array): { key_id: string; public_key: string } {
  return { key_id: keyIdOf(publicKey), public_key: Buffer.from(publicKey).toString('base64') };
}

function restore(key: StoredKey, path: string): KeyPair {
  const pair = keyPairFromSecret(decodeKey(key.secret_key, `secret_key of ${path}`));
  if (Buffer.from(pair.publicKey).toString('base64') !== key.public_key) {
    throw new KeyError('malformed', `${path}: public_key does not belong to secret_key; restore the file from a copy`);
  }
  return pair;
}

async function readKeyFile<Schema extends z.ZodType>(
  path: string,
  schema: Schema,
  remedy: string,
): Promise<z.infer<Schema>> {
  let handle: FileHandle;
  try {
    // Not through a symbolic link: whoever may place one could swap the file between check and use.
    handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    if (code === 'ENOENT') {
      throw new KeyError('missing', `there is no key file ${path}; ${remedy}`, { cause: error });
    }
    throw new KeyError('unreadable', `the key file ${path} cannot be read (${String(code)})`, { cause: error });
  }
  let text: string;
  try {
    const status = await handle.stat();
    const mode = (status.mode & 0o7777).toString(8).padStart(4, '0');
    if (!status.isFile()) {
      throw new KeyError('malformed', `${path} is not a file`);
    }
    if ((status.mode & 0o077) !== 0) {
      throw new KeyError(
        'loose-mode',
        `the key file ${path} has mode ${mode}, so others may read it; run "chmod 0600 ${path}"`,
      );
    }
    if (process.geteuid !== undefined && status.uid !== process.geteuid()) {
      throw new KeyError(
        'wrong-owner',
        `the key file ${path} belongs to user ${status.uid}, not to the user who runs this (${process.geteuid()})`,
      );
    }
    text = await handle.readFile('utf8');
  } finally {
    await handle.close();
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    // Without the parser's own message: it can repeat a piece of the secret.
    throw new KeyError('malformed', `the key file ${path} is not JSON; restore it from a copy`);
  }
  const parsed = schema.safeParse(value);
  if (!parsed.success) {
    throw new KeyError('malformed', `the key file ${path} is wrong: ${describeIssues(parsed.error)}`);
  }
  return parsed.data;
}

/** Written beside its place, synced, then linked (`new`: fails when something is there) or renamed (`replace`). */
async function writeKeyFile(path: string, value: NodeFile | ControllerFile, how: 'new' | 'replace'): Promise<void> {
  const directory = dirname(path);
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const temporary = join(directory, `.moorage-key.${randomBytes(8).toString('hex')}`);
  try {
    const handle = await open(temporary, 'wx', 0o600);
    try {
      await handle.writeFile(`${JSON.stringify(value, null, 2)}\n`);
      await handle.sync();
    } finally {
      await handle.close();
    }
    if (how === 'replace') {
      await rename(temporary, path);
    } else {
      await link(temporary, path);
    }
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST') {
      throw new KeyError('exists', `there is a key file ${path} already; it was left as it is`, { cause: error });
    }
    throw error;
  } finally {
    await rm(temporary, { force: true });
  }
  const folder = await open(directory, constants.O_RDONLY);
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}
