/**
 * Lets a second call for the same thing join the first. A purge may outlast its caller's deadline; asked for again, it must
 * not begin anew, or it would never be done.
 */
export class SingleFlight {
  readonly #running = new Map<string, Promise<void>>();

  /** Runs work, or joins the same that runs already. */
  run(key: string, work: () => Promise<void>): Promise<void> {
    const running = this.#running.get(key);
    if (running) return running;
    const begun = work().finally(() => this.#running.delete(key));
    this.#running.set(key, begun);
    return begun;
  }
}
