import { readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { repositoryDirectory } from './cluster.js';
import { type Settings, type System, startSystem } from './system.js';
import { waitFor } from './wait.js';

/**
 * The calls of librbd in which an agent can be killed, and the usual duration of each before any was seen, in milliseconds.
 * "clone" makes a volume, "snapshot-clone" the image of a snapshot; "snapshot" and "remove_snap" make and remove a point in
 * time of a volume, "flush" comes before it, "snapshot-base" is the point of a snapshot's image that volumes are cloned from;
 * "flatten" copies what a snapshot's image has of its ancestors.
 */
const USUAL_MILLISECONDS = {
  create: 6,
  clone: 20,
  flush: 50,
  snapshot: 700,
  'snapshot-clone': 20,
  'snapshot-base': 700,
  remove_snap: 2,
  flatten: 3_000,
} as const;

/** One of the calls that agent-trap.mjs knows. */
export type TrappedCall = keyof typeof USUAL_MILLISECONDS;

/** How many kills are to fall inside which calls. */
export type WantedKills = Readonly<Partial<Record<TrappedCall, number>>>;

interface CallEvent {
  readonly kind: string;
  readonly call: string;
  readonly milliseconds: number;
}

/**
 * Systems whose data agents are ended with SIGKILL inside calls of librbd, at random moments of their usual duration. The
 * trap sits in the agent's own process (agent-trap.mjs): it knows that the call has begun and not yet ended, so every kill
 * that is counted fell inside.
 */
export class AgentTraps {
  readonly systems: System[] = [];

  /** Starts a system whose agent has the trap; `systems` holds it from then on. */
  async start(name: string, settings: Settings = {}): Promise<System> {
    const trap = join(repositoryDirectory, 'test/helpers/agent-trap.mjs');
    const system = await startSystem({ name, settings, nodeArguments: ['--import', trap] });
    this.systems.push(system);
    return system;
  }

  /** Sets a trap for the next of each of these calls; none for any other call. */
  async set(system: System, calls: readonly TrappedCall[]): Promise<void> {
    const events = await this.#events();
    const traps = Object.fromEntries(
      calls.map((call) => {
        const durations = events
          .filter((event) => event.call === call && event.kind !== 'killed')
          .map((event) => event.milliseconds)
          .sort((a, b) => a - b);
        const usual = durations[Math.floor(durations.length / 2)] ?? USUAL_MILLISECONDS[call];
        return [call, Math.random() * usual];
      }),
    );
    const file = join(system.directory, 'trap.json');
    await writeFile(`${file}.test`, JSON.stringify(traps));
    await rename(`${file}.test`, file);
  }

  /** Kills that fell inside a call, in all systems, and traps that closed after it had ended. */
  async count(call: TrappedCall): Promise<{ readonly kills: number; readonly missed: number }> {
    const events = (await this.#events()).filter((event) => event.call === call);
    const count = (kind: string): number => events.filter((event) => event.kind === kind).length;
    return { kills: count('killed'), missed: count('missed') };
  }

  /** Those of the calls that fewer kills have fallen inside than are wanted. */
  async below(wanted: WantedKills): Promise<TrappedCall[]> {
    const calls = Object.keys(wanted) as TrappedCall[];
    const counts = await Promise.all(calls.map((call) => this.count(call)));
    return calls.filter((call, index) => (counts[index]?.kills ?? 0) < (wanted[call] ?? 0));
  }

  async #events(): Promise<CallEvent[]> {
    const texts = await Promise.all(
      this.systems.map((system) => readFile(join(system.directory, 'calls.log'), 'utf8').catch(() => '')),
    );
    return texts.flatMap((text) =>
      text
        .split('\n')
        .filter(Boolean)
        .map((line) => {
          const [kind = '', call = '', milliseconds] = line.split(' ');
          return { kind, call, milliseconds: Number(milliseconds) };
        }),
    );
  }
}

/** Waits until the agent has lived so long that its next death does not count as one of a row, after which restarts pause. */
export async function agentIsSteady(system: System): Promise<void> {
  await waitFor('the agent has been ready for a second', () => {
    const ready = system
      .log()
      .split('\n')
      .filter((line) => line.includes('"agent_role":"data"') && line.includes('"ready"'));
    const { time } = JSON.parse(ready.at(-1) ?? '{}') as { time: string };
    return Date.now() - Date.parse(time) > 1000;
  });
}
