/*
 * Ceph's encoding of what lies in RBD's objects (src/include/encoding.h, src/cls/rbd): little endian, strings with a
 * 32-bit length, structures with version, oldest compatible version and length before them.
 */

/** Writes Ceph's encoding. */
export class Encoder {
  readonly #parts: Buffer[] = [];

  u8(value: number): this {
    this.#parts.push(Buffer.from([value]));
    return this;
  }

  u32(value: number): this {
    const part = Buffer.alloc(4);
    part.writeUInt32LE(value);
    this.#parts.push(part);
    return this;
  }

  u64(value: bigint): this {
    const part = Buffer.alloc(8);
    part.writeBigUInt64LE(BigInt.asUintN(64, value));
    this.#parts.push(part);
    return this;
  }

  text(value: string): this {
    const bytes = Buffer.from(value, 'utf8');
    this.u32(bytes.length);
    this.#parts.push(bytes);
    return this;
  }

  /** A structure with its header. */
  structure(version: number, compatible: number, write: (body: Encoder) => void): this {
    const body = new Encoder();
    write(body);
    const bytes = body.bytes();
    this.u8(version).u8(compatible).u32(bytes.length);
    this.#parts.push(bytes);
    return this;
  }

  bytes(): Buffer {
    return Buffer.concat(this.#parts);
  }
}

/** Reads Ceph's encoding. @throws RangeError when there is less than is read */
export class Decoder {
  readonly #bytes: Buffer;
  #offset = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  u8(): number {
    this.#offset += 1;
    return this.#bytes.readUInt8(this.#offset - 1);
  }

  u32(): number {
    this.#offset += 4;
    return this.#bytes.readUInt32LE(this.#offset - 4);
  }

  u64(): bigint {
    this.#offset += 8;
    return this.#bytes.readBigUInt64LE(this.#offset - 8);
  }

  i64(): bigint {
    this.#offset += 8;
    return this.#bytes.readBigInt64LE(this.#offset - 8);
  }

  text(): string {
    return this.raw(this.u32()).toString('utf8');
  }

  raw(length: number): Buffer {
    if (this.#offset + length > this.#bytes.length) throw new RangeError('ends before what it announces');
    this.#offset += length;
    return this.#bytes.subarray(this.#offset - length, this.#offset);
  }

  /** A structure: its version, the oldest version that can read it, and its body. What a newer version adds is ignored. */
  structure(): { readonly version: number; readonly compatible: number; readonly body: Decoder } {
    const version = this.u8();
    const compatible = this.u8();
    return { version, compatible, body: new Decoder(this.raw(this.u32())) };
  }
}
