import { fileURLToPath } from 'node:url';
import { loadPackageDefinition } from '@grpc/grpc-js';
import { loadSync, type MethodDefinition } from '@grpc/proto-loader';
import type { ProtoGrpcType } from '../generated/backend_service.js';
import type { AgentServiceDefinition } from '../generated/moorage/backend/v1/AgentService.js';
import type { DataServiceDefinition } from '../generated/moorage/backend/v1/DataService.js';
import type { FenceServiceDefinition } from '../generated/moorage/backend/v1/FenceService.js';

/** Version of the backend protocol that this side speaks. */
export const PROTOCOL_VERSION = 1;

const protos = fileURLToPath(new URL('../../protos', import.meta.url));

// The options must be those that scripts/generate-types.sh gives to the generator.
const loaded = loadPackageDefinition(
  loadSync('moorage/backend/v1/backend_service.proto', {
    includeDirs: [protos],
    longs: String,
    enums: String,
    defaults: true,
    oneofs: true,
  }),
) as unknown as ProtoGrpcType;

/** The methods of the protocol by service: paths and serializers. */
export const agentService: AgentServiceDefinition = loaded.moorage.backend.v1.AgentService.service;
export const dataService: DataServiceDefinition = loaded.moorage.backend.v1.DataService.service;
export const fenceService: FenceServiceDefinition = loaded.moorage.backend.v1.FenceService.service;

/** What is sent with a method. */
export type RequestOf<Method> =
  Method extends MethodDefinition<infer Request, infer _Response, infer _RequestOut, infer _ResponseOut>
    ? Request
    : never;

/** What is received from a method. */
export type ResponseOf<Method> =
  Method extends MethodDefinition<infer _Request, infer _Response, infer _RequestOut, infer ResponseOut>
    ? ResponseOut
    : never;
