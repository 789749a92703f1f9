#!/bin/bash
# What can be said about the code without running it: types, formatting and rules, the API's own rules, and whether the API
# still keeps what the last release promised.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools=node_modules/.bin

npm run --silent generate
"$tools/tsc" --noEmit -p tsconfig.json
"$tools/biome" check .
"$tools/buf" lint
release=$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null || true)
if [[ -n $release ]]; then
  "$tools/buf" breaking --against ".git#tag=$release"
else
  echo 'check: no release tag to compare the API with'
fi
