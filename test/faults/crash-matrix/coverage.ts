import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type GrpcObject, loadPackageDefinition } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { dataService, fenceService } from '../../../src/backends/protocol.js';
import type { Bench } from './bench.js';
import type { Scenario } from './scenario.js';

/*
 * Whether anything that changes something goes by without a point: looked at from the other side, by what the API and the
 * backend protocol name and what the store has counted.
 */

/** Methods of the backend protocol that none of the scenarios needs, each with the reason. */
const NOT_SENT: Readonly<Record<string, string>> = {};

/**
 * Names of methods that change nothing. Whatever is called otherwise is taken for one that does, and must be in a scenario:
 * with a `Scenario` of its own in one of the files here (as volumes.ts), in the list of scenarios.ts, whose `method` it is.
 * Its points are then found by themselves. A new kind of call needs no more than that; only one whose points are about other
 * things than pools, volumes, snapshots and exports needs invariants of its own in check.ts.
 */
const READS = /^(Get|List|Wait|Watch|Check)/;

const protos = fileURLToPath(new URL('../../../protos', import.meta.url));

/** Every method of the API by its name, from its files: also of a service that the client does not know yet. */
function apiMethods(): readonly string[] {
  const files = readdirSync(join(protos, 'moorage/v1')).filter((name) => name.endsWith('_service.proto'));
  const definition = loadSync(
    files.map((name) => `moorage/v1/${name}`),
    { includeDirs: [protos] },
  );
  const { moorage } = loadPackageDefinition(definition) as { moorage: { v1: GrpcObject } };
  return Object.values(moorage.v1).flatMap((item) => ('service' in item ? Object.keys(item.service as object) : []));
}

/** Methods of the API that change something and are in no scenario. */
export function uncoveredMethods(scenarios: readonly Scenario[]): readonly string[] {
  const covered = new Set(scenarios.map((scenario) => scenario.method));
  return apiMethods().filter((name) => !READS.test(name) && !covered.has(name));
}

/** Methods that scenarios say they are about and that the API does not have. */
export function unknownMethods(scenarios: readonly Scenario[]): readonly string[] {
  const known = new Set(apiMethods());
  return scenarios.flatMap(({ method }) => (method === undefined || known.has(method) ? [] : [method]));
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
