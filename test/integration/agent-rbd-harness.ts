import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Client, credentials, type Metadata, type ServiceError } from '@grpc/grpc-js';
import { ErrorInfo } from 'nice-grpc-error-details';
import { Status } from 'nice-grpc-error-details/lib/proto/google/rpc/status.js';
import { Cluster as Connection, timeoutOverrides } from '../../src/agents/rbd/librbd/cluster.js';
import { listObjects } from '../../src/agents/rbd/librbd/objects.js';
import { loadBackendProtocol } from '../../src/agents/rbd/protocol.js';
import type { CreateImageResponse__Output } from '../../src/generated/moorage/backend/v1/CreateImageResponse.js';
import type { HelloResponse__Output } from '../../src/generated/moorage/backend/v1/HelloResponse.js';
import type { Image__Output } from '../../src/generated/moorage/backend/v1/Image.js';
import { type Cluster, repositoryDirectory } from '../helpers/cluster.js';
import { waitFor } from '../helpers/wait.js';

const root = repositoryDirectory;

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
    cluster: Cluster,
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
        ...['--role', options.role ?? 'data', '--socket', this.socket, '--ceph-conf', cluster.configurationFile],
        ...['--user', options.user ?? 'admin'],
        ...['--keyring', options.keyring ?? cluster.adminKeyring],
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
    await waitFor('the agent serves or ends', () => this.log.includes('"serving"') || this.ended);
    if (this.ended) throw new Error(`the agent ended: ${this.log}`);
    const hello = { controller: this.controller, protocolVersion: 1 };
    this.hello = await this.call<HelloResponse__Output>('AgentService', 'Hello', hello);
    return this;
  }

  /** Whether its process is gone. */
  get ended(): boolean {
    return this.process.exitCode !== null || this.process.signalCode !== null;
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
    if (!this.ended) {
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

/** A client of the cluster with all rights, to look at what the agent did. */
export function connectAdmin(cluster: Cluster): Promise<Connection> {
  return Connection.connect({
    configurationFile: cluster.configurationFile,
    user: 'admin',
    keyringFile: cluster.adminKeyring,
    overrides: timeoutOverrides(60),
  });
}

/** Names of the objects of a pool that hold one of these texts. */
export async function objectsWith(admin: Connection, pool: string, ...texts: readonly string[]): Promise<string[]> {
  return admin.withPool(pool, async (context) => {
    const found: string[] = [];
    for await (const object of listObjects(context)) {
      if (texts.some((text) => object.includes(text))) found.push(object);
    }
    return found;
  });
}

let counter = 0;

/** A name that no other test has. */
export function uniqueName(kind: string): string {
  counter += 1;
  return `${kind}-${process.pid}-${Date.now().toString(36)}-${counter}`;
}

/** The parent of a clone of an image's point. */
export function parentOf(image: Image__Output, point = image.points[0]): object {
  return { name: image.name, backendId: image.backendId, point };
}
