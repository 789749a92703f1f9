import type { handleUnaryCall, ServerUnaryCall, sendUnaryData, UntypedServiceImplementation } from '@grpc/grpc-js';
import type { Logger } from 'pino';
import type { Step__Output } from '../../generated/moorage/backend/v1/Step.js';
import type { Controllers } from './controllers.js';
import { betweenPoints, stepPoints } from './crash-points.js';
import type { LaneKind, Lanes } from './lanes.js';
import { CephError } from './librbd/errors.js';
import type { Paces } from './pace.js';
import { invalidField, toGrpcStatus, toStepError } from './step-error.js';

/** What a step knows of the call that it serves. */
export interface StepScope {
  /** Name of the Ceph pool. */
  readonly poolName: string;
  /** Milliseconds until the call's deadline; bounds retries. Never more than `longestStepMilliseconds` of the agent. */
  remainingMilliseconds(): number;
  /** Runs a piece of a step that nobody waits for; it gives way to what somebody waits for. */
  background<Result>(piece: () => Promise<Result>): Promise<Result>;
}

/** One method of a service. */
export interface Step<Request, Response> {
  readonly lane: LaneKind;
  /** What it works on; steps on the same do not overlap. */
  readonly subject?: (request: Request) => string | undefined;
  /** Whether nobody waits for it: then others do not give way to it. */
  readonly unhurried?: boolean;
  readonly run: (request: Request, scope: StepScope) => Promise<Response>;
}

/** A step for each method of a service, from the generated type of its handlers. */
export type StepTable<Handlers> = {
  readonly [Method in keyof Handlers as string extends Method
    ? never
    : Method]: Handlers[Method] extends handleUnaryCall<infer Request, infer Response>
    ? Step<Request, Response>
    : never;
};

/** What every step goes through. */
export interface StepServerOptions {
  readonly controllers: Controllers;
  readonly lanes: Lanes;
  readonly paces: Paces;
  readonly logger: Logger;
  /** Bounds retries of a call without a deadline. */
  readonly longestStepMilliseconds: number;
  /** Told of every failure, as it was before it became a status. */
  readonly onFailure?: (error: unknown) => void;
}

/** Makes a service of a table of steps: who asks is checked, the lane bounds it, errors get their status. */
export function serveSteps<Handlers>(
  table: StepTable<Handlers>,
  options: StepServerOptions,
): UntypedServiceImplementation {
  const methods = Object.entries(table as Readonly<Record<string, Step<StepRequest, object>>>);
  return Object.fromEntries(methods.map(([method, step]) => [method, serve(method, step, options)]));
}

interface StepRequest {
  readonly step: Step__Output | null;
}

function serve(
  method: string,
  step: Step<StepRequest, object>,
  options: StepServerOptions,
): handleUnaryCall<StepRequest, object> {
  return (call, answer) => {
    void handle(method, step, options, call, answer);
  };
}

async function handle(
  method: string,
  step: Step<StepRequest, object>,
  options: StepServerOptions,
  call: ServerUnaryCall<StepRequest, object>,
  answer: sendUnaryData<object>,
): Promise<void> {
  const begun = performance.now();
  const { request } = call;
  try {
    if (!request.step) throw invalidField('step', 'must say who asks, and for which pool');
    options.controllers.check(request.step.controller);
    const poolName = poolNameOf(request.step);
    const deadline = Math.min(deadlineOf(call), begun + options.longestStepMilliseconds);
    const expired = (): boolean => call.cancelled || performance.now() >= deadline;
    const pace = options.paces.of(poolName);
    const scope: StepScope = {
      poolName,
      remainingMilliseconds: () => deadline - performance.now(),
      background: (piece) => pace.background(piece),
    };
    const { operationId, name } = request.step;
    const take = () => betweenPoints(stepPoints, { method, operationId, name }, () => step.run(request, scope));
    const run = step.lane === 'steps' && step.unhurried !== true ? () => pace.foreground(take) : take;
    const response = await options.lanes.of(poolName, step.lane).run(step.subject?.(request), expired, run);
    answer(null, response);
  } catch (error) {
    const failure = toStepError(error);
    options.logger.warn(
      {
        method,
        step: request.step?.name,
        operation: request.step?.operationId,
        pool: request.step?.pool?.poolId,
        code: failure.code,
        reason: failure.reason,
        milliseconds: Math.round(performance.now() - begun),
      },
      failure.message,
    );
    answer(toGrpcStatus(failure));
    options.onFailure?.(error);
  }
}

/** The call's deadline on the clock of performance.now(). */
function deadlineOf(call: ServerUnaryCall<StepRequest, object>): number {
  const deadline = call.getDeadline();
  const at = deadline instanceof Date ? deadline.getTime() : deadline;
  return performance.now() + (at - Date.now());
}

function poolNameOf(step: Step__Output): string {
  const name = step.pool?.settings.ceph_pool ?? '';
  if (!/^[A-Za-z0-9_.][A-Za-z0-9_.-]{0,127}$/.test(name)) {
    throw invalidField('step.pool.settings["ceph_pool"]', 'must be the name of a Ceph pool');
  }
  return name;
}

/**
 * Whether the agent's shared connection was cut off at the cluster. Steps on a connection of their own must not let its
 * ESHUTDOWN through as it is: a node may blocklist that one, and harms nothing else by it.
 */
export function saysCutOff(error: unknown): boolean {
  return error instanceof CephError && error.errnoName === 'ESHUTDOWN';
}
