/*
 * What the guest's writer leaves on a disk (test/guest/disk-agent.c, "struct record"), judged outside of the guest, so that
 * many volumes can be read without a guest for each. Little endian; words of 8 bytes:
 * magic, number (from 1), slot, time, 507 words of filler that count up from a hash of the number, checksum.
 */

const RECORD_BYTES = 4096;
const MAGIC = 'MOORREC1';
const FILLER_BEGIN = 32;
const FILLER_END = 4088;

/** The hash of a number that its record's filler begins with: the finalizer of splitmix64. */
function mixed(value: bigint): bigint {
  const word = (each: bigint): bigint => BigInt.asUintN(64, each);
  let hash = word(value + 0x9e3779b97f4a7c15n);
  hash = word((hash ^ (hash >> 30n)) * 0xbf58476d1ce4e5b9n);
  hash = word((hash ^ (hash >> 27n)) * 0x94d049bb133111ebn);
  return hash ^ (hash >> 31n);
}

/** @returns the record's number; 0 when nothing was ever written there @throws Error when it is no whole record of this slot */
function numberOf(record: Buffer, slot: number): number {
  if (record.every((byte) => byte === 0)) return 0;
  const number = record.readBigUInt64LE(8);
  const key = mixed(number);
  let whole = record.toString('latin1', 0, 8) === MAGIC && record.readBigUInt64LE(16) === BigInt(slot) && number > 0n;
  for (let offset = FILLER_BEGIN; whole && offset < FILLER_END; offset += 8) {
    const expected = BigInt.asUintN(64, key + BigInt((offset - FILLER_BEGIN) / 8));
    whole = record.readBigUInt64LE(offset) === expected;
  }
  if (!whole) throw new Error(`slot ${slot} holds no record: ${record.toString('hex', 0, 48)}…`);
  return Number(number);
}

/**
 * Judges a writer's area: number n is in slot (n - 1) % slots, and is written after n - 1 was on the disk. So at every point
 * in time there is one last record, and every slot holds the newest one up to it.
 *
 * @param area all of it
 * @returns the last record's number; 0 when there is none
 * @throws Error that says which slot is wrong
 */
export function lastGuestRecord(area: Buffer): number {
  const slots = area.length / RECORD_BYTES;
  const numbers = Array.from({ length: slots }, (_, slot) =>
    numberOf(area.subarray(slot * RECORD_BYTES, (slot + 1) * RECORD_BYTES), slot),
  );
  const last = Math.max(...numbers);
  for (const [slot, found] of numbers.entries()) {
    const expected = last > slot ? slot + 1 + Math.floor((last - 1 - slot) / slots) * slots : 0;
    if (found !== expected)
      throw new Error(`the last record is ${last}, and slot ${slot} holds ${found} instead of ${expected}`);
  }
  return last;
}
