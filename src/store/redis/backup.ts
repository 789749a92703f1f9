import { randomUUID } from 'node:crypto';
import { StoreError, sortableRevision } from '../../core/ports/store.js';
import { type CopiedDocument, writeCopyOf } from '../sqlite/copy.js';
import type { PreparedWrite } from '../writes.js';
import { keyPattern, parseStored } from './encoding.js';
import { translateRedisError } from './errors.js';
import { copyBeginScript, copyEndScript, copyHoldScript } from './scripts.js';
import type { Session } from './session.js';

/** A copy whose maker says nothing for so long is given up, milliseconds. */
const GIVEN_UP_MILLISECONDS = 30_000;
/** About how many documents are read in one go. */
const BATCH = 500;

/**
 * Copies the store into a file of the embedded kind, as it was at one revision, while it is used: from that revision on
 * commits keep what they replace or remove (scripts.ts, "before"), so that a walk through all keys and what was kept make up
 * the whole. Nothing is blocked for longer than a batch takes.
 * @throws {StoreError} `unavailable` also when the primary changed meanwhile, or another copy is being made
 */
export function writeRedisBackup(
  session: Session,
  prefix: string,
  path: string,
  writes: readonly PreparedWrite[],
): Promise<{ readonly sizeBytes: number }> {
  const translated = (error: unknown): never => {
    throw translateRedisError(error, session.address);
  };
  return writeCopyOf(path, (take) => read(session, prefix, take).catch(translated), writes);
}

async function read(
  session: Session,
  prefix: string,
  take: (documents: readonly CopiedDocument[]) => void,
): Promise<number> {
  const id = randomUUID();
  const lifetime = String(GIVEN_UP_MILLISECONDS);
  await session.reload();
  const parameters = [prefix, id, lifetime];
  const [begun, commits = '0'] = await session.run<readonly string[]>(session.reads, copyBeginScript, parameters);
  if (begun !== 'ok') {
    throw new StoreError('unavailable', 'another copy of the store is being made: try again when it is done');
  }
  const last = Number(commits);
  try {
    for await (const texts of walk(session, prefix)) {
      take(texts.flatMap(([key, text]) => documentOf(key, text, last)));
      await hold(session, prefix, id, lifetime);
    }
  } catch (error) {
    await session.run(session.reads, copyEndScript, [prefix, id]).catch(() => undefined);
    throw error;
  }
  const [ended] = await session.run<readonly string[]>(session.reads, copyEndScript, [prefix, id]);
  if (ended !== 'ok') throw givenUp();
  return last;
}

/** Every document that there is, some at a time, then what commits have kept since. One may come more than once. */
async function* walk(session: Session, prefix: string): AsyncGenerator<readonly (readonly [string, string])[]> {
  const { reads, callTimeout } = session;
  const documents = `${prefix}d:`;
  let cursor = '0';
  do {
    const [next, names] = await reads.call<[string, string[]]>(
      ['SCAN', cursor, 'MATCH', keyPattern(documents), 'COUNT', String(BATCH)],
      callTimeout,
    );
    cursor = next;
    if (names.length === 0) {
      yield [];
      continue;
    }
    const texts = await reads.call<readonly (string | null)[]>(['MGET', ...names], callTimeout);
    yield names.flatMap((name, position) => {
      const text = texts[position];
      return text === null || text === undefined ? [] : [[name.slice(documents.length), text] as const];
    });
  } while (cursor !== '0');
  do {
    const [next, flat] = await reads.call<[string, string[]]>(
      ['HSCAN', `${prefix}before`, cursor, 'COUNT', String(BATCH)],
      callTimeout,
    );
    cursor = next;
    yield Array.from({ length: flat.length / 2 }, (_, n) => [flat[2 * n] ?? '', flat[2 * n + 1] ?? ''] as const);
  } while (cursor !== '0');
}

/** Nothing for one that was written since. @throws {StoreError} `corrupt` */
function documentOf(key: string, text: string, last: number): readonly CopiedDocument[] {
  const { rev, entries, value } = parseStored(key, text);
  if (rev > last) return [];
  return [{ key, rev, value, entries: entries.map(([index, sort]) => [index, sort ?? sortableRevision(rev)]) }];
}

async function hold(session: Session, prefix: string, id: string, lifetime: string): Promise<void> {
  const [answer] = await session.run<readonly string[]>(session.reads, copyHoldScript, [prefix, id, lifetime]);
  if (answer !== 'ok') throw givenUp();
}

function givenUp(): StoreError {
  return new StoreError('unavailable', 'the copy of the store took too long between two steps, and was given up');
}
