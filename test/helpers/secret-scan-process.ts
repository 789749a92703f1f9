import { readdirSync, readFileSync, statSync } from 'node:fs';
import { createInterface } from 'node:readline';

/*
 * The process of a SecretScan: reads the arguments and the environment of every process of the machine, many times a second,
 * and keeps every text that it has seen once, because most secrets are known only later. A line on its standard input is a
 * question, `{"needles": […]}`; the answer is one line: `{"samples", "processes", "texts", "found"}`. It ends when its
 * standard input does.
 */

/** Between two rounds. Most commands of a test live for more than 100 ms. */
const PAUSE_MILLISECONDS = 15;
/** A process that has just begun becomes another program (exec), so it is read again each round. */
const YOUNG_MILLISECONDS = 1500;
/** All others: so many rounds apart. */
const OLD_EVERY = 20;

/** What was seen → where it was seen first. */
const texts = new Map<string, string>();
const firstSeen = new Map<string, number>();
const processes = new Set<string>();
let samples = 0;

function sample(): void {
  samples += 1;
  const now = performance.now();
  const present = new Set<string>();
  for (const pid of readdirSync('/proc')) {
    if (!/^[0-9]+$/.test(pid) || pid === String(process.pid)) continue;
    try {
      // A process id may be used again: the folder's inode tells them apart.
      const key = `${pid} ${statSync(`/proc/${pid}`).ino}`;
      present.add(key);
      const since = firstSeen.get(key) ?? now;
      firstSeen.set(key, since);
      if (now - since > YOUNG_MILLISECONDS && (samples + Number(pid)) % OLD_EVERY !== 0) continue;
      for (const file of ['cmdline', 'environ']) {
        const text = readFileSync(`/proc/${pid}/${file}`, 'latin1');
        if (text === '') continue;
        processes.add(key);
        if (!texts.has(text)) texts.set(text, `${file} of ${pid} (${nameOf(pid)})`);
      }
    } catch {
      // It ended while it was looked at.
    }
  }
  for (const key of firstSeen.keys()) if (!present.has(key)) firstSeen.delete(key);
}

function nameOf(pid: string): string {
  return readFileSync(`/proc/${pid}/comm`, 'latin1').trim();
}

interface Needle {
  readonly name: string;
  /** As latin1 text. */
  readonly text: string;
}

const timer = setInterval(sample, PAUSE_MILLISECONDS);
const questions = createInterface({ input: process.stdin });
questions.on('line', (line) => {
  sample();
  const { needles } = JSON.parse(line) as { needles: Needle[] };
  const found: string[] = [];
  for (const [text, place] of texts) {
    for (const needle of needles) if (text.includes(needle.text)) found.push(`${needle.name} in ${place}`);
  }
  process.stdout.write(`${JSON.stringify({ samples, processes: processes.size, texts: texts.size, found })}\n`);
});
questions.on('close', () => clearInterval(timer));
process.stdout.write('{}\n');
