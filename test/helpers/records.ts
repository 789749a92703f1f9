import { createHash } from 'node:crypto';

/*
 * A volume as a log of numbered records, so that what a snapshot holds can be judged: record n lies in slot n % slots, and
 * is written after record n - 1 was acknowledged. So at every point in time there is one last record, and every slot holds
 * the newest record up to it.
 */

/** Bytes of a record. */
export const RECORD_BYTES = 4096;
/** Slots of a volume; one in each of its objects in turn. */
export const SLOTS = 64;
/** Objects that the slots are spread over, each 4 MiB. */
const OBJECTS = 4;

/** Where a record lies, in bytes. */
export function offsetOf(sequence: number): bigint {
  const slot = sequence % SLOTS;
  return BigInt((slot % OBJECTS) * 4 * 2 ** 20 + Math.floor(slot / OBJECTS) * RECORD_BYTES);
}

/** The bytes of record `sequence` (from 1) of a volume that is told from others by its seed. */
export function recordOf(seed: string, sequence: number): Buffer {
  const record = Buffer.alloc(RECORD_BYTES, createHash('sha256').update(`${seed}/${sequence}`).digest());
  record.writeBigUInt64LE(BigInt(sequence), 0);
  return record;
}

/**
 * Judges what a volume holds.
 * @returns the last record
 * @throws Error that says which slot is wrong
 */
export async function lastRecord(
  seed: string,
  read: (offset: bigint, length: number) => Promise<Buffer>,
): Promise<number> {
  const records: Buffer[] = [];
  for (let slot = 0; slot < SLOTS; slot += 1) records.push(await read(offsetOf(slot), RECORD_BYTES));
  const sequences = records.map((record) => Number(record.readBigUInt64LE(0)));
  const last = Math.max(...sequences);
  for (let slot = 0; slot < SLOTS; slot += 1) {
    const newest = last - ((((last - slot) % SLOTS) + SLOTS) % SLOTS);
    const wanted = newest >= 1 ? recordOf(seed, newest) : Buffer.alloc(RECORD_BYTES);
    if (!records[slot]?.equals(wanted)) {
      throw new Error(`the last record is ${last}, and slot ${slot} holds ${sequences[slot]} instead of ${newest}`);
    }
  }
  return last;
}
