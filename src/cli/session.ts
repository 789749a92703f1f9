import { readFileSync } from 'node:fs';
import { type CallOptions, connect, type MoorageClient, type Operation, waitForOperation } from '../client/index.js';
import { CommandFailure, EXIT, exitCodeOfStatus } from './exit-codes.js';
import { type Streams, toJson } from './output.js';
import { parseDuration } from './values.js';

/** The options of every command. */
export interface CommonFlags {
  readonly endpoint: string;
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
  readonly timeout: string;
  readonly json?: boolean;
}

/** Where the controller is looked for unless told. */
export const DEFAULT_ENDPOINT = 'unix:/run/moorage/moorage.sock';

// The controller answers a change that takes longer with its operation, and then there is progress to show.
const FIRST_ANSWER_MILLISECONDS = 3000;

// Long enough for a controller that is being restarted, short enough for a mistyped endpoint.
const UNREACHABLE_MILLISECONDS = 5000;

/** One run of a command: the connection, and how it shows what happens. */
export class Session {
  readonly client: MoorageClient;
  readonly json: boolean;
  readonly #streams: Streams;
  readonly #timeoutMilliseconds: number;
  readonly #began = performance.now();

  constructor(flags: CommonFlags, streams: Streams) {
    this.#streams = streams;
    this.#timeoutMilliseconds = parseDuration(flags.timeout) * 1000;
    this.json = flags.json ?? false;
    const tls = readTls(flags);
    try {
      this.client = connect({
        endpoints: flags.endpoint.split(',').map((each) => each.trim()),
        deadlineMilliseconds: this.#timeoutMilliseconds,
        unreachableMilliseconds: UNREACHABLE_MILLISECONDS,
        ...(tls && { tls }),
      });
    } catch (error) {
      throw new CommandFailure(EXIT.usage, `--endpoint ${(error as Error).message}; give --ca, --cert and --key`);
    }
  }

  /** How long there still is, in milliseconds; never nothing, so that what is done already is still seen. */
  get #left(): number {
    return Math.max(1000, this.#timeoutMilliseconds - (performance.now() - this.#began));
  }

  /** For calls that change something: answered soon, tried again with the same token until the time is up. */
  get patient(): CallOptions {
    return { deadlineMilliseconds: this.#left, tryMilliseconds: FIRST_ANSWER_MILLISECONDS };
  }

  /** Prints what a program or a person should see on stdout. */
  show(message: unknown, text: string): void {
    this.#streams.stdout.write(this.json ? `${JSON.stringify(toJson(message), undefined, 2)}\n` : text);
  }

  /** Says something to a person only. */
  note(text: string): void {
    this.#streams.stderr.write(`${text}\n`);
  }

  /**
   * Waits for what a change has begun, and shows how far it is.
   * @param operationId empty when there was nothing to do
   * @throws CommandFailure when it failed, or is not done in time
   */
  async finish(operationId: string): Promise<void> {
    if (operationId === '') return;
    let shown = '';
    const operation = await waitForOperation(this.client, operationId, {
      timeoutMilliseconds: this.#left,
      onProgress: (running) => {
        const line = progressOf(running);
        if (line !== shown) this.note(line);
        shown = line;
      },
    });
    if (operation.state === 'OPERATION_STATE_FAILED') {
      throw new CommandFailure(exitCodeOfStatus(operation.failureCode), operation.statusMessage);
    }
    if (operation.state === 'OPERATION_STATE_RUNNING') {
      const why = operation.statusMessage === '' ? '' : ` (${operation.statusMessage})`;
      throw new CommandFailure(
        EXIT.notDoneYet,
        `${operation.kind} of ${operation.resourceId} is not done yet${why}; it goes on. To wait for it: moorage operation wait ${operation.id}`,
      );
    }
  }

  close(): void {
    this.client.close();
  }
}

/** One line about an operation that runs. */
export function progressOf({ kind, resourceId, phase, progressPercent, statusMessage }: Operation): string {
  const percent = progressPercent > 0 ? ` ${progressPercent}%` : '';
  return `${kind} ${resourceId}: ${phase}${percent}${statusMessage === '' ? '' : ` (${statusMessage})`}`;
}

function readTls({ ca, cert, key }: CommonFlags): { ca: Buffer; certificate: Buffer; key: Buffer } | undefined {
  if (ca === undefined && cert === undefined && key === undefined) return undefined;
  if (ca === undefined || cert === undefined || key === undefined) {
    throw new CommandFailure(EXIT.usage, '--ca, --cert and --key are given together or not at all');
  }
  const read = (option: string, path: string): Buffer => {
    try {
      return readFileSync(path);
    } catch (error) {
      throw new CommandFailure(EXIT.usage, `${option} ${path} cannot be read: ${(error as Error).message}`);
    }
  };
  return { ca: read('--ca', ca), certificate: read('--cert', cert), key: read('--key', key) };
}
