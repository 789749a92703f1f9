import { fileURLToPath } from 'node:url';
import { type GrpcObject, loadPackageDefinition, type MethodDefinition } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import type { AdminServiceDefinition } from '../generated/moorage/v1/AdminService.js';
import type { NodeServiceDefinition } from '../generated/moorage/v1/NodeService.js';
import type { OperationServiceDefinition } from '../generated/moorage/v1/OperationService.js';
import type { PoolServiceDefinition } from '../generated/moorage/v1/PoolService.js';
import type { StorageControllerServiceDefinition } from '../generated/moorage/v1/StorageControllerService.js';

/** All services of the API that answer once in one, by the names of their methods: they share no name. */
export type ApiDefinition = Named<StorageControllerServiceDefinition> &
  Named<NodeServiceDefinition> &
  Named<PoolServiceDefinition> &
  Named<OperationServiceDefinition> &
  Named<AdminServiceDefinition>;

/** Without the index signature that grpc-js gives every definition. */
type Named<Definition> = { [Name in keyof Definition as string extends Name ? never : Name]: Definition[Name] };

/** A method as grpc-js wants it. */
export type AnyMethod = MethodDefinition<object, object>;

const everyMethod = load();

/** Every method of the API that answers once, by its name. Loaded once, when this module is. */
export const methods: ReadonlyMap<string, AnyMethod> = new Map(
  [...everyMethod].filter(([, method]) => !method.responseStream),
);

/** EventService.Watch. */
export const watchMethod: AnyMethod = everyMethod.get('Watch') as AnyMethod;

function load(): ReadonlyMap<string, AnyMethod> {
  const definition = loadSync(
    ['storage_controller', 'node', 'pool', 'operation', 'event', 'admin'].map(
      (name) => `moorage/v1/${name}_service.proto`,
    ),
    {
      // Must say what scripts/generate-types.sh says, or the generated types lie.
      keepCase: false,
      longs: String,
      enums: String,
      defaults: true,
      oneofs: true,
      includeDirs: [fileURLToPath(new URL('../../protos', import.meta.url))],
    },
  );
  const { moorage } = loadPackageDefinition(definition) as { moorage: { v1: GrpcObject } };
  const found = new Map<string, AnyMethod>();
  for (const item of Object.values(moorage.v1)) {
    if (!('service' in item)) continue;
    const { service } = item as { service: Record<string, AnyMethod> };
    for (const [name, method] of Object.entries(service)) found.set(name, method);
  }
  return found;
}
