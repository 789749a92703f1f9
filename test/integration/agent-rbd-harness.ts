import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { type Client, credentials, type Metadata, type ServiceError } from '@grpc/grpc-js';
import { ErrorInfo } from 'nice-grpc-error-details';
import { Status } from 'nice-grpc-error-details/lib/proto/google/rpc/status.js';
import { loadBackendProtocol } from '../../src/agents/rbd/protocol.js';
import type { CreateImageResponse__Output } from '../../src/generated/moorage/backend/v1/CreateImageResponse.js';
import type { HelloResponse__Output } from '../../src/generated/moorage/backend/v1/HelloResponse.js';
import type { Image__Output } from '../../src/generated/moorage/backend/v1/Image.js';

const run = promisify(execFile);
const root = fileURLToPath(new URL('../..', import.meta.url));

/** Starts (or finds) a development cluster. @returns path of its ceph.conf */
export async function startCluster(name: string): Promise<string> {
  await run(join(root, 'scripts/ceph-cluster.sh'), ['start', name]);
  const { stdout } = await run(join(root, 'scripts/ceph-cluster.sh'), ['env', name]);
  return stdout.trim().replace('CEPH_CONF=', '');
}

/** Process id of a daemon of a cluster, as "osd.0". */
export function daemonPid(configuration: string, daemon: string): number {
  return Number(readFileSync(join(configuration, '..', 'run', `${daemon}.pid`), 'utf8'));
}

/** Waits until something holds. */
export async function until<Result>(what: string, condition: () => Promise<Result | undefined>, seconds = 60) {
  const limit = Date.now() + seconds * 1000;
  for (;;) {
    const result = await condition();
    if (result !== undefined && result !== false) return result;
    if (Date.now() > limit) throw new Error(`gave up waiting until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** How a step failed, as a controller sees it. */
export interface StepFailure {
  readonly code: number;
  readonly message: string;
  readonly reason: string;
  readonly metadata: Readonly<Record<string, string>>;
}

/** Reads the ErrorInfo of a failed call. */
export function failureOf(error: ServiceError): StepFailure {
  const bytes = (error.metadata as Metadata | undefined)?.get('grpc-status-details-bin')[0];
  const any = bytes === undefined ? undefined : Status.decode(bytes as Buffer).details[0];
  const info = any === undefined ? undefined : ErrorInfo.decode(any.value);
  return {
    code: error.code,
    message: error.details,
    reason: info?.reason ?? '',
    metadata: (info?.metadata as Record<string, string> | undefined) ?? {},
  };
}

type Method = (
  request: object,
  options: object,
  answer: (error: ServiceError | null, response: object) => void,
) => void;

/** An agent of a test's own, and a client of it. */
export class TestAgent {
  readonly process: ChildProcess;
  readonly socket: string;
  readonly controller = crypto.randomUUID();
  readonly cephPool: string;
  hello: HelloResponse__Output | undefined;
  log = '';
  readonly #folder: string;
  readonly #clients: Record<'AgentService' | 'DataService' | 'FenceService', Client>;

  constructor(
    configuration: string,
    options: {
      readonly arguments?: readonly string[];
      readonly threads?: number;
      readonly pool?: string;
      readonly user?: string;
      readonly keyring?: string;
      readonly role?: string;
      readonly lockFile?: string;
    } = {},
  ) {
    this.#folder = mkdtempSync(join(tmpdir(), 'moorage-agent-'));
    this.socket = join(this.#folder, 'socket');
    this.cephPool = options.pool ?? 'moorage';
    this.process = spawn(
      process.execPath,
      [
        '--import',
        'tsx',
        join(root, 'src/bin/moorage-agent-rbd.ts'),
        ...['--role', options.role ?? 'data', '--socket', this.socket, '--ceph-conf', configuration],
        ...['--user', options.user ?? 'admin'],
        ...['--keyring', options.keyring ?? join(configuration, '..', 'ceph.client.admin.keyring')],
        ...['--lock-file', options.lockFile ?? join(this.#folder, 'lock'), ...(options.arguments ?? [])],
      ],
      {
        cwd: root,
        env: { ...process.env, UV_THREADPOOL_SIZE: String(options.threads ?? 96) },
        stdio: ['pipe', 'inherit', 'pipe'],
      },
    );
    this.process.stdin?.on('error', () => undefined);
    this.process.stderr?.on('data', (data: Buffer) => {
      this.log += data.toString();
    });
    const protocol = loadBackendProtocol();
    const address = `unix:${this.socket}`;
    this.#clients = {
      AgentService: new protocol.AgentService(address, credentials.createInsecure()),
      DataService: new protocol.DataService(address, credentials.createInsecure()),
      FenceService: new protocol.FenceService(address, credentials.createInsecure()),
    };
  }

  /** Waits until it serves, and says Hello. */
  async ready(): Promise<this> {
    await until('the agent serves', async () => {
      if (this.process.exitCode !== null) throw new Error(`the agent ended: ${this.log}`);
      return this.log.includes('"serving"') || undefined;
    });
    const hello = { controller: this.controller, protocolVersion: 1 };
    this.hello = await this.call<HelloResponse__Output>('AgentService', 'Hello', hello);
    return this;
  }

  /** Calls any method. Rejects with a StepFailure. */
  call<Response>(
    service: 'AgentService' | 'DataService' | 'FenceService',
    method: string,
    request: object,
    seconds = 60,
  ): Promise<Response> {
    const client = this.#clients[service] as unknown as Readonly<Record<string, Method>>;
    return new Promise((resolve, reject) => {
      client[method]?.call(client, request, { deadline: Date.now() + seconds * 1000 }, (error, response) => {
        if (error) reject(failureOf(error));
        else resolve(response as Response);
      });
    });
  }

  /** Calls a step of the data role. */
  step<Response>(method: string, request: object, seconds = 60, pool = this.cephPool): Promise<Response> {
    return this.call<Response>('DataService', method, { step: this.stepOf(method, pool), ...request }, seconds);
  }

  stepOf(name: string, pool = this.cephPool): object {
    return {
      controller: this.controller,
      operationId: 'op-1',
      name,
      pool: { poolId: 'pool-1', settings: { ceph_pool: pool } },
    };
  }

  /** Makes an image; fails when it is unusable. */
  async create(name: string, sizeBytes: number, more: object = {}): Promise<Image__Output> {
    const response = await this.createOutcome(name, sizeBytes, more);
    if (!response.image) throw new Error(`unusable: ${response.unusable?.reason}`);
    return response.image;
  }

  createOutcome(
    name: string,
    sizeBytes: number,
    more: object = {},
    seconds = 60,
  ): Promise<CreateImageResponse__Output> {
    const catalogueEntry = { key: name, value: Buffer.from(`entry of ${name}`) };
    return this.step('CreateImage', { catalogueEntry, name, sizeBytes, pointName: '', ...more }, seconds);
  }

  /** Runs something on a connection of its own. */
  async withConnection<Result>(use: (connectionId: string) => Promise<Result>): Promise<Result> {
    const { connectionId } = await this.step<{ connectionId: string }>('OpenConnection', {});
    try {
      return await use(connectionId);
    } finally {
      await this.step('CloseConnection', { connectionId });
    }
  }

  /** Destroys images, and whatever of them is left. */
  async purge(...images: Image__Output[]): Promise<void> {
    for (const image of images) {
      await this.step('PurgeImage', { image, formerNames: [image.name], catalogueKey: image.name });
    }
  }

  /** Kills it as the kernel would. */
  async kill(): Promise<void> {
    const ended = new Promise((resolve) => this.process.once('exit', resolve));
    if (this.process.exitCode === null && this.process.signalCode === null) {
      this.process.kill('SIGKILL');
      await ended;
    }
    this.dispose();
  }

  dispose(): void {
    for (const client of Object.values(this.#clients)) client.close();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** A promise's failure; fails when there is none. */
export async function failure(promise: Promise<unknown>): Promise<StepFailure> {
  try {
    await promise;
  } catch (error) {
    return error as StepFailure;
  }
  throw new Error('it should have failed');
}
