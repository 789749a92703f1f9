import type { Operation, OperationState } from '../../model/operation.js';
import type { Caller, PageRequest } from './call.js';

export interface ListOperations extends PageRequest {
  readonly resourceId: string;
  readonly states: readonly OperationState[];
}

export interface OperationService {
  get(id: string, caller: Caller): Promise<Operation>;
  list(request: ListOperations, caller: Caller): Promise<{ items: readonly Operation[]; nextPageToken: string }>;
  wait(id: string, timeoutMilliseconds: number | undefined, caller: Caller): Promise<Operation>;
  /** Asks it to leave out what it can do without, and waits for its end. */
  cancel(id: string, caller: Caller): Promise<Operation>;
}
