/**
 * The sealed envelope of a descriptor: a tweetnacl box from the controller's sealing key to the node's key, behind a
 * visible header. docs/descriptor.md has the layout; test/contract/vectors/descriptor-v1.json pins it.
 *
 * A tweetnacl box authenticates no associated data, so the plaintext begins with SHA-256 of the header: a header that was
 * changed, in its version byte too, is found when the box is open.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import nacl from 'tweetnacl';
import { DescriptorError } from './errors.js';
import { KEY_ID_BYTES, type KeyPair, keyIdOf } from './keys.js';
import { type DescriptorPayload, describeIssues, descriptorPayloadSchema, PAYLOAD_VERSION } from './schema.js';

/** Largest envelope in bytes. */
export const MAX_DESCRIPTOR_BYTES = 3072;

/** Version of the envelope's layout. */
export const ENVELOPE_VERSION = 1;

/** What the text form begins with; base64 of the envelope follows, on one line. */
export const TEXT_PREFIX = 'moorage-descriptor-v1:';

const MAGIC = Buffer.from('MRGD', 'latin1');
const OFFSET = { version: 4, sender: 5, recipient: 13, nonce: 21, boxLength: 45, box: 47 } as const;
const HASH_BYTES = 32;

/** What is visible without a key. */
export interface EnvelopeHeader {
  /** Version of the layout. */
  readonly version: number;
  /** Key id of the controller that sealed it; 16 hex digits. */
  readonly senderKeyId: string;
  /** Key id of the node that it is for; 16 hex digits. */
  readonly recipientKeyId: string;
}

/** Whom a descriptor is sealed from and to. */
export interface SealOptions {
  /** The node's public key, 32 bytes. */
  readonly nodePublicKey: Uint8Array;
  /** The controller's sealing key pair. Keep one object: what is derived from it is remembered for it. */
  readonly controllerKey: KeyPair;
  /** 24 bytes that are never used again with this pair of keys; random unless given. For golden vectors only. */
  readonly nonce?: Uint8Array;
}

/** With what a descriptor is opened. */
export interface OpenOptions {
  /** The node's key pairs: the current one and the previous ones that have not expired. */
  readonly nodeKeys: readonly KeyPair[];
  /** The public keys of the controllers that this node trusts. */
  readonly controllerPublicKeys: readonly Uint8Array[];
  /** The time; the machine's unless given. */
  readonly now?: Date;
  /** Take an expired one too: for everything but `connect`. */
  readonly allowExpired?: boolean;
}

/** A descriptor that was opened. */
export interface OpenedDescriptor {
  /** Holds secrets. */
  readonly payload: DescriptorPayload;
  readonly header: EnvelopeHeader;
  /** Whether `expires_at` has passed; only ever true with `allowExpired`. */
  readonly expired: boolean;
}

// nacl.box.before takes ~1.5 ms, the box itself ~0.08 ms. Bounded, so that a controller of many nodes stays small.
const MAX_CACHED_KEYS = 4096;
const sharedKeys = new WeakMap<KeyPair, Map<string, Uint8Array>>();

function sharedKey(own: KeyPair, publicKey: Uint8Array): Uint8Array {
  let cached = sharedKeys.get(own);
  if (cached === undefined) {
    cached = new Map();
    sharedKeys.set(own, cached);
  }
  const name = Buffer.from(publicKey).toString('base64');
  let key = cached.get(name);
  if (key === undefined) {
    key = nacl.box.before(publicKey, own.secretKey);
    const oldest = cached.size >= MAX_CACHED_KEYS ? cached.keys().next().value : undefined;
    if (oldest !== undefined) {
      cached.delete(oldest);
    }
    cached.set(name, key);
  }
  return key;
}

/**
 * Seals a payload to a node.
 * @returns the envelope, at most {@link MAX_DESCRIPTOR_BYTES} bytes.
 * @throws {DescriptorError} `invalid-payload` that names the field, or `too-large`.
 */
export function sealDescriptor(payload: DescriptorPayload, options: SealOptions): Uint8Array {
  const checked = descriptorPayloadSchema.safeParse(payload);
  if (!checked.success) {
    throw new DescriptorError('invalid-payload', `this descriptor cannot be sealed: ${describeIssues(checked.error)}`);
  }
  const body = Buffer.from(JSON.stringify(checked.data), 'utf8');
  const boxLength = nacl.box.overheadLength + HASH_BYTES + body.length;
  if (OFFSET.box + boxLength > MAX_DESCRIPTOR_BYTES) {
    throw new DescriptorError(
      'too-large',
      `a descriptor has at most ${MAX_DESCRIPTOR_BYTES} bytes; this one would have ${OFFSET.box + boxLength}`,
    );
  }
  const nonce = options.nonce ?? nacl.randomBytes(nacl.box.nonceLength);
  const envelope = Buffer.alloc(OFFSET.box + boxLength);
  MAGIC.copy(envelope);
  envelope.writeUInt8(ENVELOPE_VERSION, OFFSET.version);
  envelope.write(options.controllerKey.keyId, OFFSET.sender, KEY_ID_BYTES, 'hex');
  envelope.write(keyIdOf(options.nodePublicKey), OFFSET.recipient, KEY_ID_BYTES, 'hex');
  envelope.set(nonce, OFFSET.nonce);
  envelope.writeUInt16BE(boxLength, OFFSET.boxLength);
  const plain = new Uint8Array(HASH_BYTES + body.length);
  plain.set(headerHash(envelope), 0);
  plain.set(body, HASH_BYTES);
  envelope.set(nacl.box.after(plain, nonce, sharedKey(options.controllerKey, options.nodePublicKey)), OFFSET.box);
  plain.fill(0);
  body.fill(0);
  return new Uint8Array(envelope);
}

/**
 * Opens a descriptor in its binary or its text form.
 * @throws {DescriptorError} with the code of what is wrong.
 */
export function openDescriptor(descriptor: Uint8Array | string, options: OpenOptions): OpenedDescriptor {
  const envelope = decodeDescriptor(descriptor);
  const header = readHeader(envelope);
  const own = options.nodeKeys.find((key) => key.keyId === header.recipientKeyId);
  if (own === undefined) {
    const ours = options.nodeKeys.map((key) => key.keyId).join(', ') || 'none';
    throw new DescriptorError(
      'other-node',
      `this descriptor is for the node with key ${header.recipientKeyId}, and this node has key ${ours}; ` +
        'export the volume to this node, or register this node with its present key',
    );
  }
  const sender = options.controllerPublicKeys.find((key) => keyIdOf(key) === header.senderKeyId);
  if (sender === undefined) {
    const trusted = options.controllerPublicKeys.map(keyIdOf).join(', ') || 'none';
    throw new DescriptorError(
      'unknown-sender',
      `this descriptor was sealed by the controller key ${header.senderKeyId}, which this node does not trust ` +
        `(trusted: ${trusted}); if that is your controller, run "storage-utils trust" with its public key`,
    );
  }
  const payload = readPayload(openBox(envelope, own, sender));
  const expired = Date.parse(payload.expires_at) <= (options.now ?? new Date()).getTime();
  if (expired && options.allowExpired !== true) {
    throw new DescriptorError(
      'expired',
      `this descriptor expired at ${payload.expires_at}; call Export again for a fresh one (and check this node's clock)`,
    );
  }
  return { payload, header, expired };
}

/**
 * Reads what is visible of a descriptor without any key.
 * @throws {DescriptorError} `not-a-descriptor`, `newer-version`, `truncated` or `altered`.
 */
export function readDescriptorHeader(descriptor: Uint8Array | string): EnvelopeHeader {
  return readHeader(decodeDescriptor(descriptor));
}

/** The text form of an envelope: one line, without its line end. */
export function formatDescriptor(envelope: Uint8Array): string {
  return TEXT_PREFIX + Buffer.from(envelope).toString('base64');
}

/**
 * The envelope of a descriptor in either form: bytes may hold the text form too, as read from a file.
 * @throws {DescriptorError} `not-a-descriptor`, `newer-version`, `truncated` or `altered`.
 */
export function decodeDescriptor(descriptor: Uint8Array | string): Uint8Array {
  if (typeof descriptor !== 'string') {
    return Buffer.from(descriptor.subarray(0, 18)).toString('latin1').trimStart().startsWith('moorage-descri')
      ? decodeText(Buffer.from(descriptor).toString('latin1'))
      : descriptor;
  }
  return decodeText(descriptor);
}

function decodeText(text: string): Uint8Array {
  const trimmed = text.trim();
  const match = /^moorage-descriptor-v([0-9]+):(.*)$/s.exec(trimmed);
  if (match === null) {
    if ('moorage-descriptor-v1:'.startsWith(trimmed) && trimmed.length > 0) {
      throw truncated();
    }
    throw new DescriptorError('not-a-descriptor', `a descriptor begins with "${TEXT_PREFIX}"; this does not`);
  }
  if (Number(match[1]) > ENVELOPE_VERSION) {
    throw newer(Number(match[1]));
  }
  if (Number(match[1]) < ENVELOPE_VERSION) {
    throw new DescriptorError('not-a-descriptor', 'there is no descriptor of version 0');
  }
  const base64 = match[2] ?? '';
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(base64)) {
    throw new DescriptorError('altered', 'this descriptor was altered: its text holds characters that are not base64');
  }
  const envelope = Buffer.from(base64, 'base64');
  // A text that was cut off inside a group of four still decodes; the length in the header tells.
  return new Uint8Array(envelope);
}

function readHeader(envelope: Uint8Array): EnvelopeHeader {
  const bytes = Buffer.from(envelope.buffer, envelope.byteOffset, envelope.byteLength);
  const begin = bytes.subarray(0, MAGIC.length);
  if (bytes.length === 0) {
    throw new DescriptorError(
      'not-a-descriptor',
      'this is empty, not a descriptor; an export that is not done yet has none',
    );
  }
  if (!begin.equals(MAGIC.subarray(0, begin.length))) {
    throw new DescriptorError('not-a-descriptor', `this is not a descriptor: it does not begin with "${TEXT_PREFIX}"`);
  }
  const version = bytes[OFFSET.version];
  if (version !== undefined && version > ENVELOPE_VERSION) {
    throw newer(version);
  }
  if (version === 0) {
    throw new DescriptorError('not-a-descriptor', 'there is no descriptor of version 0');
  }
  if (version === undefined || bytes.length < OFFSET.box) {
    throw truncated();
  }
  const length = OFFSET.box + bytes.readUInt16BE(OFFSET.boxLength);
  if (bytes.length < length) {
    throw truncated();
  }
  if (bytes.length > length || length > MAX_DESCRIPTOR_BYTES) {
    throw new DescriptorError(
      'altered',
      `this descriptor was altered: ${bytes.length} bytes where ${length} are right`,
    );
  }
  return {
    version,
    senderKeyId: bytes.toString('hex', OFFSET.sender, OFFSET.sender + KEY_ID_BYTES),
    recipientKeyId: bytes.toString('hex', OFFSET.recipient, OFFSET.recipient + KEY_ID_BYTES),
  };
}

function openBox(envelope: Uint8Array, own: KeyPair, sender: Uint8Array): Uint8Array {
  const nonce = envelope.subarray(OFFSET.nonce, OFFSET.boxLength);
  const plain = nacl.box.open.after(envelope.subarray(OFFSET.box), nonce, sharedKey(own, sender));
  const hash = headerHash(envelope);
  if (plain === null || plain.length < HASH_BYTES || !timingSafeEqual(plain.subarray(0, HASH_BYTES), hash)) {
    throw new DescriptorError(
      'altered',
      'this descriptor was altered after it was sealed; call Export again for a fresh one',
    );
  }
  return plain;
}

function readPayload(plain: Uint8Array): DescriptorPayload {
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(plain.subarray(HASH_BYTES)).toString('utf8'));
  } catch {
    // JSON.parse's own message can repeat a piece of the text, which holds a key.
    throw new DescriptorError(
      'invalid-payload',
      'what this descriptor holds is not JSON: the controller that made it is at fault',
    );
  } finally {
    plain.fill(0);
  }
  const version = typeof value === 'object' && value !== null && 'version' in value ? value.version : undefined;
  if (typeof version === 'number' && version > PAYLOAD_VERSION) {
    throw newer(version);
  }
  const parsed = descriptorPayloadSchema.safeParse(value);
  if (!parsed.success) {
    throw new DescriptorError(
      'invalid-payload',
      `what this descriptor holds is wrong: ${describeIssues(parsed.error)}`,
    );
  }
  return parsed.data;
}

function headerHash(envelope: Uint8Array): Uint8Array {
  return createHash('sha256').update(envelope.subarray(0, OFFSET.box)).digest();
}

function truncated(): DescriptorError {
  return new DescriptorError('truncated', 'this descriptor is cut off: its end is missing; copy the whole line');
}

function newer(version: number): DescriptorError {
  return new DescriptorError(
    'newer-version',
    `this descriptor is of version ${version}, and this storage-utils knows up to ${ENVELOPE_VERSION}; update storage-utils`,
  );
}
