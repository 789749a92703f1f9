#!/bin/bash
# Stops every development cluster and libvirt host of this checkout, by their own process ids, and removes what was made.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
shopt -s nullglob
for directory in .dev/hosts/*/uuid; do scripts/libvirt-host.sh delete "$(basename "$(dirname "$directory")")"; done
for settings in .dev/*/settings; do scripts/ceph-cluster.sh delete "$(basename "$(dirname "$settings")")"; done
rm -rf .dev dist coverage
