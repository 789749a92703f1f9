/** What kind of refusal or failure this is; each kind has one exit code of the command (docs/storage-utils.md). */
export type StorageUtilsErrorKind = 'usage' | 'refused' | 'libvirt' | 'not-found' | 'busy' | 'timeout' | 'failed';

/** A failure of storage-utils. The message is a sentence for people, names what to do, and never holds a secret. */
export class StorageUtilsError extends Error {
  readonly kind: StorageUtilsErrorKind;

  constructor(kind: StorageUtilsErrorKind, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'StorageUtilsError';
    this.kind = kind;
  }
}

/** The message of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Runs clean-up after a failure; what fails in it is added to the first failure, never put in its place. */
export async function cleanUpAfter(error: unknown, cleanUp: () => Promise<void>): Promise<never> {
  try {
    await cleanUp();
  } catch (second) {
    const kind = error instanceof StorageUtilsError ? error.kind : 'failed';
    throw new StorageUtilsError(kind, `${messageOf(error)}; and cleaning up after it failed: ${messageOf(second)}`, {
      cause: new AggregateError([error, second]),
    });
  }
  throw error;
}
