import { fileURLToPath } from 'node:url';
import { type GrpcObject, loadPackageDefinition } from '@grpc/grpc-js';
import { loadSync, type Options } from '@grpc/proto-loader';
import type { ProtoGrpcType as AdminProtos } from '../generated/admin_service.js';
import type { ProtoGrpcType as EventProtos } from '../generated/event_service.js';
import type { ProtoGrpcType as NodeProtos } from '../generated/node_service.js';
import type { ProtoGrpcType as OperationProtos } from '../generated/operation_service.js';
import type { ProtoGrpcType as PoolProtos } from '../generated/pool_service.js';
import type { ProtoGrpcType as StorageProtos } from '../generated/storage_controller_service.js';

/*
 * A leaf: the API's services as grpc-js wants them, for the server and for the client library.
 */

/** Where the .proto files are: the same place seen from src/rpc and from dist/rpc. */
export const protosDirectory = fileURLToPath(new URL('../../protos', import.meta.url));

/** Must say what scripts/generate-types.sh says, or the generated types lie. */
const loaderOptions: Options = {
  keepCase: false,
  longs: String,
  enums: String,
  defaults: true,
  oneofs: true,
  includeDirs: [protosDirectory],
};

type Protos = AdminProtos & StorageProtos & NodeProtos & PoolProtos & OperationProtos & EventProtos;

function load(): Protos['moorage']['v1'] {
  const definition = loadSync(
    ['storage_controller', 'node', 'pool', 'operation', 'event', 'admin'].map(
      (name) => `moorage/v1/${name}_service.proto`,
    ),
    loaderOptions,
  );
  const loaded: GrpcObject = loadPackageDefinition(definition);
  return (loaded as unknown as Protos).moorage.v1;
}

const protos = load();

/** The client constructors of the services. */
export const clients = {
  storageController: protos.StorageControllerService,
  node: protos.NodeService,
  pool: protos.PoolService,
  operation: protos.OperationService,
  event: protos.EventService,
  admin: protos.AdminService,
} as const;

/** The services' definitions. */
export const services = {
  storageController: protos.StorageControllerService.service,
  node: protos.NodeService.service,
  pool: protos.PoolService.service,
  operation: protos.OperationService.service,
  event: protos.EventService.service,
  admin: protos.AdminService.service,
} as const;
