import { readFile } from 'node:fs/promises';
import { relative } from 'node:path';
import { repositoryDirectory } from '../../test/helpers/cluster.js';

const LOG_LINES_SHOWN = 12;

/** A step that failed: which one, and which logs may say why. */
export class StepError extends Error {
  readonly logs: readonly string[];

  constructor(title: string, cause: unknown, logs: readonly string[]) {
    super(`"${title}" failed: ${sentenceOf(cause)}`, { cause });
    this.name = 'StepError';
    this.logs = logs;
  }
}

function sentenceOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause instanceof Error ? `${error.message} (${error.cause.message})` : error.message;
}

/** Tells on the terminal what is done, step by step, and how long each took. */
export class Narration {
  #number = 0;
  #ended = false;

  /**
   * Carries out one step.
   * @param logs files whose end is shown when it fails
   * @param action does it; what it returns is the last line: what came of it
   * @throws StepError
   */
  async step(title: string, logs: readonly string[], action: () => Promise<string>): Promise<void> {
    if (this.#ended) throw new Error('interrupted');
    this.#number += 1;
    this.#write(`\n${String(this.#number).padStart(2)}. ${title}`);
    const began = performance.now();
    let outcome: string;
    try {
      outcome = await action();
    } catch (error) {
      throw new StepError(title, error, logs);
    }
    this.#write(`    ${outcome}  [${secondsSince(began)}]`);
  }

  /** A command line as a user would type it. */
  command(parameters: readonly string[], more = ''): void {
    this.#write(`    $ ${parameters.map(quoted).join(' ')}${more}`);
  }

  /** Something worth knowing about the step that runs. */
  fact(text: string): void {
    for (const line of text.trimEnd().split('\n')) this.#write(`      ${line}`);
  }

  /** Text of its own. */
  say(text: string): void {
    this.#write(text);
  }

  /** No step begins any more, and nothing is said of the one that runs. */
  end(): void {
    this.#ended = true;
  }

  #write(text: string): void {
    if (!this.#ended) process.stdout.write(`${text}\n`);
  }
}

/** Seconds since a reading of performance.now(), for people. */
export function secondsSince(began: number): string {
  return `${((performance.now() - began) / 1000).toFixed(2)} s`;
}

/** What is said of a failure: a sentence, and the end of each log. */
export async function describeFailure(error: unknown): Promise<string> {
  const lines = [error instanceof StepError ? error.message : sentenceOf(error)];
  for (const log of error instanceof StepError ? error.logs : []) {
    const text = await readFile(log, 'utf8').catch(() => '');
    if (text === '') continue;
    lines.push(`the end of ${relative(repositoryDirectory, log)}:`);
    lines.push(
      ...text
        .trimEnd()
        .split('\n')
        .slice(-LOG_LINES_SHOWN)
        .map((line) => `  ${line}`),
    );
  }
  return lines.join('\n');
}

function quoted(text: string): string {
  return /^[A-Za-z0-9_@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
