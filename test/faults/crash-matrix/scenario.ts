import type { MoorageClient } from '../../../src/client/index.js';
import type { Bench, BenchKind } from './bench.js';

/** One call on resources of its own. */
export interface Case {
  /** What comes before the trap is set: another death, whose consequences are what is looked at. */
  ready?(clientToken: string): Promise<void>;
  /** Makes the call, and gives its answer as it must be the same for every call with this token. */
  call(client: MoorageClient, clientToken: string): Promise<string>;
  /** Waits for what goes on after the answer, as a purge. */
  rest?(): Promise<void>;
  /** What the call was to bring about and what is not so, each in a sentence; looked at once all is at rest. */
  check(answer: string): Promise<readonly string[]>;
  /** Lets go of what it held outside of the system. */
  end?(): Promise<void>;
}

/** A call of the API, or something that the controller does by itself, in one of its forms. */
export interface Scenario {
  /** "CreateVolume, from a snapshot". */
  readonly name: string;
  /** Method of the API that it is about; undefined for what the controller does by itself. */
  readonly method?: string;
  readonly kind: BenchKind;
  /** Which of the points that are passed belong to it; default: all. */
  readonly points?: RegExp;
  /** Makes what the call needs. Several may be prepared at once. */
  prepare(bench: Bench): Promise<Case>;
}

/** Sentences for what is not as it should be. */
export function differences(what: string, found: object, wanted: object): readonly string[] {
  const values = new Map(Object.entries(found));
  return Object.entries(wanted).flatMap(([field, value]) =>
    values.get(field) === value ? [] : [`${what}: ${field} is ${String(values.get(field))}, not ${String(value)}`],
  );
}

/** The part of an answer that must be there. @throws Error */
export function given<Value>(what: string, value: Value | null | undefined): Value {
  if (value === null || value === undefined) throw new Error(`the answer has no ${what}`);
  return value;
}
