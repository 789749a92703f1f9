/**
 * Stops a part of this process as SIGSTOP stops a whole one: calls through it neither begin nor return while it is frozen,
 * but what was under way behind it goes on.
 */
export class Freezer {
  #thawed: Promise<void> = Promise.resolve();
  #thaw: () => void = () => undefined;

  freeze(): void {
    this.#thawed = new Promise((resolve) => {
      this.#thaw = resolve;
    });
  }

  thaw(): void {
    this.#thaw();
  }

  /** The same object, behind the ice; calls that answer at once are let through. */
  wrap<T extends object>(target: T): T {
    return new Proxy(target, {
      get: (object, name) => {
        const value: unknown = Reflect.get(object, name);
        if (typeof value !== 'function') return value;
        return (...given: unknown[]): unknown => this.#call(() => Reflect.apply(value, object, given));
      },
    });
  }

  #call(call: () => unknown): unknown {
    const thawed = this.#thawed;
    const run = async (): Promise<unknown> => {
      await thawed;
      try {
        return await call();
      } finally {
        await this.#thawed;
      }
    };
    return run();
  }
}
