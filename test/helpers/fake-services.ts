import type { Export, Volume } from '../../src/core/model/resources.js';
import type { Caller, Services } from '../../src/core/services/types.js';

type Method = (...parameters: never[]) => Promise<unknown>;
type StreamMethod = Services['events']['watch'];

/** One call that reached the core. */
export interface SeenCall {
  readonly method: string;
  readonly request: unknown;
  readonly caller: Caller;
}

/**
 * Services that do what a test says: methods by their names, as "volumes.get". What a test does not say fails the call.
 * Every call is kept in `seen`.
 */
export function fakeServices(methods: Readonly<Record<string, Method | StreamMethod>>): {
  services: Services;
  seen: SeenCall[];
} {
  const seen: SeenCall[] = [];
  const service = (name: string): object =>
    new Proxy(
      {},
      {
        get: (_target, property) => {
          const method = `${name}.${String(property)}`;
          // Asked before every call of a node; no test wants to say so each time.
          if (method === 'enrollment.admit' && methods[method] === undefined) return async () => undefined;
          return async (...parameters: unknown[]) => {
            seen.push({ method, request: parameters[0], caller: parameters.at(-1) as Caller });
            const implementation = methods[method];
            if (implementation === undefined) throw new Error(`The test says nothing of ${method}.`);
            return (implementation as Method)(...(parameters as never[]));
          };
        },
      },
    );
  const names = ['volumes', 'snapshots', 'exports', 'nodes', 'enrollment', 'pools', 'operations', 'admin'];
  const services = Object.fromEntries(names.map((name) => [name, service(name)]));
  return {
    services: { ...services, events: { watch: watch(methods['events.watch'], seen) } } as unknown as Services,
    seen,
  };
}

function watch(implementation: StreamMethod | Method | undefined, seen: SeenCall[]): Services['events']['watch'] {
  return async function* (request, caller, stopping) {
    seen.push({ method: 'events.watch', request, caller });
    if (implementation === undefined) throw new Error('The test says nothing of events.watch.');
    yield* (implementation as StreamMethod)(request, caller, stopping);
  };
}

/** A volume in the core's form. */
export const sampleVolume: Volume = {
  id: 'vol-0123456789abcdef0',
  poolId: 'ssd',
  state: 'available',
  statusMessage: '',
  sizeBytes: 10_737_418_240,
  sourceSnapshotId: 'snap-0123456789abcdef0',
  displayName: 'db',
  tags: { tier: 'gold' },
  encrypted: false,
  multiAttach: false,
  createTime: 1_700_000_000_123,
  updateTime: 1_700_000_001_000,
  cloneDepth: 2,
  exportIds: ['exp-0123456789abcdef0'],
};

/** An export in the core's form, with what must never leave the core. */
export const sampleExport: Export = {
  id: 'exp-0123456789abcdef0',
  poolId: 'ssd',
  volumeId: 'vol-0123456789abcdef0',
  nodeId: 'nc-a',
  instance: 'web1',
  state: 'exported',
  statusMessage: '',
  grantId: '',
  migration: false,
  readOnly: false,
  createTime: 1_700_000_000_123,
  updateTime: 1_700_000_001_000,
  ancestorIds: ['snap-0123456789abcdef0'],
  sealedAccess: 'c2VhbGVkLWFjY2Vzcw==',
  descriptorLifetimeMilliseconds: 3_600_000,
};
