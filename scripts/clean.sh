#!/bin/bash
# Stops every development cluster and libvirt host of this checkout, by their own process ids, and removes what was made.
# Nothing is removed as long as something of it still runs.
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."
shopt -s nullglob extglob

# number_of NAME FILE: a process id out of the small JSON that `make demo` and `make run` leave while they work.
number_of() { sed -nE "s/.*\"$1\":([0-9]+).*/\1/p" "$2"; }
command_line() { { tr '\0' ' ' <"/proc/$1/cmdline" || true; } 2>/dev/null; }

for processes in .dev/*/moorage/processes.json; do
  owner=$(number_of owner "$processes")
  controller=$(number_of controller "$processes")
  if [[ $(command_line "$owner") == *scripts/@(demo|run).ts* ]]; then
    echo "clean: \"make demo\" or \"make run\" works here (process $owner); end it first" >&2
    exit 1
  fi
  # A controller whose owner was killed. A process number alone proves nothing after a reboot.
  if [[ $(command_line "$controller") == *"$PWD/$(dirname "$processes")/controller.yaml"* ]]; then
    kill -TERM "$controller" || true
    while [[ $(command_line "$controller") == *controller.yaml* ]]; do sleep 0.1; done
  fi
done
failed=
for directory in .dev/hosts/*/uuid; do
  scripts/libvirt-host.sh delete "$(basename "$(dirname "$directory")")" || failed=yes
done
for settings in .dev/*/settings; do
  scripts/ceph-cluster.sh delete "$(basename "$(dirname "$settings")")" || failed=yes
done
[[ -z $failed ]] || { echo "clean: what could not be stopped is named above, and .dev stays" >&2; exit 1; }
rm -rf .dev dist coverage
