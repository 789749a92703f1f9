import type { Pool, PoolStatus } from '../core/model/resources.js';
import { BackendError, type ConnectorFacts, type StepContext } from '../core/ports/backend.js';
import type { Clock } from '../core/ports/clock.js';
import type { GetPoolResponse__Output } from '../generated/moorage/backend/v1/GetPoolResponse.js';
import { coreSize } from './mapping.js';

/** A pool counts as unavailable after so many failed readings in a row: one may have met an agent that was just restarted. */
const FAILURES_UNTIL_UNAVAILABLE = 2;

const UNKNOWN: PoolStatus = {
  health: 'unknown',
  statusMessage: 'Not read yet.',
  capacityBytes: 0,
  freeBytes: 0,
  capacityTime: 0,
};

interface Entry {
  pool: Pool;
  facts: ConnectorFacts | undefined;
  status: PoolStatus;
  failures: number;
  reading: Promise<void> | undefined;
}

/** What is known of each pool that was ever asked about, read again in the background so that nobody waits for it. */
export class PoolFacts {
  readonly #entries = new Map<string, Entry>();
  readonly #read: (pool: Pool, context: StepContext) => Promise<GetPoolResponse__Output>;
  readonly #timeoutMilliseconds: number;
  readonly #clock: Clock;

  constructor(options: {
    readonly read: (pool: Pool, context: StepContext) => Promise<GetPoolResponse__Output>;
    readonly timeoutMilliseconds: number;
    readonly clock: Clock;
  }) {
    this.#read = options.read;
    this.#timeoutMilliseconds = options.timeoutMilliseconds;
    this.#clock = options.clock;
  }

  /** From now on it is read in the background. */
  note(pool: Pool): void {
    this.#entry(pool);
  }

  /** As last read; reads when nothing ever was. @throws BackendError */
  async facts(pool: Pool): Promise<ConnectorFacts> {
    const entry = this.#entry(pool);
    if (entry.facts === undefined) {
      // A reading under way may have begun before the agent was there: if it fails, the error of our own counts.
      await entry.reading?.catch(() => {});
      if (entry.facts === undefined) await this.#refresh(entry);
    }
    return entry.facts as unknown as ConnectorFacts;
  }

  /** As last read. */
  status(pool: Pool): PoolStatus {
    return this.#entry(pool).status;
  }

  /** Reads now. @throws BackendError */
  async probe(pool: Pool, context: StepContext): Promise<PoolStatus> {
    const entry = this.#entry(pool);
    await this.#readInto(entry, context);
    return entry.status;
  }

  /** Reads every known pool of a cluster (all clusters when it is not said); failures show in the status. */
  async refreshAll(cluster?: string): Promise<void> {
    const entries = [...this.#entries.values()].filter(
      ({ pool }) => cluster === undefined || pool.settings.cluster === cluster,
    );
    await Promise.allSettled(entries.map((entry) => this.#refresh(entry)));
  }

  #entry(pool: Pool): Entry {
    const known = this.#entries.get(pool.id);
    // A pool of that name that was deleted and made again may lie somewhere else.
    if (known !== undefined && JSON.stringify(known.pool.settings) === JSON.stringify(pool.settings)) {
      known.pool = pool;
      return known;
    }
    const entry: Entry = { pool, facts: undefined, status: UNKNOWN, failures: 0, reading: undefined };
    this.#entries.set(pool.id, entry);
    return entry;
  }

  async #refresh(entry: Entry): Promise<void> {
    entry.reading ??= this.#readInto(entry, {
      operationId: '',
      name: 'read-pool',
      timeoutMilliseconds: this.#timeoutMilliseconds,
    }).finally(() => {
      entry.reading = undefined;
    });
    await entry.reading;
  }

  async #readInto(entry: Entry, context: StepContext): Promise<void> {
    try {
      const answer = await this.#read(entry.pool, context);
      entry.status = {
        health: 'ready',
        statusMessage: '',
        capacityBytes: coreSize('GetPool', answer.capacityBytes),
        freeBytes: coreSize('GetPool', answer.freeBytes),
        capacityTime: this.#clock.now(),
      };
      entry.facts = { connector: answer.connector, connectorJson: answer.connectorJson };
      entry.failures = 0;
    } catch (error) {
      entry.failures += 1;
      if (entry.failures >= FAILURES_UNTIL_UNAVAILABLE || entry.facts === undefined) {
        const why = error instanceof BackendError ? error.message : 'It could not be read.';
        entry.status = { ...entry.status, health: 'unavailable', statusMessage: why };
      }
      throw error;
    }
  }
}
