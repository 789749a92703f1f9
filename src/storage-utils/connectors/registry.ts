import { StorageUtilsError } from '../errors.js';
import type { Connector } from './connector.js';
import { rbdConnector } from './rbd.js';

const connectors: ReadonlyMap<string, Connector> = new Map([rbdConnector].map((each) => [each.name, each]));

/** The connector that a descriptor names. @throws {StorageUtilsError} `refused` when this version has none of that name. */
export function connectorFor(name: string): Connector {
  const connector = connectors.get(name);
  if (connector === undefined) {
    throw new StorageUtilsError(
      'refused',
      `this storage-utils has no connector "${name}" (it has ${[...connectors.keys()].join(', ')}); update storage-utils`,
    );
  }
  return connector;
}
