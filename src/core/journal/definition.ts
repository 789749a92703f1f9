import type { MoorageError } from '../errors.js';
import type { ImageRecord } from '../model/image.js';
import type { Lock, Operation, OperationKind } from '../model/operation.js';
import type { BackendError, StepContext } from '../ports/backend.js';
import type { Write } from '../ports/store.js';

/** Builds the writes of a commit from what the store holds now; called again when the commit met a conflict. */
export type BuildWrites = () => Promise<readonly Write[]>;

/** What a phase leads to. */
export type Next<Plan> =
  /** Go on with another phase; the plan is committed with it, before any step of that phase. */
  | {
      readonly kind: 'phase';
      readonly phase: string;
      readonly plan: Plan;
      readonly writes?: BuildWrites;
      /** How far the phase is, from 0 to 100; 0 unless said. */
      readonly progressPercent?: number;
      /** The locks that it goes on with: some of those that it has. The others are released. All unless said. */
      readonly locks?: readonly Lock[];
    }
  /** Another part of the controller has committed this operation's next phase: read it and go on. */
  | { readonly kind: 'reload' }
  | { readonly kind: 'succeeded'; readonly writes: BuildWrites }
  | { readonly kind: 'failed'; readonly failure: MoorageError; readonly writes: BuildWrites };

/** What a phase has at hand. */
export interface PhaseContext<Plan> {
  readonly operation: Operation<Plan>;
  readonly plan: Plan;
  /**
   * Takes one step of an agent, when the rules of the journal allow it.
   * @throws BackendError
   */
  step<T>(name: string, take: (context: StepContext) => Promise<T>): Promise<T>;
  /** Aborts when this controller is lost or stops. */
  readonly signal: AbortSignal;
}

/**
 * How one kind of operation is carried out. A phase uses only values of its plan, may be done again from its start at any
 * time, and says what comes next. It is tried again for as long as a step's outcome is unknown.
 */
export interface OperationDefinition<Plan> {
  readonly kind: OperationKind;
  readonly phases: Readonly<Record<string, (context: PhaseContext<Plan>) => Promise<Next<Plan>>>>;
  /** What a step that was refused for good leads to: the way back. */
  onRefused(context: PhaseContext<Plan>, error: BackendError): Promise<Next<Plan>>;
  /** Whether something that it is about to do, or does, can be left out (Operation.cancelRequested). Nothing unless said. */
  cancellable?(operation: Operation<Plan>): boolean;
  /** Images whose lock an agent may hold while it works on this operation; its successor's fence breaks what it left there. */
  images(plan: Plan, operation: Operation<Plan>): Promise<readonly ImageRecord[]>;
}

/** An operation to begin, with the writes that go into the same commit. */
export interface NewOperation {
  readonly kind: OperationKind;
  readonly operationId: string;
  readonly resourceId: string;
  readonly poolId: string;
  readonly firstPhase: string;
  readonly plan: unknown;
  readonly locks: readonly Lock[];
  readonly writes: readonly Write[];
}

/** What a call comes to, worked out from what the store holds now. */
export type Intent =
  | ({ readonly intent: 'operation' } & NewOperation)
  /**
   * One commit does it all. `operationId`: of an operation under way that the call joins. `tokenExpireTime`: when the call's
   * token goes, because its resource ends with it (milliseconds since the epoch).
   */
  | {
      readonly intent: 'immediate';
      readonly resourceId: string;
      readonly writes: readonly Write[];
      readonly operationId?: string;
      readonly tokenExpireTime?: number;
    }
  /** It is so already; or an operation that does it is under way (`operationId`). */
  | { readonly intent: 'nothing'; readonly resourceId: string; readonly operationId: string };
