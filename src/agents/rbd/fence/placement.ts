/*
 * Which placement group an object belongs to, computed as Ceph's clients do: Bob Jenkins' hash of the name
 * (src/common/ceph_hash.cc), folded to the number of groups (ceph_stable_mod).
 */

/** Robert Jenkins' 32-bit hash, as Ceph uses it for object names. */
export function objectHash(name: string): number {
  const bytes = Buffer.from(name, 'utf8');
  const state: [number, number, number] = [0x9e3779b9, 0x9e3779b9, 0];
  const word = (at: number, count = 4): number => {
    let value = 0;
    for (let index = 0; index < count; index += 1) value |= (bytes[at + index] ?? 0) << (8 * index);
    return value;
  };
  let at = 0;
  for (; bytes.length - at >= 12; at += 12) {
    state[0] = (state[0] + word(at)) | 0;
    state[1] = (state[1] + word(at + 4)) | 0;
    state[2] = (state[2] + word(at + 8)) | 0;
    mix(state);
  }
  state[0] = (state[0] + word(at)) | 0;
  state[1] = (state[1] + word(at + 4)) | 0;
  // The lowest byte of the third word is for the length.
  state[2] = (state[2] + bytes.length + (word(at + 8, 3) << 8)) | 0;
  mix(state);
  return state[2] >>> 0;
}

const SHIFTS = [
  [13, 8, 13],
  [12, 16, 5],
  [3, 10, 15],
] as const;

function mix(state: [number, number, number]): void {
  let [a, b, c] = state;
  for (const [first, second, third] of SHIFTS) {
    a = ((a - b - c) | 0) ^ (c >>> first);
    b = ((b - c - a) | 0) ^ (a << second);
    c = ((c - a - b) | 0) ^ (b >>> third);
  }
  state[0] = a;
  state[1] = b;
  state[2] = c;
}

/** The group of a hash among so many. */
export function placementGroup(hash: number, groups: number): number {
  const bits = 32 - Math.clz32(groups - 1);
  const mask = bits === 0 ? 0 : 2 ** bits - 1;
  const folded = (hash & mask) >>> 0;
  return folded < groups ? folded : (hash & (mask >>> 1)) >>> 0;
}

/** One name for each placement group, all with the prefix. */
export function nameInEachGroup(prefix: string, groups: number): string[] {
  const names = new Map<number, string>();
  for (let number = 0; names.size < groups; number += 1) {
    const name = `${prefix}${number}`;
    const group = placementGroup(objectHash(name), groups);
    if (!names.has(group)) names.set(group, name);
  }
  return [...names.values()];
}
