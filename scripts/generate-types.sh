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
  moorage/v1/operation_service.proto moorage/backend/v1/backend_service.proto
printf '%s' "$hash" > "$stamp"
