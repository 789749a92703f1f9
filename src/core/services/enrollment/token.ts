import { createHash, timingSafeEqual } from 'node:crypto';
import type { Enrollment } from '../../model/resources.js';
import type { Vault } from '../../ports/sealer.js';

/*
 * An enrollment token names its enrollment and is authenticated with the master key, so that it can be given again to whoever
 * asks again with the same client token, and nothing that is kept in the store is one.
 */

const PREFIX = 'moorage-enrollment:';
const PURPOSE = 'enrollment';
/** Longest text that is looked at; a token has about 180. */
const LONGEST = 1024;

/** The token of an enrollment. A secret. */
export function enrollmentToken(vault: Vault, id: string, nodeId: string): string {
  const plain = new TextEncoder().encode(JSON.stringify([id, nodeId]));
  return PREFIX + Buffer.from(vault.authenticate(plain, PURPOSE)).toString('base64url');
}

/** What a token says; undefined when it is none of ours. */
export function readEnrollmentToken(
  vault: Vault,
  token: string,
): { readonly id: string; readonly nodeId: string } | undefined {
  if (!token.startsWith(PREFIX) || token.length > LONGEST) return undefined;
  const plain = vault.verify(Uint8Array.from(Buffer.from(token.slice(PREFIX.length), 'base64url')), PURPOSE);
  const parsed: unknown = plain === undefined ? undefined : JSON.parse(new TextDecoder().decode(plain));
  if (!Array.isArray(parsed) || typeof parsed[0] !== 'string' || typeof parsed[1] !== 'string') return undefined;
  return { id: parsed[0], nodeId: parsed[1] };
}

/** What is kept of a token. */
export function hashOfToken(token: string): string {
  return createHash('sha256').update(token).digest('hex');
}

/** Whether a token is that of the enrollment. */
export function isTokenOf(enrollment: Enrollment, token: string): boolean {
  return timingSafeEqual(Buffer.from(enrollment.tokenHash, 'hex'), Buffer.from(hashOfToken(token), 'hex'));
}
