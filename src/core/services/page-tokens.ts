import { createHash } from 'node:crypto';
import { invalidField } from '../errors.js';
import { pageSize } from '../model/validation.js';
import type { Vault } from '../ports/sealer.js';
import type { Store, StoredDocument } from '../ports/store.js';
import { versioned } from './context.js';
import type { Caller, Page, PageRequest } from './types.js';

/** How many documents a page looks at before it is given out short, so that a filter that fits few never holds a call up. */
const SCAN_LIMIT = 5_000;

/** A list call: an index, and what of it fits. */
export interface Listing<T> {
  /** Names the method and everything that the token is bound to beside the caller. */
  readonly filter: unknown;
  readonly index: string;
  readonly fits: (value: T) => boolean;
}

/**
 * One page of an index. Its token is authenticated and bound to the caller and the filter.
 * @throws MoorageError INVALID_ARGUMENT for a page_size or page_token that is not right
 */
export async function listPage<T>(
  store: Store,
  vault: Vault,
  request: PageRequest,
  caller: Caller,
  listing: Listing<T>,
): Promise<Page<T>> {
  const limit = pageSize(request.pageSize);
  const binding = createHash('sha256')
    .update(JSON.stringify([caller.name, caller.role, listing.filter]))
    .digest('base64url');
  let after = request.pageToken === '' ? undefined : openToken(vault, request.pageToken, binding);
  const found: StoredDocument<T>[] = [];
  for (let seen = 0; found.length < limit && seen < SCAN_LIMIT; ) {
    const page = await store.list<T>(listing.index, {
      limit: limit - found.length,
      ...(after === undefined ? {} : { after }),
    });
    found.push(...page.documents.filter((document) => listing.fits(document.value)));
    seen += page.documents.length;
    after = page.cursor;
    if (after === undefined) break;
  }
  return {
    items: found.map(versioned),
    nextPageToken: after === undefined ? '' : sealToken(vault, after, binding),
  };
}

/** Where to go on, authenticated and bound to who asked for what. */
export function sealToken(vault: Vault, cursor: string, binding: string): string {
  const text = JSON.stringify([binding, cursor]);
  return Buffer.from(vault.authenticate(new TextEncoder().encode(text), 'page-token')).toString('base64url');
}

/** Reads it. @throws MoorageError INVALID_ARGUMENT when it is not of this call */
export function openToken(vault: Vault, token: string, binding: string): string {
  const plain = vault.verify(Buffer.from(token, 'base64url'), 'page-token');
  const parsed: unknown = plain === undefined ? undefined : JSON.parse(new TextDecoder().decode(plain));
  if (!Array.isArray(parsed) || parsed[0] !== binding || typeof parsed[1] !== 'string') {
    throw invalidField(
      'page_token',
      'is not the next_page_token of this same list call by this same caller; begin again without it',
    );
  }
  return parsed[1];
}
