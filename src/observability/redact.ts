/** Stands where something secret stood. */
export const REDACTED = '[redacted]';

/** Names under which nothing is ever logged, in any spelling (sealedAccess, sealed_access, sealed-access). */
const secretNames =
  /^(key|keys|.*(secret|passw|passphrase|privatekey|masterkey|accessjson|sealedaccess|credential|descriptor|cookie|authorization).*)$/;

/** What looks like a secret wherever it stands: in messages, in stacks, in what others wrote. */
const secretValues: readonly RegExp[] = [
  // A cephx key: base64 of 28 bytes that begin with the type, 1 as u16.
  /AQ[A-Za-z0-9+/]{36}==/g,
  // Descriptors as text and as base64 of their bytes ("MRGD").
  /moorage-descriptor-v[0-9]+:[A-Za-z0-9+/=_-]*/g,
  /TVJHR[A-Za-z0-9+/]{20,}={0,2}/g,
  /moorage-enrollment:[A-Za-z0-9_-]*/g,
  /-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)/gs,
];

/** Takes out of a text what looks like a secret. */
export function redactText(text: string): string {
  let result = text;
  for (const pattern of secretValues) result = result.replace(pattern, REDACTED);
  return result;
}

const DEEPEST = 8;

/** A copy of the fields of a log line without what has a secret name. Errors stay for their serializer. */
export function redactFields(fields: Readonly<Record<string, unknown>>, depth = 0): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(fields).map(([name, value]) => [name, isSecretName(name) ? REDACTED : redactValue(value, depth)]),
  );
}

function isSecretName(name: string): boolean {
  return secretNames.test(name.toLowerCase().replace(/[_-]/g, ''));
}

function redactValue(value: unknown, depth: number): unknown {
  if (typeof value !== 'object' || value === null || value instanceof Error || value instanceof Date) return value;
  if (depth >= DEEPEST) return '[too deep]';
  // What is binary is either a secret or of no use to a reader.
  if (ArrayBuffer.isView(value)) return `[${value.byteLength} bytes]`;
  if (Array.isArray(value)) return value.map((item) => redactValue(item, depth + 1));
  return redactFields(value as Record<string, unknown>, depth + 1);
}

interface LoggedError {
  type: string;
  message: string;
  stack?: string;
  code?: string;
  cause?: LoggedError | string;
}

const LONGEST_CHAIN = 6;

/**
 * An error as the log has it: what it is and its causes. Not its other properties: they may hold what a library was given.
 */
export function serializeError(error: unknown, depth = 0): LoggedError | string {
  if (!(error instanceof Error)) return typeof error === 'string' ? error : 'something was thrown that is no Error';
  const code: unknown = (error as { code?: unknown }).code;
  return {
    type: error.name,
    message: error.message,
    ...(error.stack !== undefined && { stack: error.stack }),
    ...((typeof code === 'string' || typeof code === 'number') && { code: String(code) }),
    ...(error.cause !== undefined && depth < LONGEST_CHAIN && { cause: serializeError(error.cause, depth + 1) }),
  };
}
