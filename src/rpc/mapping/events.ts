import type { WatchEvent } from '../../core/services/types.js';
import type { WatchResponse } from '../../generated/moorage/v1/WatchResponse.js';
import { toExport, toNode, toOperation, toPool, toSnapshot, toVolume } from './resources.js';
import { toTimestamp } from './scalars.js';
import { resourceTypes } from './states.js';

/** An event of the core's as the API shows it. */
export function toWatchResponse(event: WatchEvent): WatchResponse {
  const { resumeToken } = event;
  switch (event.kind) {
    case 'volume':
      return { resumeToken, volume: toVolume(event.resource) };
    case 'snapshot':
      return { resumeToken, snapshot: toSnapshot(event.resource) };
    case 'export':
      return { resumeToken, export: toExport(event.resource) };
    case 'node':
      return { resumeToken, node: toNode(event.resource) };
    case 'pool':
      return { resumeToken, pool: toPool(event.resource) };
    case 'operation':
      return { resumeToken, operation: toOperation(event.resource.value) };
    case 'gone': {
      const { type, id, goneTime, reason } = event;
      return { resumeToken, gone: { type: resourceTypes[type], id, goneTime: toTimestamp(goneTime), reason } };
    }
    case 'synced':
      return { resumeToken, synced: {} };
    case 'bookmark':
      return { resumeToken, bookmark: {} };
  }
}
