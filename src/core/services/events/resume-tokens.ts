import { createHash } from 'node:crypto';
import { invalidField } from '../../errors.js';
import type { Vault } from '../../ports/sealer.js';
import type { Caller } from '../types.js';
import type { FeedPosition } from './feed.js';
import type { WatchFilter } from './filter.js';

/*
 * Resume tokens: a place in the feed, authenticated with the master key (so that any controller of the site reads them, and
 * nobody makes one) and bound to the caller and to the filter: what another one was told says nothing here.
 */

const PURPOSE = 'resume-token';

/** Where a watch is. */
export interface WatchPlace extends FeedPosition {
  /** Whether all that there was has been told; else it is told again. */
  readonly listed: boolean;
}

/** Makes and reads the tokens of one watch. */
export class ResumeTokens {
  private readonly vault: Vault;
  private readonly binding: string;

  constructor(vault: Vault, caller: Caller, filter: WatchFilter) {
    this.vault = vault;
    this.binding = createHash('sha256')
      .update(JSON.stringify([caller.name, caller.role, filter.types, filter.poolId]))
      .digest('base64url');
  }

  make({ epoch, revision, listed }: WatchPlace): string {
    const text = JSON.stringify([this.binding, epoch, revision, listed]);
    return Buffer.from(this.vault.authenticate(new TextEncoder().encode(text), PURPOSE)).toString('base64url');
  }

  /** @throws MoorageError INVALID_ARGUMENT when it is not a token of this caller and filter */
  read(token: string): WatchPlace {
    const plain = this.vault.verify(Buffer.from(token, 'base64url'), PURPOSE);
    const parsed: unknown = plain === undefined ? undefined : JSON.parse(new TextDecoder().decode(plain));
    if (Array.isArray(parsed) && parsed[0] === this.binding) {
      const [, epoch, revision, listed]: unknown[] = parsed;
      if (typeof epoch === 'string' && typeof revision === 'number' && typeof listed === 'boolean') {
        return { epoch, revision, listed };
      }
    }
    throw invalidField(
      'resume_token',
      'is not a resume token of this caller for this same filter; watch without it, or with the same filter',
    );
  }
}
