import { StorageUtilsError } from '../errors.js';
import { LibvirtError, VIR_ERR } from './errors.js';
import { callAsync, libvirt, type NativeFunction, type Pointer, readError, takeGlobalError } from './native.js';

/** Where libvirt is reached unless something else is said. */
export const DEFAULT_LIBVIRT_URI = 'qemu:///system';

/** How long one call may take, in milliseconds; QEMU opens a disk within it. */
export const DEFAULT_CALL_TIMEOUT_MS = 60_000;

// A failed open has no connection to ask for its error; one open at a time makes the global handler's answer its own.
let opening: Promise<unknown> = Promise.resolve();
let hung = false;

/** Whether a call did not return in its time: its thread still waits, and an ordinary exit would wait with it. */
export function hasHungCall(): boolean {
  return hung;
}

/**
 * One connection to libvirtd (`virConnectOpen`). Calls run on libuv's threads, one at a time on each connection: that is
 * what makes the connection's last error the error of the call.
 */
export class Connection {
  readonly #pointer: Pointer;
  readonly #timeoutMs: number;
  #tail: Promise<unknown> = Promise.resolve();
  #stuck = false;

  private constructor(pointer: Pointer, timeoutMs: number) {
    this.#pointer = pointer;
    this.#timeoutMs = timeoutMs;
  }

  /**
   * Opens a connection. Close it.
   * @param uri a libvirt URI, as `qemu:///system`.
   * @param timeoutMs how long this and every later call may take, in milliseconds.
   * @throws {LibvirtError} when libvirtd is not reached.
   */
  static open(uri: string, timeoutMs: number = DEFAULT_CALL_TIMEOUT_MS): Promise<Connection> {
    const opened = opening.then(async () => {
      const functions = libvirt();
      takeGlobalError();
      const what = `libvirt is not reached at ${uri} (is libvirtd or virtqemud running, and may this user connect?)`;
      const pointer = (await withTimeout(
        callAsync(functions.connectOpen, [uri]),
        timeoutMs,
        `libvirt at ${uri}`,
      )) as Pointer | null;
      if (pointer === null) {
        const error = takeGlobalError();
        throw new LibvirtError(
          what,
          error?.code ?? VIR_ERR.noConnect,
          error?.domain ?? 0,
          error?.message ?? 'no reason given',
        );
      }
      functions.connectSetErrorFunction(pointer, null, functions.silent);
      return new Connection(pointer, timeoutMs);
    });
    opening = opened.catch(() => undefined);
    return opened;
  }

  /** The connection itself, for calls that take it as first argument. */
  get pointer(): Pointer {
    return this.#pointer;
  }

  /**
   * Runs one C function on a thread.
   * @param what begins the error's message: what could not be done.
   * @param failed whether the result means failure; null and negative numbers do.
   * @throws {LibvirtError} libvirt's own; {StorageUtilsError} `timeout` when it takes too long: what was asked may still happen.
   */
  async call(
    what: string,
    callee: NativeFunction,
    args: readonly unknown[],
    failed: (result: unknown) => boolean = isFailure,
  ): Promise<unknown> {
    const turn = this.#tail.then(async () => {
      if (this.#stuck) {
        throw new StorageUtilsError(
          'timeout',
          `${what}: an earlier call on this connection to libvirt has not returned`,
        );
      }
      const functions = libvirt();
      functions.connectResetLastError(this.#pointer);
      let result: unknown;
      try {
        result = await withTimeout(callAsync(callee, args), this.#timeoutMs, what);
      } catch (error) {
        this.#stuck = error instanceof StorageUtilsError && error.kind === 'timeout';
        throw error;
      }
      if (failed(result)) {
        const error = readError(functions.connectGetLastError(this.#pointer) as Pointer | null);
        throw new LibvirtError(what, error?.code ?? 0, error?.domain ?? 0, error?.message ?? 'libvirt gave no reason');
      }
      return result;
    });
    this.#tail = turn.catch(() => undefined);
    return turn;
  }

  /**
   * Frees an object of this connection. Not while a call that was given up still runs: its thread looks at the object
   * when libvirtd answers at last, so it is left to the end of the process.
   */
  free(release: NativeFunction, pointer: Pointer): void {
    if (!this.#stuck) {
      release(pointer);
    }
  }

  /** Closes it (`virConnectClose`), once the calls under way are done. A stuck one is left to the end of the process. */
  async close(): Promise<void> {
    await this.#tail;
    if (!this.#stuck) {
      this.#stuck = true;
      await withTimeout(
        callAsync(libvirt().connectClose, [this.#pointer]),
        this.#timeoutMs,
        'closing the connection to libvirt',
      );
    }
  }
}

/** Opens a connection, runs `work` and closes it whatever happens. */
export async function withConnection<Value>(
  uri: string,
  timeoutMs: number,
  work: (connection: Connection) => Promise<Value>,
): Promise<Value> {
  const connection = await Connection.open(uri, timeoutMs);
  try {
    return await work(connection);
  } finally {
    await connection.close();
  }
}

function isFailure(result: unknown): boolean {
  return result === null || (typeof result === 'number' && result < 0);
}

async function withTimeout<Value>(promise: Promise<Value>, timeoutMs: number, what: string): Promise<Value> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => {
      hung = true;
      reject(
        new StorageUtilsError(
          'timeout',
          `${what}: libvirt did not answer within ${timeoutMs} ms; it may still be done later, so look, and run this again`,
        ),
      );
    }, timeoutMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
