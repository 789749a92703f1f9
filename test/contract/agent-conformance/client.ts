import { randomBytes, randomUUID } from 'node:crypto';
import { Client, credentials, Metadata, type ServiceError, status } from '@grpc/grpc-js';
import type { MethodDefinition } from '@grpc/proto-loader';
import { ErrorInfo } from 'nice-grpc-error-details';
import { Status } from 'nice-grpc-error-details/lib/proto/google/rpc/status.js';
import { agentService, dataService, fenceService } from '../../../src/backends/protocol.js';
import type { AgentServiceDefinition } from '../../../src/generated/moorage/backend/v1/AgentService.js';
import type { DataServiceDefinition } from '../../../src/generated/moorage/backend/v1/DataService.js';
import type { FenceServiceDefinition } from '../../../src/generated/moorage/backend/v1/FenceService.js';

/** What the suite runs against. */
export interface ConformanceTarget {
  /** Where the role "data" is served, as gRPC spells it: "unix:/run/agent.sock". */
  readonly data: string;
  /** Where the role "fence" is served; may be the same. */
  readonly fence: string;
  /** The backend's own settings of a pool that is there for this only. */
  readonly settings: Readonly<Record<string, string>>;
  /** Program and arguments that hold an image open as a node would (README.md here); without it those tests are left out. */
  readonly hold?: readonly string[];
}

/** How a call failed. */
export class Refusal extends Error {
  readonly code: string;
  readonly reason: string;

  constructor(error: ServiceError) {
    super(`${status[error.code]}: ${error.details}`);
    this.code = status[error.code] ?? 'UNKNOWN';
    const packed = error.metadata.get('grpc-status-details-bin')[0];
    const details = packed instanceof Uint8Array ? Status.decode(packed).details : [];
    const info = details.find((each) => each.typeUrl.endsWith(`/${ErrorInfo.$type}`));
    this.reason = info === undefined ? '' : ErrorInfo.decode(info.value).reason;
  }
}

/** Codes with which a step is refused for good. */
export const PERMANENT = [
  'FAILED_PRECONDITION',
  'NOT_FOUND',
  'RESOURCE_EXHAUSTED',
  'OUT_OF_RANGE',
  'INVALID_ARGUMENT',
] as const;

type RequestOf<Method> =
  Method extends MethodDefinition<infer Request, infer _Response, infer _RequestOut, infer _ResponseOut>
    ? Omit<Request, 'step'>
    : never;
type ResponseOf<Method> =
  Method extends MethodDefinition<infer _Request, infer _Response, infer _RequestOut, infer ResponseOut>
    ? ResponseOut
    : never;

/** A controller of the suite's own, under an id that nobody used before. */
export class ConformanceClient {
  readonly controller = randomUUID();
  readonly target: ConformanceTarget;
  readonly #clients: Record<'data' | 'fence', Client>;

  constructor(target: ConformanceTarget) {
    this.target = target;
    this.#clients = {
      data: new Client(target.data, credentials.createInsecure()),
      fence: new Client(target.fence, credentials.createInsecure()),
    };
  }

  /** A method of AgentService, at the agent of that role. */
  agent<Name extends keyof AgentServiceDefinition>(
    role: 'data' | 'fence',
    name: Name,
    request: RequestOf<AgentServiceDefinition[Name]>,
  ): Promise<ResponseOf<AgentServiceDefinition[Name]>> {
    return this.#call(role, agentService[name] as never, request);
  }

  /** A step of the role "data". @throws Refusal */
  data<Name extends keyof DataServiceDefinition>(
    name: Name,
    request: RequestOf<DataServiceDefinition[Name]>,
    step: object | null = this.step(String(name)),
  ): Promise<ResponseOf<DataServiceDefinition[Name]>> {
    return this.#call('data', dataService[name] as never, { step, ...request });
  }

  /** A step of the role "fence". @throws Refusal */
  fence<Name extends keyof FenceServiceDefinition>(
    name: Name,
    request: RequestOf<FenceServiceDefinition[Name]>,
    step: object | null = this.step(String(name)),
  ): Promise<ResponseOf<FenceServiceDefinition[Name]>> {
    return this.#call('fence', fenceService[name] as never, { step, ...request });
  }

  /** Who asks, for a step of that name. */
  step(name: string, change: { controller?: string; settings?: Readonly<Record<string, string>> } = {}): object {
    return {
      controller: change.controller ?? this.controller,
      operationId: 'op-00000000000000000',
      name,
      pool: { poolId: 'conformance', settings: change.settings ?? this.target.settings },
    };
  }

  /** Says Hello to both. */
  async hello(): Promise<void> {
    for (const role of ['data', 'fence'] as const) {
      await this.agent(role, 'Hello', { controller: this.controller, protocolVersion: 1 });
    }
  }

  close(): void {
    for (const client of Object.values(this.#clients)) client.close();
  }

  #call<Request, RequestOut, Response, ResponseOut>(
    role: 'data' | 'fence',
    method: MethodDefinition<Request, Response, RequestOut, ResponseOut>,
    request: object,
  ): Promise<ResponseOut> {
    return new Promise((resolve, reject) => {
      this.#clients[role].makeUnaryRequest(
        method.path,
        method.requestSerialize,
        method.responseDeserialize,
        request as Request,
        new Metadata(),
        { deadline: Date.now() + 60_000 },
        (error: ServiceError | null, response?: ResponseOut) => {
          if (error !== null) reject(new Refusal(error));
          else resolve(response as ResponseOut);
        },
      );
    });
  }
}

/** How a call that must fail failed. */
export async function refusal(call: Promise<unknown>): Promise<Refusal> {
  try {
    await call;
  } catch (error) {
    if (error instanceof Refusal) return error;
    throw error;
  }
  throw new Error('it was answered with OK and should have been refused');
}

/** A name that was never used: "vol-" and 17 digits. */
export function freshName(prefix = 'vol'): string {
  return `${prefix}-${randomBytes(9).toString('hex').slice(0, 17)}`;
}
