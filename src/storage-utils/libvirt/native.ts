/**
 * libvirt.so.0 and the few calls of libc that Node lacks, through koffi. Loaded on first use, so that `inspect` works on
 * a machine without libvirt. Nothing outside this folder sees a pointer.
 */
import koffi from 'koffi';
import { StorageUtilsError } from '../errors.js';

/** A type as koffi takes it; its own name for this is not exported. */
type TypeSpec = string | ReturnType<typeof koffi.struct> | ReturnType<typeof koffi.out>;

/** Address of an object of libvirt's. koffi has no finalizer for it: each is freed by whoever got it. */
export type Pointer = bigint;

/** One C function. Called directly it runs on the caller's thread: only for what never waits for a daemon. */
export interface NativeFunction {
  (...args: unknown[]): unknown;
  async: (...args: unknown[]) => void;
}

/** `virError`, the fields that stay meaningful. */
export interface NativeError {
  readonly code: number;
  readonly domain: number;
  readonly message: string | null;
}

const virError = koffi.struct({
  code: 'int',
  domain: 'int',
  message: 'str',
  level: 'int',
  connection: 'void *',
  domainObject: 'void *',
  string1: 'void *',
  string2: 'void *',
  string3: 'void *',
  integer1: 'int',
  integer2: 'int',
  network: 'void *',
});
const virErrorFunction = koffi.proto('void moorage_virErrorFunc(void *userData, void *error)');
const virDomainBlockInfo = koffi.struct({ capacity: 'uint64_t', allocation: 'uint64_t', physical: 'uint64_t' });
const heapString = koffi.disposable('str');

function load() {
  const library = openLibrary('libvirt.so.0', 'install libvirt0 (Debian) or libvirt-libs (Fedora)');
  const f = (name: string, result: TypeSpec, parameters: TypeSpec[]): NativeFunction =>
    library.func(name, result, parameters) as unknown as NativeFunction;
  const functions = {
    initialize: f('virInitialize', 'int', []),
    setErrorFunction: f('virSetErrorFunc', 'void', ['void *', koffi.pointer(virErrorFunction)]),
    connectOpen: f('virConnectOpen', 'void *', ['str']),
    connectClose: f('virConnectClose', 'int', ['void *']),
    connectSetErrorFunction: f('virConnSetErrorFunc', 'void', ['void *', 'void *', koffi.pointer(virErrorFunction)]),
    connectGetLastError: f('virConnGetLastError', 'void *', ['void *']),
    connectResetLastError: f('virConnResetLastError', 'void', ['void *']),
    connectGetLibVersion: f('virConnectGetLibVersion', 'int', ['void *', koffi.out(koffi.pointer('unsigned long'))]),
    connectGetDomainCapabilities: f('virConnectGetDomainCapabilities', heapString, [
      'void *',
      'str',
      'str',
      'str',
      'str',
      'unsigned int',
    ]),
    connectListAllSecrets: f('virConnectListAllSecrets', 'int', [
      'void *',
      koffi.out(koffi.pointer('void *')),
      'unsigned int',
    ]),
    secretLookupByUUIDString: f('virSecretLookupByUUIDString', 'void *', ['void *', 'str']),
    secretDefineXML: f('virSecretDefineXML', 'void *', ['void *', 'str', 'unsigned int']),
    secretSetValue: f('virSecretSetValue', 'int', ['void *', 'void *', 'size_t', 'unsigned int']),
    secretGetUUIDString: f('virSecretGetUUIDString', 'int', ['void *', 'void *']),
    secretGetUsageID: f('virSecretGetUsageID', 'str', ['void *']),
    secretUndefine: f('virSecretUndefine', 'int', ['void *']),
    secretFree: f('virSecretFree', 'int', ['void *']),
    connectListAllDomains: f('virConnectListAllDomains', 'int', [
      'void *',
      koffi.out(koffi.pointer('void *')),
      'unsigned int',
    ]),
    domainLookupByName: f('virDomainLookupByName', 'void *', ['void *', 'str']),
    domainLookupByUUIDString: f('virDomainLookupByUUIDString', 'void *', ['void *', 'str']),
    domainGetName: f('virDomainGetName', 'str', ['void *']),
    domainGetUUIDString: f('virDomainGetUUIDString', 'int', ['void *', 'void *']),
    domainFree: f('virDomainFree', 'int', ['void *']),
    domainGetXMLDesc: f('virDomainGetXMLDesc', heapString, ['void *', 'unsigned int']),
    domainIsActive: f('virDomainIsActive', 'int', ['void *']),
    domainIsPersistent: f('virDomainIsPersistent', 'int', ['void *']),
    domainAttachDeviceFlags: f('virDomainAttachDeviceFlags', 'int', ['void *', 'str', 'unsigned int']),
    domainDetachDeviceFlags: f('virDomainDetachDeviceFlags', 'int', ['void *', 'str', 'unsigned int']),
    domainBlockResize: f('virDomainBlockResize', 'int', ['void *', 'str', 'unsigned long long', 'unsigned int']),
    domainGetBlockInfo: f('virDomainGetBlockInfo', 'int', [
      'void *',
      'str',
      koffi.out(koffi.pointer(virDomainBlockInfo)),
      'unsigned int',
    ]),
  };
  if (functions.initialize() !== 0) {
    throw new StorageUtilsError('libvirt', 'libvirt.so.0 does not initialize');
  }
  // Without a handler libvirt writes each error to stderr. The global one hears of failed opens, which belong to no
  // connection; a connection's own errors are asked of the connection, whose handler does nothing.
  functions.setErrorFunction(null, koffi.register(onGlobalError, koffi.pointer(virErrorFunction)));
  const silent = koffi.register(() => undefined, koffi.pointer(virErrorFunction));
  return { ...functions, silent };
}

/** The functions of libvirt that are used here; loads the library the first time. */
export const libvirt: () => ReturnType<typeof load> = once(load);

let lastGlobalError: NativeError | undefined;

function onGlobalError(_userData: unknown, error: Pointer | null): void {
  lastGlobalError = readError(error);
}

/** The last error that belonged to no connection, taken: a second call gives undefined. */
export function takeGlobalError(): NativeError | undefined {
  const taken = lastGlobalError;
  lastGlobalError = undefined;
  return taken;
}

/** Reads a `virError`. */
export function readError(error: Pointer | null): NativeError | undefined {
  if (error === null) {
    return undefined;
  }
  const { code, domain, message } = koffi.decode(error, virError) as NativeError;
  return { code, domain, message };
}

/** Reads an array of pointers that libvirt allocated, and frees the array (not what it points to). */
export function takePointers(array: Pointer | null, count: number): Pointer[] {
  if (array === null) {
    return [];
  }
  const pointers = koffi.decode(array, 'void *', count) as Pointer[];
  koffi.free(array);
  return pointers;
}

/** Calls a C function on a thread of libuv's pool. */
export function callAsync(callee: NativeFunction, args: readonly unknown[]): Promise<unknown> {
  return new Promise((resolve, reject) => {
    callee.async(...args, (error: unknown, result: unknown) => {
      if (error) {
        reject(error instanceof Error ? error : new Error(String(error)));
      } else {
        resolve(result);
      }
    });
  });
}

function openLibrary(name: string, remedy: string) {
  try {
    return koffi.load(name);
  } catch (error) {
    throw new StorageUtilsError('libvirt', `${name} cannot be loaded on this host; ${remedy}`, { cause: error });
  }
}

function once<Value>(make: () => Value): () => Value {
  let made: { value: Value } | undefined;
  return () => {
    made ??= { value: make() };
    return made.value;
  };
}

const libc = once(() => {
  const library = openLibrary('libc.so.6', 'storage-utils runs on Linux with glibc');
  return {
    flock: library.func('flock', 'int', ['int', 'int']) as unknown as (descriptor: number, operation: number) => number,
    prctl: library.func('prctl', 'int', ['int', 'unsigned long', 'unsigned long', 'unsigned long', 'unsigned long']),
    setrlimit: library.func('setrlimit', 'int', [
      'int',
      koffi.pointer(koffi.struct({ soft: 'uint64_t', hard: 'uint64_t' })),
    ]),
    adjtimex: library.func('adjtimex', 'int', ['void *']),
    exit: library.func('_exit', 'void', ['int']),
  };
});

const LOCK_EX = 2;
const LOCK_NB = 4;

/** flock(2), exclusive, without waiting. @returns false when another open file holds the lock. */
export function tryFlock(descriptor: number): boolean {
  if (libc().flock(descriptor, LOCK_EX | LOCK_NB) === 0) {
    return true;
  }
  const errno = koffi.errno();
  if (errno === koffi.os.errno.EAGAIN || errno === koffi.os.errno.EINTR) {
    return false;
  }
  throw new StorageUtilsError('failed', `flock failed with errno ${errno}`);
}

/** This process leaves no core dump, which would hold keys: neither does a child (RLIMIT_CORE), nor may others ptrace it. */
export function forbidCoreDumps(): void {
  const RLIMIT_CORE = 4;
  const PR_SET_DUMPABLE = 4;
  if (libc().setrlimit(RLIMIT_CORE, { soft: 0, hard: 0 }) !== 0 || libc().prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) !== 0) {
    throw new StorageUtilsError('failed', `core dumps cannot be turned off (errno ${koffi.errno()})`);
  }
}

/** Whether the kernel says that the clock is kept in step (adjtimex(2), read only). */
export function isClockSynchronized(): boolean {
  const TIME_ERROR = 5;
  // struct timex has 208 bytes on 64-bit Linux; all zero means that nothing is to be changed.
  return libc().adjtimex(Buffer.alloc(256)) !== TIME_ERROR;
}

/** Ends the process at once, past threads that wait for a daemon that hangs: an ordinary exit joins them. */
export function exitAtOnce(status: number): never {
  libc().exit(status);
  throw new Error('unreachable: _exit returned');
}
