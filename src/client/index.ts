/**
 * The client library: `connect`, and every method of the API as a promise.
 *
 *     const client = connect({ endpoints: ['unix:/run/moorage/moorage.sock'] });
 *     const { volume } = await client.createVolume({ poolId: 'ssd', sizeBytes: 10 * 2 ** 30 });
 */
export type { Export__Output as Export } from '../generated/moorage/v1/Export.js';
export type { Finding__Output as Finding } from '../generated/moorage/v1/Finding.js';
export type { FindingClass } from '../generated/moorage/v1/FindingClass.js';
export type { Grant__Output as Grant } from '../generated/moorage/v1/Grant.js';
export type { Node__Output as Node } from '../generated/moorage/v1/Node.js';
export type { Operation__Output as Operation } from '../generated/moorage/v1/Operation.js';
export type { Pool__Output as Pool } from '../generated/moorage/v1/Pool.js';
export type { Repaired__Output as Repaired } from '../generated/moorage/v1/Repaired.js';
export type { Snapshot__Output as Snapshot } from '../generated/moorage/v1/Snapshot.js';
export type { Volume__Output as Volume } from '../generated/moorage/v1/Volume.js';
export type { WatchResponse__Output as WatchEvent } from '../generated/moorage/v1/WatchResponse.js';
export {
  type CallOptions,
  type ConnectOptions,
  connect,
  type MoorageClient,
  type TlsFiles,
  type TlsTexts,
} from './connect.js';
export { MoorageCallError, type StatusName } from './errors.js';
export { pages, toDate, type WaitOptions, waitForOperation } from './operations.js';
export type { WatchOptions } from './watch.js';
