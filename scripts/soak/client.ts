import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { MoorageCallError, type MoorageClient } from '../../src/client/index.js';
import { rbdAccessSchema } from '../../src/descriptor/index.js';
import { execute } from '../../test/helpers/exec.js';
import type { TestNode } from '../../test/helpers/test-node.js';
import type { History } from './history.js';
import type { Random } from './random.js';

/** What the clients have in common. */
export interface Surroundings {
  readonly configurationFile: string;
  readonly cephPool: string;
  readonly nodes: readonly TestNode[];
  /** Volumes that everybody wants to have on a node of his own. */
  readonly contested: readonly string[];
  readonly figures: Figures;
}

/** What the clients went through. */
export interface Figures {
  /** Calls with a token of their own, and reads. */
  calls: number;
  /** Calls that were made once more because nobody knew, or because they were not done yet. */
  retries: number;
  /** Refused for good: somebody was in the way, or it is too late. */
  refused: number;
  written: number;
  /** From a call until the caller knew, in milliseconds; and of what. */
  longestWait: number;
  longestWaitOf: string;
}

type Answer = Readonly<Record<string, unknown>>;
type Request = Readonly<Record<string, unknown>>;
type Outcome = { readonly answer: Answer } | { readonly refused: MoorageCallError };

interface OwnVolume {
  readonly id: string;
  sizeBytes: number;
  /** Where the next mark goes. */
  nextOffset: number;
}

interface Made {
  readonly method: string;
  readonly request: Request;
  readonly token: string;
}

const MEGABYTE = 2 ** 20;
/** Marks stand so far apart that each has an object of its own, and copy-up is among what is tried. */
const MARK_DISTANCE = 4 * MEGABYTE;
const TRY_MILLISECONDS = 12_000;
const UNFINISHED = /_(CREATING|DELETING|PENDING|EXPORTING|UNEXPORTING)$/;
const writer = fileURLToPath(new URL('writer.py', import.meta.url));

/** One caller: does this and that with volumes of its own, and quarrels with the others over a few. */
export class SoakClient {
  readonly #api: MoorageClient;
  /** Begins with another controller. */
  readonly #second: MoorageClient;
  readonly #history: History;
  readonly #random: Random;
  readonly #around: Surroundings;
  readonly #volumes: OwnVolume[] = [];
  readonly #snapshots: { readonly id: string; readonly sizeBytes: number; readonly nextOffset: number }[] = [];
  readonly #deleted: string[] = [];
  readonly #made: Made[] = [];

  constructor(api: MoorageClient, second: MoorageClient, history: History, random: Random, around: Surroundings) {
    this.#api = api;
    this.#second = second;
    this.#history = history;
    this.#random = random;
    this.#around = around;
  }

  /** Calls until the signal; then ends with what it is at. */
  async run(signal: AbortSignal): Promise<void> {
    const choices: readonly (readonly [() => Promise<void>, number])[] = [
      [() => this.#createVolume(), 14],
      [() => this.#createFromSnapshot(), 10],
      [() => this.#createSnapshot(), 14],
      [() => this.#expand(), 8],
      [() => this.#deleteVolume(), 9],
      [() => this.#deleteSnapshot(), 6],
      [() => this.#undelete(), 5],
      [() => this.#write(), 12],
      [() => this.#quarrel(), 10],
      [() => this.#get(), 10],
      [() => this.#list(), 2],
      [() => this.#repeat(), 6],
    ];
    while (!signal.aborted) {
      await this.#random.weighted(choices)();
      await sleep(this.#random.between(20, 200));
    }
  }

  async #createVolume(): Promise<void> {
    if (this.#volumes.length >= 5) return;
    const sizeBytes = this.#random.pick([16, 24, 32]) * MEGABYTE;
    const outcome = await this.#change('createVolume', { poolId: 'main', sizeBytes, displayName: randomUUID() });
    this.#keepVolume(outcome, 0);
  }

  async #createFromSnapshot(): Promise<void> {
    if (this.#volumes.length >= 5 || this.#snapshots.length === 0) return;
    const snapshot = this.#random.pick(this.#snapshots);
    const outcome = await this.#change('createVolume', {
      source: { snapshotId: snapshot.id },
      sizeBytes: snapshot.sizeBytes + this.#random.pick([0, 8]) * MEGABYTE,
      displayName: randomUUID(),
    });
    this.#keepVolume(outcome, snapshot.nextOffset);
  }

  #keepVolume(outcome: Outcome, nextOffset: number): void {
    if (!('answer' in outcome) || outcome.answer.state !== 'VOLUME_STATE_AVAILABLE') return;
    this.#volumes.push({ id: String(outcome.answer.id), sizeBytes: Number(outcome.answer.sizeBytes), nextOffset });
  }

  async #createSnapshot(): Promise<void> {
    if (this.#volumes.length === 0 || this.#snapshots.length >= 5) return;
    const { id, sizeBytes, nextOffset } = this.#random.pick(this.#volumes);
    const outcome = await this.#change('createSnapshot', { volumeId: id, displayName: randomUUID() });
    if ('answer' in outcome && outcome.answer.state === 'SNAPSHOT_STATE_COMPLETED') {
      this.#snapshots.push({ id: String(outcome.answer.id), sizeBytes, nextOffset });
    }
  }

  async #expand(): Promise<void> {
    if (this.#volumes.length === 0) return;
    const volume = this.#random.pick(this.#volumes);
    const sizeBytes = volume.sizeBytes + 8 * MEGABYTE;
    const outcome = await this.#change('expandVolume', { volumeId: volume.id, sizeBytes });
    if ('answer' in outcome) volume.sizeBytes = sizeBytes;
  }

  async #deleteVolume(): Promise<void> {
    if (this.#volumes.length === 0) return;
    const { id } = this.#random.pick(this.#volumes);
    const outcome = await this.#change('deleteVolume', { volumeId: id });
    if (!('answer' in outcome)) return;
    this.#volumes.splice(
      this.#volumes.findIndex((volume) => volume.id === id),
      1,
    );
    this.#deleted.push(id);
  }

  async #deleteSnapshot(): Promise<void> {
    if (this.#snapshots.length === 0) return;
    const { id } = this.#random.pick(this.#snapshots);
    const outcome = await this.#change('deleteSnapshot', { snapshotId: id });
    if (!('answer' in outcome)) return;
    this.#snapshots.splice(
      this.#snapshots.findIndex((snapshot) => snapshot.id === id),
      1,
    );
  }

  async #undelete(): Promise<void> {
    const id = this.#deleted.pop();
    if (id === undefined) return;
    const outcome = await this.#change('undeleteVolume', { volumeId: id });
    // What is in it is known by its history; nothing more is written to it.
    if ('answer' in outcome) {
      this.#volumes.push({ id, sizeBytes: Number(outcome.answer.sizeBytes), nextOffset: Number.POSITIVE_INFINITY });
    }
  }

  /** Exports a volume to a node, which writes into it; takes it back, now and then with a snapshot before that. */
  async #write(): Promise<void> {
    const writable = this.#volumes.filter(({ nextOffset, sizeBytes }) => nextOffset + MARK_DISTANCE <= sizeBytes);
    if (writable.length === 0) return;
    const volume = this.#random.pick(writable);
    const node = this.#random.pick(this.#around.nodes);
    const exported = await this.#change('export', {
      volumeId: volume.id,
      authority: 'direct',
      direct: { nodeId: node.id },
    });
    if (!('answer' in exported)) return;
    const wrote = await this.#writeOnNode(volume, node, exported.answer.descriptor as Uint8Array);
    if (wrote && this.#random.next() < 0.5) {
      const outcome = await this.#change('createSnapshot', { volumeId: volume.id, displayName: randomUUID() });
      if ('answer' in outcome && outcome.answer.state === 'SNAPSHOT_STATE_COMPLETED') {
        const { sizeBytes, nextOffset } = volume;
        this.#snapshots.push({ id: String(outcome.answer.id), sizeBytes, nextOffset });
      }
    }
    await this.#unexport(String(exported.answer.id));
  }

  async #writeOnNode(volume: OwnVolume, node: TestNode, descriptor: Uint8Array): Promise<boolean> {
    const { access, image } = await node.open(descriptor);
    const parsed = rbdAccessSchema.parse(access);
    if (parsed.mode !== 'managed') throw new Error('the export brings no key');
    const what = { volumeId: volume.id, offset: volume.nextOffset, mark: randomUUID() };
    volume.nextOffset += MARK_DISTANCE;
    this.#history.write({ event: 'writing', ...what });
    const task = {
      ...{ configuration: this.#around.configurationFile, pool: this.#around.cephPool, image: image.name },
      ...{ user: parsed.user, key: parsed.key, offset: what.offset, mark: what.mark },
    };
    try {
      const input = JSON.stringify(task);
      await execute('/usr/bin/python3', [writer], { input, timeoutMilliseconds: 60_000 });
    } catch {
      // The storage was away, or it was cut off: nobody knows whether it is written.
      return false;
    }
    this.#history.write({ event: 'written', ...what });
    this.#around.figures.written += 1;
    return true;
  }

  /** Tries to have a volume that the others want too; holds it for a moment. */
  async #quarrel(): Promise<void> {
    const volumeId = this.#random.pick(this.#around.contested);
    const { id: nodeId } = this.#random.pick(this.#around.nodes);
    const exported = await this.#change('export', { volumeId, authority: 'direct', direct: { nodeId } });
    if (!('answer' in exported)) return;
    await sleep(this.#random.between(0, 600));
    await this.#unexport(String(exported.answer.id), this.#random.next() < 0.2);
  }

  async #unexport(exportId: string, force = false): Promise<void> {
    const outcome = await this.#change('unexport', { exportId, force });
    // A writer that was cut off has not closed it.
    if (!('answer' in outcome) && outcome.refused.code === 'FAILED_PRECONDITION') {
      await this.#change('unexport', { exportId, force: true });
    }
  }

  async #get(): Promise<void> {
    const ids = [...this.#volumes.map(({ id }) => id), ...this.#deleted];
    if (ids.length > 0) await this.#read('getVolume', { volumeId: this.#random.pick(ids) });
  }

  async #list(): Promise<void> {
    await this.#read('listVolumes', { pageSize: 1000 });
  }

  /** An answer once more, by a token of before. */
  async #repeat(): Promise<void> {
    if (this.#made.length === 0) return;
    const { method, request, token } = this.#random.pick(this.#made);
    await this.#finally(this.#random.next() < 0.5 ? this.#api : this.#second, method, request, token);
  }

  /** A change, until it is known what became of it; now and then asked for twice at once, of two controllers. */
  async #change(method: string, request: Request): Promise<Outcome> {
    const token = randomUUID();
    const twice = this.#random.next() < 0.15;
    const [outcome] = await Promise.all([
      this.#finally(this.#api, method, request, token),
      ...(twice ? [this.#finally(this.#second, method, request, token)] : []),
    ]);
    if ('answer' in outcome) {
      this.#made.push({ method, request, token });
      if (this.#made.length > 20) this.#made.shift();
    } else this.#around.figures.refused += 1;
    return outcome;
  }

  async #read(method: string, request: Request): Promise<Outcome> {
    return this.#finally(this.#api, method, request, randomUUID());
  }

  async #finally(api: MoorageClient, method: string, request: Request, token: string): Promise<Outcome> {
    const { figures } = this.#around;
    const began = performance.now();
    figures.calls += 1;
    try {
      for (let first = true; ; first = false) {
        if (!first) {
          figures.retries += 1;
          await sleep(100);
        }
        const outcome = await this.#once(api, method, request, token);
        if ('answer' in outcome ? isFinal(method, request, outcome.answer) : !isUnknown(outcome.refused))
          return outcome;
      }
    } finally {
      const waited = performance.now() - began;
      if (waited > figures.longestWait) {
        figures.longestWait = waited;
        figures.longestWaitOf = method;
      }
    }
  }

  async #once(api: MoorageClient, method: string, request: Request, token: string): Promise<Outcome> {
    const isReading = /^(get|list)/.test(method);
    this.#history.write({ event: 'call', method, token, request });
    try {
      const call = api[method as 'createVolume'] as (request: object, options: object) => Promise<object>;
      const full = isReading ? request : { ...request, clientToken: token };
      const told = await call(full, { deadlineMilliseconds: TRY_MILLISECONDS });
      const answer = shortened(told as Record<string, unknown>);
      const { descriptor: _descriptor, ...shown } = answer;
      this.#history.write({ event: 'answer', method, token, answer: shown });
      return { answer };
    } catch (error) {
      if (!(error instanceof MoorageCallError)) throw error;
      const { code, reason, message } = error;
      this.#history.write({ event: 'error', method, token, code, reason, message });
      return { refused: error };
    }
  }
}

/** Nobody knows whether it was done: to be asked again, with the same token. */
function isUnknown({ code }: MoorageCallError): boolean {
  return code === 'UNAVAILABLE' || code === 'DEADLINE_EXCEEDED';
}

function isFinal(method: string, request: Request, answer: Answer): boolean {
  if (UNFINISHED.test(String(answer.state))) return false;
  // It stays deleted until it is done: what works on it tells whether it is.
  if (method === 'undeleteVolume') return answer.working === '' || answer.working !== answer.operationId;
  if (method === 'expandVolume') return Number(answer.sizeBytes) >= Number(request.sizeBytes);
  return true;
}

/** What matters of an answer: of the resource its fields, of a list which are in it and in which state. */
function shortened(told: Record<string, unknown>): Answer {
  if (Array.isArray(told.volumes)) {
    const volumes = told.volumes as readonly { readonly id: string; readonly state: string }[];
    return { states: Object.fromEntries(volumes.map(({ id, state }) => [id, state])), more: told.nextPageToken !== '' };
  }
  const resource = (told.volume ?? told.snapshot ?? told.export ?? {}) as Record<string, unknown>;
  const { id, state, sizeBytes, volumeId, nodeId, operationId: working } = resource;
  const { operationId, descriptor } = told;
  return { id, state, sizeBytes, volumeId, nodeId, working, operationId, descriptor };
}
