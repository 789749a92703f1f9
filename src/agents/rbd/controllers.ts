import { status } from '@grpc/grpc-js';
import { StepError } from './step-error.js';

/** The controllers that introduced themselves, and those that are fenced; by their id of this start. */
export class Controllers {
  readonly #known = new Set<string>();
  readonly #fenced = new Set<string>();

  /** Notes a controller. @throws StepError PERMISSION_DENIED when it is fenced */
  hello(controller: string): void {
    this.#refuseFenced(controller);
    this.#known.add(controller);
  }

  /** Refuses that controller's steps from now on; also one that never said Hello. */
  fence(controller: string): void {
    this.#fenced.add(controller);
  }

  /** @throws StepError PERMISSION_DENIED with the reason FENCED or NO_HELLO */
  check(controller: string): void {
    this.#refuseFenced(controller);
    if (!this.#known.has(controller)) {
      throw new StepError(status.PERMISSION_DENIED, 'NO_HELLO', `controller "${controller}" has not said Hello`);
    }
  }

  #refuseFenced(controller: string): void {
    if (this.#fenced.has(controller)) {
      throw new StepError(status.PERMISSION_DENIED, 'FENCED', `controller "${controller}" is fenced`);
    }
  }
}
