/** What the command reads: descriptors, sizes, and the flags of a disk. */
import { open } from 'node:fs/promises';
import { MAX_DESCRIPTOR_BYTES } from '../descriptor/index.js';
import { StorageUtilsError } from './errors.js';
import { checkDiskOptions, type DiskOptions } from './libvirt/xml.js';

/** The flags that describe a disk, as commander gives them. */
export interface DiskFlags {
  readonly target?: string;
  readonly bus?: string;
  readonly cache?: string;
  readonly io?: string;
  readonly discard?: string;
  readonly detectZeroes?: string;
  readonly iotune?: string[];
  readonly address?: string;
  readonly bootOrder?: string;
  readonly shareable?: boolean;
  readonly readOnly?: boolean;
}

/** Disk options from the command's flags, checked. @throws {StorageUtilsError} `usage` that names the field. */
export function diskOptionsFrom(flags: DiskFlags): DiskOptions {
  const options = {
    target: flags.target,
    bus: flags.bus,
    cache: flags.cache,
    io: flags.io,
    discard: flags.discard,
    detectZeroes: flags.detectZeroes,
    iotune: flags.iotune && pairs(flags.iotune, '--iotune', wholeNumber),
    address: flags.address === undefined ? undefined : pairs(flags.address.split(','), '--address', String),
    bootOrder: flags.bootOrder === undefined ? undefined : Number(flags.bootOrder),
    shareable: flags.shareable,
    readOnly: flags.readOnly,
  };
  return checkDiskOptions(Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)));
}

// The text form is a third longer than the envelope; whatever is much longer is something else.
const MAX_FILE_BYTES = 2 * MAX_DESCRIPTOR_BYTES;

/**
 * Reads a descriptor from a file, or from stdin when it is "-".
 * @throws {StorageUtilsError} `not-found` without the file, `usage` when it is too long for a descriptor.
 */
export async function readDescriptor(path: string): Promise<Uint8Array> {
  return readInput(path, 'the descriptor', MAX_FILE_BYTES);
}

const MAX_SECRET_BYTES = 4096;

/** Reads a short secret text from a file, or from stdin when it is "-". Throws as {@link readDescriptor}. */
export async function readSecret(path: string, what: string): Promise<string> {
  return Buffer.from(await readInput(path, what, MAX_SECRET_BYTES)).toString('utf8');
}

async function readInput(path: string, what: string, most: number): Promise<Uint8Array> {
  if (path === '-') {
    return readStream(process.stdin, `${what} from stdin`, most);
  }
  const handle = await open(path, 'r').catch((error: unknown) => {
    const code = error instanceof Error && 'code' in error ? String(error.code) : '';
    const kind = code === 'ENOENT' ? 'not-found' : 'refused';
    throw new StorageUtilsError(kind, `${what} ${path} cannot be read (${code})`, { cause: error });
  });
  try {
    return await readStream(handle.createReadStream({ autoClose: false }), `${what} ${path}`, most);
  } finally {
    await handle.close();
  }
}

async function readStream(stream: AsyncIterable<Buffer | string>, name: string, most: number): Promise<Uint8Array> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of stream) {
    const bytes = Buffer.from(chunk);
    chunks.push(bytes);
    length += bytes.length;
    if (length > most) {
      throw new StorageUtilsError('usage', `${name} has more than ${most} bytes: it is something else`);
    }
  }
  return Buffer.concat(chunks);
}

const UNITS: Readonly<Record<string, number>> = {
  '': 1,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
  PiB: 2 ** 50,
};

/** Bytes of a size as people write it: `10GiB`, `512MiB`, or a plain number of bytes. @throws {StorageUtilsError} `usage`. */
export function parseSize(text: string): number {
  const match = /^([0-9]+)([KMGTP]iB)?$/.exec(text);
  const bytes = Number(match?.[1]) * (UNITS[match?.[2] ?? ''] ?? Number.NaN);
  if (!Number.isSafeInteger(bytes) || bytes <= 0) {
    throw new StorageUtilsError(
      'usage',
      'a size is a whole number of bytes, or with KiB, MiB, GiB, TiB or PiB, as 20GiB',
    );
  }
  return bytes;
}

/** Not Number alone: that makes 0, which means no limit at all, of an empty text. */
function wholeNumber(text: string): number {
  return /^[0-9]+$/.test(text) ? Number(text) : Number.NaN;
}

function pairs<Value>(texts: readonly string[], flag: string, convert: (text: string) => Value): Record<string, Value> {
  return Object.fromEntries(
    texts.map((text) => {
      const separator = text.indexOf('=');
      if (separator < 1) {
        throw new StorageUtilsError('usage', `${flag} takes name=value`);
      }
      return [text.slice(0, separator), convert(text.slice(separator + 1))];
    }),
  );
}
