/** `none`: whoever shows no certificate, where that is let through. */
export type Role = 'admin' | 'node' | 'reader' | 'none';

/** Who calls, and until when the answer is wanted. */
export interface Caller {
  /** Name in the certificate, or "local" on a plain-text socket. */
  readonly name: string;
  readonly role: Role;
  /** SHA-256 of the public key of the certificate (SubjectPublicKeyInfo), hexadecimal; unset without a certificate. */
  readonly certificateKeyId?: string;
  /** Monotonic milliseconds (Clock.monotonic) by which an answer must be given. */
  readonly deadline: number;
  /** Ends the waiting, never the operation. */
  readonly signal?: AbortSignal;
  readonly requestId: string;
}

/** What every mutation takes. */
export interface Mutation {
  readonly clientToken: string;
  readonly validateOnly: boolean;
}

/** What every mutation of a resource answers. */
export interface Changed<T> {
  readonly resource: T;
  /** Empty when no operation was needed. */
  readonly operationId: string;
}

/** A resource and its etag. */
export interface Versioned<T> {
  readonly value: T;
  readonly etag: string;
}

export interface Page<T> {
  readonly items: readonly Versioned<T>[];
  readonly nextPageToken: string;
}

export interface PageRequest {
  readonly pageSize: number;
  readonly pageToken: string;
}

/** Delete and undelete, and the base of the others. `etag` empty: not asked for. */
export interface ResourceMutation extends Mutation {
  readonly id: string;
  readonly etag: string;
}

/** An update. What `updateMask` does not name stays as it is, whatever the other fields say. */
export interface ResourceUpdate extends ResourceMutation {
  /** The paths of the field mask, as the API spells fields; "tags.KEY" is one tag. */
  readonly updateMask: readonly string[];
  readonly tags: Readonly<Record<string, string>>;
}

/** Of a volume or a snapshot. */
export interface UpdateLabels extends ResourceUpdate {
  readonly displayName: string;
}
