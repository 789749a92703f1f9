import { CommanderError } from 'commander';
import { MoorageCallError } from '../client/index.js';

/** A command that cannot go on; its message is a sentence for people. */
export class CommandFailure extends Error {
  readonly exitCode: number;

  constructor(exitCode: number, message: string) {
    super(message);
    this.name = 'CommandFailure';
    this.exitCode = exitCode;
  }
}

/** Exit codes, for scripts. Documented in docs/cli.md and in every --help. */
export const EXIT = {
  done: 0,
  failed: 1,
  usage: 2,
  notFound: 3,
  conflict: 4,
  unavailable: 5,
  denied: 6,
  notDoneYet: 7,
} as const;

/** The same for people. */
export const EXIT_CODE_HELP = `
Exit codes:
  0  done
  1  another failure, or an operation that failed
  2  wrong usage, or a value that the controller refuses
  3  not found
  4  in the way: in use, exists with other parameters, another operation, another state
  5  the controller or the storage does not answer now, or is full or busy; try again
  6  not allowed
  7  accepted and not done yet; the operation goes on`;

const ofCode: Readonly<Record<string, number>> = {
  INVALID_ARGUMENT: EXIT.usage,
  OUT_OF_RANGE: EXIT.usage,
  UNIMPLEMENTED: EXIT.usage,
  NOT_FOUND: EXIT.notFound,
  ALREADY_EXISTS: EXIT.conflict,
  FAILED_PRECONDITION: EXIT.conflict,
  ABORTED: EXIT.conflict,
  UNAVAILABLE: EXIT.unavailable,
  RESOURCE_EXHAUSTED: EXIT.unavailable,
  DEADLINE_EXCEEDED: EXIT.unavailable,
  UNAUTHENTICATED: EXIT.denied,
  PERMISSION_DENIED: EXIT.denied,
};

/** The exit code for a gRPC status name. */
export function exitCodeOfStatus(code: string): number {
  return ofCode[code] ?? EXIT.failed;
}

/** The exit code that tells this failure. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof CommandFailure) return error.exitCode;
  if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.done : EXIT.usage;
  if (error instanceof MoorageCallError) return exitCodeOfStatus(error.code);
  return EXIT.failed;
}

/** What people are told of a failure. */
export function sentenceOf(error: unknown): string {
  if (error instanceof MoorageCallError) {
    // UNAVAILABLE without a request id never reached a controller: its text is grpc-js's own.
    const text =
      error.requestId === '' && error.code === 'UNAVAILABLE'
        ? `the controller cannot be reached (${error.message})`
        : error.message;
    return error.code === 'INTERNAL' || error.requestId === '' ? text : `${text} [${error.code}]`;
  }
  return error instanceof Error ? error.message : String(error);
}
