import {
  createNodeKeyFile,
  KeyError,
  keyIdOf,
  loadNodeKeyFile,
  type NodeKeys,
  trustController,
} from '../descriptor/index.js';

/** A node that has a key. */
export interface InitializedNode {
  readonly keys: NodeKeys;
  /** Whether this call made the key; false when there was one, which was kept. */
  readonly made: boolean;
}

/** Makes a node's key file, or keeps the one that is there, and trusts these controllers. Throws {@link KeyError}. */
export async function initializeNode(
  keyFile: string,
  controllerPublicKeys: readonly Uint8Array[],
): Promise<InitializedNode> {
  try {
    return { keys: await createNodeKeyFile(keyFile, controllerPublicKeys), made: true };
  } catch (error) {
    if (!(error instanceof KeyError && error.code === 'exists')) {
      throw error;
    }
  }
  await trustControllers(keyFile, controllerPublicKeys);
  return { keys: await loadNodeKeyFile(keyFile), made: false };
}

/** Trusts controllers. @returns the key ids of all that are trusted now. Throws {@link KeyError}. */
export async function trustControllers(
  keyFile: string,
  controllerPublicKeys: readonly Uint8Array[],
): Promise<string[]> {
  for (const key of controllerPublicKeys) {
    await trustController(keyFile, key);
  }
  return (await loadNodeKeyFile(keyFile)).controllerPublicKeys.map(keyIdOf);
}
