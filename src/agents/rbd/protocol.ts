import { fileURLToPath } from 'node:url';
import { loadPackageDefinition } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import type { ProtoGrpcType } from '../../generated/backend_service.js';

/** Version of the backend protocol that this agent speaks. */
export const PROTOCOL_VERSION = 1;

// The same folder seen from src and from dist.
const protos = fileURLToPath(new URL('../../../protos', import.meta.url));

/** Loads the services of the backend protocol, with the options that the generated types were made for. */
export function loadBackendProtocol(): ProtoGrpcType['moorage']['backend']['v1'] {
  const definition = loadSync('moorage/backend/v1/backend_service.proto', {
    includeDirs: [protos],
    longs: String,
    enums: String,
    defaults: true,
    oneofs: true,
  });
  return (loadPackageDefinition(definition) as unknown as ProtoGrpcType).moorage.backend.v1;
}
