import koffi from 'koffi';
import { betweenPoints, nativePoints } from '../crash-points.js';
import { CephError } from './errors.js';

// Calls run on a stack that koffi allocates; its default for asynchronous ones (128 KiB) is far less than the threads
// that librbd is written for have. The memory is touched only as far as it is used. Calls that are queued beyond the
// default of 256 would throw.
koffi.config({ async_stack_size: 1024 * 1024, max_async_calls: 4096, resident_async_pools: 32 });

const librados = koffi.load('librados.so.2');
const librbd = koffi.load('librbd.so.1');

/** What may be handed to C. A Buffer is passed by address: what C writes into it is seen here. */
export type NativeValue = string | number | bigint | boolean | null | Buffer | readonly string[] | BigUint64Array;

/** A handle of librados or librbd. koffi represents pointers so; nothing frees them but the matching C call. */
export type Pointer = bigint;

/** One C function. */
export interface NativeFunction {
  /** Its name, for errors. */
  readonly functionName: string;
  /** Calls it on the main thread: only for what never waits (getters, building of operations, releasing). */
  now(...values: NativeValue[]): unknown;
  /** Calls it on a thread of libuv's pool. */
  later(...values: NativeValue[]): Promise<unknown>;
}

function define(library: ReturnType<typeof koffi.load>, prototype: string): NativeFunction {
  const native = library.func(prototype);
  const functionName = /(\w+)\(/.exec(prototype)?.[1] ?? prototype;
  return {
    functionName,
    now: (...values) => native(...values),
    later: (...values) =>
      betweenPoints(
        nativePoints,
        { functionName },
        () =>
          new Promise((resolve, reject) => {
            native.async(...values, (error: Error | null, result: unknown) => {
              // The reference from here keeps the buffers alive while C uses them.
              values.length = 0;
              if (error) reject(error);
              else resolve(result);
            });
          }),
      ),
  };
}

/** A function of librados.so.2, from its C prototype. */
export function rados(prototype: string): NativeFunction {
  return define(librados, prototype);
}

/** A function of librbd.so.1, from its C prototype. */
export function rbd(prototype: string): NativeFunction {
  return define(librbd, prototype);
}

/**
 * Calls a function that returns a negative error number on failure, on a thread of the pool.
 * @param subject what it is done to, for the error
 * @returns what it returned: zero or a count
 * @throws CephError
 */
export async function checked(
  native: NativeFunction,
  subject: string | undefined,
  ...values: NativeValue[]
): Promise<number> {
  return verify(native, subject, await native.later(...values));
}

/** The same on the main thread: only for what never waits. */
export function checkedNow(native: NativeFunction, subject: string | undefined, ...values: NativeValue[]): number {
  return verify(native, subject, native.now(...values));
}

function verify(native: NativeFunction, subject: string | undefined, result: unknown): number {
  const code = Number(result);
  if (code < 0) throw new CephError(native.functionName, code, subject);
  return code;
}

/** Memory for one pointer or 64-bit number that C writes. */
export function outCell(): Buffer {
  return Buffer.alloc(8);
}

/** A pointer that C wrote. */
export function pointerIn(cell: Buffer, offset = 0): Pointer {
  return cell.readBigUInt64LE(offset);
}

/** Copies bytes out of C's memory. */
export function bytesAt(pointer: Pointer, length: number): Buffer {
  if (length === 0) return Buffer.alloc(0);
  return Buffer.from(koffi.decode(pointer, 'uint8_t', length) as Uint8Array);
}

/** Copies a string, that ends with NUL, out of C's memory. */
export function stringAt(pointer: Pointer): string {
  return pointer === 0n ? '' : koffi.decode.string(pointer);
}

/** Where a buffer's bytes lie, for arrays of pointers. Keep the buffer referenced while C uses it. */
export function addressOfBytes(buffer: Buffer): Pointer {
  return koffi.address(buffer);
}
