import { dataService, fenceService } from '../../../src/backends/protocol.js';
import { methods } from '../../../src/client/definitions.js';
import type { Bench } from './bench.js';
import type { Scenario } from './scenario.js';

/*
 * Whether anything that changes something goes by without a point: looked at from the other side, by what the API and the
 * backend protocol name and what the store has counted.
 */

/** Methods of the backend protocol that none of the scenarios needs, each with the reason. */
const NOT_SENT: Readonly<Record<string, string>> = {
  'fence ListAccess': 'only looks, and no call asks',
  'data ListCatalogueEntries': 'only looks, and no call asks',
  'data ListImages': 'only looks, and no call asks',
  'data SetChild': 'only Repair asks, for what a fault outside of Moorage did',
  'data StopFlatten': 'flattening an image without data is over before anybody can stop it',
  'fence InspectAccess': 'only looks, for Check and Repair',
};

/** What the loader of the protos leaves at a method, of which grpc-js says nothing. */
interface DescribedMethod {
  readonly requestType: { readonly type: { readonly field: readonly { readonly name: string }[] } };
}

/** Methods of the API that change something (their requests have a client token) and are in no scenario. */
export function uncoveredMethods(scenarios: readonly Scenario[]): readonly string[] {
  const covered = new Set(scenarios.map((scenario) => scenario.method));
  return [...methods].flatMap(([name, method]) => {
    const { type } = (method as unknown as DescribedMethod).requestType;
    const changes = type.field.some((field) => field.name === 'clientToken' || field.name === 'client_token');
    return changes && !covered.has(name) ? [name] : [];
  });
}

/** Methods of the backend protocol that passed no point, of the controller or of the agent; each a sentence. */
export function unseenSteps(benches: readonly Bench[]): readonly string[] {
  const traces = benches.map((bench) => bench.trace());
  const sent = new Set(traces.flatMap((trace) => [...trace.sent]));
  const served = new Set(traces.flatMap((trace) => [...trace.served]));
  const all = [
    ...Object.keys(dataService).map((name) => `data ${name}`),
    ...Object.keys(fenceService).map((name) => `fence ${name}`),
  ];
  return [
    ...all.filter((name) => !sent.has(name) && NOT_SENT[name] === undefined).map((name) => `${name} passed no point`),
    ...all.filter((name) => sent.has(name) && !served.has(name)).map((name) => `${name} passed no point of the agent`),
    ...all
      .filter((name) => sent.has(name) && NOT_SENT[name] !== undefined)
      .map((name) => `${name} is needed after all`),
  ];
}

/** Numbers of commits that the store has counted and that passed no point, between the first and the last that did. */
export function unseenCommits(revisions: readonly number[]): readonly number[] {
  const seen = new Set(revisions);
  const [first, last] = [Math.min(...revisions), Math.max(...revisions)];
  const missing: number[] = [];
  for (let revision = first; revision < last; revision += 1) if (!seen.has(revision)) missing.push(revision);
  return missing;
}
