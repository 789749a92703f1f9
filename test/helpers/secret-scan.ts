import { type ChildProcess, spawn } from 'node:child_process';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { DescriptorPayload } from '../../src/descriptor/index.js';
import { type HypervisorNode, listenToOutput } from './node.js';
import type { System } from './system.js';

/** What a scan came to. */
export interface ScanReport {
  /** "secret scan: N secrets, M places, K found" */
  readonly line: string;
  /** Each a sentence without the secret itself. */
  readonly found: readonly string[];
  readonly secrets: number;
  /** How often all processes were looked through. */
  readonly samples: number;
}

/** A file or folder, and whether only what others may read in it counts, or everything. */
interface Watched {
  readonly path: string;
  readonly every: boolean;
}

interface ProcessAnswer {
  readonly samples: number;
  readonly processes: number;
  readonly texts: number;
  readonly found: readonly string[];
}

/** A piece of a secret that is long enough to be no chance, in one of the forms in which it could be written. */
interface Needle {
  readonly name: string;
  readonly text: string;
}

/**
 * Looks for secrets where none may be: in the arguments and the environment of every process while it runs, and at its end
 * in logs, metrics, outputs of commands and files that others may read. Secrets may be learned at any time: everything
 * that is seen is kept until the end.
 */
export class SecretScan {
  readonly #secrets = new Map<string, Buffer>();
  readonly #texts: { readonly place: string; readonly text: string }[] = [];
  readonly #watched: Watched[] = [];
  readonly #systems: System[] = [];
  readonly #process: ChildProcess;
  readonly #stopListening: () => void;
  readonly #answers: AsyncIterator<string>;

  private constructor() {
    const program = fileURLToPath(new URL('secret-scan-process.ts', import.meta.url));
    this.#process = spawn(process.execPath, ['--import', 'tsx', program], { stdio: ['pipe', 'pipe', 'inherit'] });
    if (this.#process.stdout === null) throw new Error('no standard output');
    this.#answers = createInterface({ input: this.#process.stdout })[Symbol.asyncIterator]();
    this.#stopListening = listenToOutput((command, text) => this.#texts.push({ place: `output of ${command}`, text }));
  }

  /** Starts one and waits until it looks. */
  static async start(): Promise<SecretScan> {
    const scan = new SecretScan();
    await scan.#answers.next();
    return scan;
  }

  /** @param value its bytes, or its text in base64 */
  learn(name: string, value: Uint8Array | string): void {
    const bytes = typeof value === 'string' ? Buffer.from(value, 'base64') : Buffer.from(value);
    if (bytes.length < 16) throw new Error(`${name} is too short for a secret`);
    this.#secrets.set(name, bytes);
  }

  /** Learns a managed export's key. */
  learnExport({ export_id, access }: DescriptorPayload): void {
    if (access.mode === 'managed') this.learn(`cephx key of ${export_id}`, String(access.key));
  }

  /** Learns the cephx keys of a system's users, its master key and its descriptor key, and watches all it writes. */
  async watchSystem(system: System): Promise<void> {
    const { stdout } = await system.cluster.ceph('auth', 'ls', '--format', 'json');
    for (const { entity, key } of (JSON.parse(stdout) as { auth_dump: { entity: string; key: string }[] }).auth_dump) {
      if (entity === 'client.admin' || entity.endsWith(`-${system.cephPool}`))
        this.learn(`cephx key of ${entity}`, key);
    }
    for (const name of ['master.key', 'descriptor.key']) await this.#learnKeyFile(join(system.directory, name));
    this.#systems.push(system);
    this.#watched.push({ path: system.directory, every: false });
    this.#watched.push({ path: system.cluster.directory, every: false });
    // The store is sealed: not even who may read it finds a key there.
    for (const suffix of ['', '-wal', '-shm']) this.#watched.push({ path: system.storeFile + suffix, every: true });
  }

  /** Learns a node's key, and watches its files and its libvirt and QEMU logs. */
  async watchNode(node: HypervisorNode): Promise<void> {
    await this.#learnKeyFile(node.keyFile);
    this.#watched.push({ path: node.directory, every: false }, { path: node.host.directory, every: false });
    for (const logs of ['log', 'lib/guests'])
      this.#watched.push({ path: join(node.host.directory, logs), every: true });
  }

  /** Looks at every process that began in the last second, now. */
  async lookNow(): Promise<void> {
    await this.#ask([]);
  }

  /** A text that must hold no secret. */
  look(place: string, text: string): void {
    this.#texts.push({ place, text });
  }

  /** A folder or file in which what others may read must hold none; with `every`, all of it. */
  watch(path: string, every = false): void {
    this.#watched.push({ path, every });
  }

  /** Looks through everything that was seen, and through logs, metrics and files as they are now. */
  async finish(): Promise<ScanReport> {
    for (const system of this.#systems) {
      this.look('log of the controller and its agents', system.log());
      const address = /"metrics":"([^"]+)"/.exec(system.log())?.[1];
      if (address === undefined) throw new Error('the controller does not say where its metrics are');
      const metrics = await (await fetch(`http://${address}/metrics`)).text();
      if (!metrics.includes('moorage_')) throw new Error(`these are no metrics: ${metrics.slice(0, 200)}`);
      this.look('metrics', metrics);
    }
    const needles = [...this.#secrets].flatMap(([name, bytes]) => needlesOf(name, bytes));
    const answer = await this.#ask(needles);
    const found = new Set(answer.found);
    const search = (place: string, text: string): void => {
      for (const needle of needles) if (text.includes(needle.text)) found.add(`${needle.name} in ${place}`);
    };
    for (const { place, text } of this.#texts) {
      // As latin1, so that each byte is a character, as in the needles.
      search(place, Buffer.from(text).toString('latin1'));
    }
    let files = 0;
    for (const watched of this.#watched) {
      for (const path of await filesToRead(watched)) {
        files += 1;
        search(path, await readFile(path, 'latin1'));
      }
    }
    const places = answer.texts + this.#texts.length + files;
    return {
      line:
        `secret scan: ${this.#secrets.size} secrets, ${places} places, ${found.size} found ` +
        `(${answer.processes} processes looked at, all of them ${answer.samples} times; ${files} files)`,
      found: [...found],
      secrets: this.#secrets.size,
      samples: answer.samples,
    };
  }

  /** Ends its process. */
  async stop(): Promise<void> {
    this.#stopListening();
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return;
    const ended = new Promise((resolve) => this.#process.once('close', resolve));
    this.#process.stdin?.end();
    await ended;
  }

  async #ask(needles: readonly Needle[]): Promise<ProcessAnswer> {
    this.#process.stdin?.write(`${JSON.stringify({ needles })}\n`);
    const { value, done } = await this.#answers.next();
    if (done) throw new Error('the process that looks for secrets has ended');
    return JSON.parse(value) as ProcessAnswer;
  }

  async #learnKeyFile(path: string): Promise<void> {
    const file = JSON.parse(await readFile(path, 'utf8')) as Readonly<Record<string, unknown>>;
    const secret = secretIn(file.current);
    if (secret === undefined) throw new Error(`${path} holds no key`);
    this.learn(path, secret);
  }
}

function secretIn(current: unknown): string | undefined {
  const { key, secret_key } = (current ?? {}) as { key?: string; secret_key?: string };
  return secret_key ?? key;
}

/** A cephx key begins with 12 bytes that are no secret: a type, the time it was made, a length. */
const CEPHX_HEAD_BYTES = 12;
const CEPHX_BYTES = 28;

/** The forms in which somebody could have written it, and each in two halves, in case it was cut. */
function needlesOf(name: string, bytes: Buffer): Needle[] {
  const secret = bytes.length === CEPHX_BYTES ? bytes.subarray(CEPHX_HEAD_BYTES) : bytes;
  const forms = [
    secret.toString('latin1'),
    secret.toString('hex'),
    secret.toString('hex').toUpperCase(),
    secret.toString('base64').replace(/=+$/, ''),
    secret.toString('base64url'),
    [...secret].join(','),
    // Written as base64 text once more.
    Buffer.from(secret.toString('base64')).toString('base64').replace(/=+$/, ''),
  ];
  return forms.flatMap((text) => {
    const middle = Math.floor(text.length / 2);
    return [text.slice(0, middle), text.slice(middle)].map((half) => ({ name, text: half }));
  });
}

async function filesToRead({ path, every }: Watched): Promise<string[]> {
  const status = await stat(path).catch(() => undefined);
  if (status === undefined) return [];
  if (status.isFile()) return [path];
  const found: string[] = [];
  for (const entry of await readdir(path, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const file = join(entry.parentPath, entry.name);
    // A file may go while the folder is read.
    const mode = (await stat(file).catch(() => undefined))?.mode ?? 0;
    if (every || (mode & 0o004) !== 0) found.push(file);
  }
  return found;
}
