const IMAGE_NAME = /^((?:vol|snap)-[0-9a-f]{17})(?:\.[0-9]+)?$/;

/** The volume or snapshot that an image's name would be of; undefined for a name that Moorage does not give. */
export function ownerOf(name: string): string | undefined {
  return IMAGE_NAME.exec(name)?.[1];
}

/** Whether an id is a snapshot's. */
export function isSnapshotId(id: string): boolean {
  return id.startsWith('snap-');
}
