import { type DestinationStream, type Logger, pino, stdTimeFunctions } from 'pino';
import type { CoreEvents } from '../core/ports/metrics.js';
import { redactFields, redactText, serializeError } from './redact.js';

export type { Logger } from 'pino';

/**
 * The log: one JSON object a line. Secrets are taken out twice: by the names of fields, and by what they look like, over the
 * whole line.
 * @param destination where to write; stdout unless given
 */
export function createLogger(level: string, destination?: DestinationStream): Logger {
  const options = {
    level,
    base: { pid: process.pid },
    timestamp: stdTimeFunctions.isoTime,
    serializers: { err: serializeError },
    formatters: {
      level: (label: string) => ({ level: label }),
      log: (fields: Record<string, unknown>) => redactFields(fields),
    },
    hooks: { streamWrite: redactText },
  };
  // Written at once: what a controller said just before it died is what one wants to read.
  return destination === undefined
    ? pino(options, pino.destination({ fd: 1, sync: true }))
    : pino(options, destination);
}

/** What the core has to say, in the log. */
export function coreEvents(logger: Logger): CoreEvents {
  return {
    notice({ level, message, fields, error }) {
      logger[level]({ ...fields, ...(error !== undefined && { err: error }) }, message);
    },
  };
}
