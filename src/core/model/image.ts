/** A point of an image on a backend: something that can be cloned. */
export interface Point {
  readonly name: string;
  /** The backend's own id of it (for RBD the snapshot id, decimal). */
  readonly backendId: string;
}

/** What an image was cloned from. */
export interface ImageParent {
  readonly name: string;
  readonly backendId: string;
  readonly point: Point;
  /** The volume or snapshot whose image it is. */
  readonly resourceId: string;
}

/**
 * Moorage's own record of an image on a backend. It, and never what the backend's header says, decides what an export may
 * reach and what a purge destroys.
 */
export interface ImageRecord {
  /** Its name on the backend now: the resource's id, with ".2", ".3" … when a step was done again. */
  readonly name: string;
  /** The backend's own id; empty while it is not known. */
  readonly backendId: string;
  readonly sizeBytes: number;
  readonly largestSizeBytes: number;
  /** Points it has, or may have had: all are destroyed with it. */
  readonly points: readonly Point[];
  readonly parent?: ImageParent;
  /** Every other name it ever had. */
  readonly formerNames: readonly string[];
}

/** The next name for a step that is done again: "vol-1" → "vol-1.2" → "vol-1.3". A name on a backend is never used twice. */
export function nextImageName(resourceId: string, name: string): string {
  const suffix = name === resourceId ? 1 : Number(name.slice(resourceId.length + 1));
  return `${resourceId}.${suffix + 1}`;
}
