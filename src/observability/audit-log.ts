import { closeSync, constants, fstatSync, openSync, statSync, writeSync } from 'node:fs';
import type { EndedCall } from './events.js';
import { redactText } from './redact.js';

/** The audit log cannot be kept in this file: says why. */
export class AuditLogError extends Error {
  constructor(path: string, message: string, options?: ErrorOptions) {
    super(`audit.file ${path}: ${message}`, options);
    this.name = 'AuditLogError';
  }
}

/** Who did what: a file that is only ever appended to. */
export interface AuditLog {
  /** Adds a line for the call if it belongs there. A line that cannot be written is told to `onFailure`; the call goes on. */
  callEnded(call: EndedCall): void;
  /** Goes on in the file that has the name now. What was renamed is noticed without it too. */
  reopen(): void;
  close(): void;
}

/**
 * Opens the audit log, and makes the file (0600) when there is none. One JSON object a line; each line is one append, so that
 * lines of several writers never mix and nothing that stands there is changed.
 * @param onFailure hears of a line that could not be written
 * @throws {AuditLogError} when it cannot be opened, is no file, or others may read or write it
 */
export function openAuditLog(path: string, onFailure: (error: unknown) => void): AuditLog {
  let descriptor: number | undefined = openFile(path);
  // A line of which only a part was written, on a full disk say, must not take the next one with it.
  let torn = false;

  function reopen(): void {
    const next = openFile(path);
    if (descriptor !== undefined) closeSync(descriptor);
    descriptor = next;
  }

  /** Whether the name still leads to the open file; a rotated one is moved away. */
  function isSame(open: number): boolean {
    const there = statSync(path, { throwIfNoEntry: false });
    const own = fstatSync(open);
    return there !== undefined && there.ino === own.ino && there.dev === own.dev;
  }

  return {
    callEnded(call) {
      if (!call.audited) return;
      try {
        if (descriptor === undefined || !isSame(descriptor)) reopen();
        if (descriptor === undefined) return;
        const line = Buffer.from(`${torn ? '\n' : ''}${redactText(JSON.stringify(entryOf(call)))}\n`);
        const written = writeSync(descriptor, line);
        torn = written < line.length;
        if (torn) throw new AuditLogError(path, `only ${written} of ${line.length} bytes were written`);
      } catch (error) {
        onFailure(error);
      }
    },

    reopen() {
      try {
        reopen();
      } catch (error) {
        onFailure(error);
      }
    },

    close() {
      if (descriptor !== undefined) closeSync(descriptor);
      descriptor = undefined;
    },
  };
}

function entryOf(call: EndedCall): object {
  return {
    time: new Date().toISOString(),
    request_id: call.requestId,
    principal: call.principal,
    role: call.role,
    peer: call.peer,
    method: call.method.slice(1),
    ...call.subjects,
    code: call.code,
  };
}

function openFile(path: string): number {
  let descriptor: number;
  try {
    // Not through a symbolic link: whoever may place one would choose where the lines go.
    const flags =
      constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT | constants.O_NOFOLLOW | constants.O_NONBLOCK;
    descriptor = openSync(path, flags, 0o600);
  } catch (cause) {
    throw new AuditLogError(path, `cannot be opened (${(cause as NodeJS.ErrnoException).code})`, { cause });
  }
  const status = fstatSync(descriptor);
  const problem = !status.isFile()
    ? 'is no file'
    : (status.mode & 0o077) !== 0
      ? `may be read by others (mode ${(status.mode & 0o777).toString(8)}); run "chmod 0600 ${path}"`
      : undefined;
  if (problem === undefined) return descriptor;
  closeSync(descriptor);
  throw new AuditLogError(path, problem);
}
