import { createHash, hkdfSync, randomBytes } from 'node:crypto';
import { closeSync, constants, readFile } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { promisify } from 'node:util';
import { z } from 'zod';

/** Length of a master key in bytes. */
export const MASTER_KEY_BYTES = 32;

/** Length of a key id in bytes, as it stands before what was sealed. */
export const KEY_ID_BYTES = 8;

/** A master key that cannot be used. Names the file and the remedy; never holds a piece of the key. */
export class MasterKeyError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'MasterKeyError';
  }
}

/** One master key. */
export interface MasterKey {
  /** 16 hexadecimal digits; made from the key, so that a file cannot name it wrongly. */
  readonly id: string;
  /** 32 bytes. */
  readonly secret: Uint8Array;
}

/** What a key file holds: seal with the first, open with any. More than one only while a rotation is under way. */
export interface MasterKeys {
  readonly current: MasterKey;
  readonly all: readonly MasterKey[];
}

const storedKey = z.strictObject({ key_id: z.string(), key: z.string(), created_at: z.string() });
const fileSchema = z.strictObject({
  kind: z.literal('moorage-master-key'),
  version: z.literal(1),
  current: storedKey,
  /** Keys that something may still be sealed under. */
  previous: z.array(storedKey),
});

// The largest file that makes sense; a mistaken path (a device, a log) is then refused at once.
const LARGEST_FILE_BYTES = 64 * 1024;

/**
 * Makes a master key file, mode 0600.
 * @returns the id of the new key.
 * @throws {MasterKeyError} when the file is there already: it is never overwritten, everything in the store hangs on it.
 */
export async function createMasterKeyFile(path: string): Promise<string> {
  const secret = randomBytes(MASTER_KEY_BYTES);
  const id = masterKeyId(secret);
  const content = {
    kind: 'moorage-master-key',
    version: 1,
    current: { key_id: id, key: secret.toString('base64'), created_at: new Date().toISOString() },
    previous: [],
  };
  let file: FileHandle;
  try {
    file = await open(path, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW, 0o600);
  } catch (cause) {
    throw new MasterKeyError(
      errorCode(cause) === 'EEXIST'
        ? `${path} is there already; a master key file is never overwritten, because what it sealed would be lost`
        : `${path} cannot be made: ${errorCode(cause)}`,
      { cause },
    );
  }
  try {
    await file.writeFile(`${JSON.stringify(content, undefined, 2)}\n`);
    await file.sync();
  } finally {
    await file.close();
    secret.fill(0);
  }
  return id;
}

/**
 * Reads a master key file.
 * @throws {MasterKeyError} when it is missing, not a plain file, owned by somebody else, open to others, or malformed.
 */
export async function loadMasterKeyFile(path: string): Promise<MasterKeys> {
  let file: FileHandle;
  try {
    file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (cause) {
    const remedy =
      errorCode(cause) === 'ENOENT'
        ? `there is no master key file ${path}; make one with: moorage-controller init-master-key ${path}`
        : `the master key file ${path} cannot be read: ${errorCode(cause)}`;
    throw new MasterKeyError(remedy, { cause });
  }
  try {
    const status = await file.stat();
    if (!status.isFile()) throw new MasterKeyError(`${path} is not a plain file`);
    const mode = status.mode & 0o7777;
    if ((mode & 0o077) !== 0) {
      throw new MasterKeyError(
        `the master key file ${path} is open to others (mode 0${mode.toString(8)}); it must be 0600: chmod 0600 ${path}`,
      );
    }
    const user = process.getuid?.();
    if (status.uid !== 0 && user !== undefined && status.uid !== user) {
      throw new MasterKeyError(
        `the master key file ${path} belongs to user ${status.uid}; it must belong to the controller's user (${user}) or to root`,
      );
    }
    if (status.size > LARGEST_FILE_BYTES) throw new MasterKeyError(`${path} is too large for a master key file`);
    return parse(await file.readFile('utf8'), path);
  } finally {
    await file.close();
  }
}

/**
 * Reads a master key from a file descriptor that was inherited, to its end, and closes it.
 * @throws {MasterKeyError} when the descriptor is not open or what comes from it is no master key
 */
export async function loadMasterKeyFromDescriptor(descriptor: number): Promise<MasterKeys> {
  const name = `file descriptor ${descriptor}`;
  let text: string;
  try {
    // Read as it was handed over, and not opened anew: whoever starts the controller may read what its user may not.
    text = await promisify(readFile)(descriptor, 'utf8');
  } catch (cause) {
    throw new MasterKeyError(`the master key cannot be read from ${name}: ${errorCode(cause)}`, { cause });
  }
  closeSync(descriptor);
  return parse(text, name);
}

/** The id of a key: the first 16 hexadecimal digits of an HKDF of it, so that the id says nothing about the key. */
export function masterKeyId(secret: Uint8Array): string {
  const derived = new Uint8Array(hkdfSync('sha256', secret, '', 'moorage master key id', 32));
  return createHash('sha256')
    .update(derived)
    .digest('hex')
    .slice(0, KEY_ID_BYTES * 2);
}

function parse(text: string, name: string): MasterKeys {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    // Without the cause: the message of JSON.parse repeats a piece of the text.
    throw new MasterKeyError(`${name} holds no master key: it is not JSON`);
  }
  const parsed = fileSchema.safeParse(value);
  if (!parsed.success) {
    const wrong = parsed.error.issues.map((issue) => issue.path.join('.') || 'it').join(', ');
    throw new MasterKeyError(`${name} holds no master key that this version understands: ${wrong} is wrong`);
  }
  const current = restore(parsed.data.current, name);
  return { current, all: [current, ...parsed.data.previous.map((key) => restore(key, name))] };
}

function restore(stored: z.infer<typeof storedKey>, name: string): MasterKey {
  const secret = Buffer.from(stored.key, 'base64');
  if (secret.length !== MASTER_KEY_BYTES || secret.toString('base64') !== stored.key) {
    throw new MasterKeyError(`${name} is damaged: a key in it is not the base64 of ${MASTER_KEY_BYTES} bytes`);
  }
  const id = masterKeyId(secret);
  if (id !== stored.key_id)
    throw new MasterKeyError(`${name} is damaged: the key that it calls ${stored.key_id} is ${id}`);
  return { id, secret: Uint8Array.from(secret) };
}

function errorCode(error: unknown): string {
  const code = (error as NodeJS.ErrnoException | undefined)?.code;
  return code ?? 'unknown error';
}
