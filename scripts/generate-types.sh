#!/usr/bin/env bash
# Generates the TypeScript types of the messages for the proto loader into src/generated.
# The options must be those of src/rpc-definitions (longs as strings would lose nothing, but bigint arithmetic wants them).
set -euo pipefail
cd "$(dirname "$0")/.."
out=src/generated
stamp="$out/.stamp"
hash=$(cat "$0" protos/moorage/v1/*.proto protos/moorage/backend/v1/*.proto | sha256sum)
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$hash" ] && exit 0
rm -rf "$out"
npx proto-loader-gen-types --longs=String --enums=String --defaults --oneofs --json=false \
  --grpcLib=@grpc/grpc-js --importFileExtension=.js --includeComments \
  --includeDirs=protos --outDir="$out" \
  moorage/v1/storage_controller_service.proto moorage/v1/node_service.proto moorage/v1/pool_service.proto \
  moorage/v1/operation_service.proto moorage/v1/event_service.proto moorage/v1/admin_service.proto \
  moorage/backend/v1/backend_service.proto
# What the reflection service answers with: every file of the public API and what it imports, and the health service, as
# protoc would give them. Two FileDescriptorSets one after the other are one.
npx buf build --path protos/moorage/v1 --exclude-source-info -o "$out/moorage.binpb"
npx buf build node_modules/grpc-health-check/proto --exclude-source-info -o "$out/health.binpb"
{
  printf '/** FileDescriptorSet of the public API and of grpc.health.v1, base64. */\nexport const descriptorSet =\n  "'
  cat "$out/moorage.binpb" "$out/health.binpb" | base64 -w0
  printf '";\n'
} > "$out/descriptor-set.ts"
rm "$out/moorage.binpb" "$out/health.binpb"
printf '%s' "$hash" > "$stamp"
