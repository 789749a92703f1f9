#!/bin/bash
# Brings a Debian 12 machine with Node to where everything in this repository runs: Debian's packages, npm's packages,
# the built project. Says nothing and takes about a second when all is there.
#
#   scripts/setup.sh [--packages]     --packages: Debian's packages only
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

debian_packages=(
  # Ceph, and its libraries that the agents load
  ceph-mon ceph-osd ceph-mgr ceph-common librbd1 librados2
  # libvirt and QEMU
  libvirt-daemon-system libvirt-clients qemu-system-x86 qemu-block-extra qemu-utils
  # iSCSI with multipath, an encrypted disk, a file system
  tgt tgt-rbd open-iscsi multipath-tools libiscsi-bin cryptsetup-bin xfsprogs
  # a store for several controllers
  redis-server
  # the client in another language, the reference of the benchmark
  python3 python3-grpcio python3-grpc-tools python3-rbd fio
  # the test guest, the tests, npm packages that compile
  busybox-static cpio kmod xz-utils libxml2-utils iproute2 openssl util-linux build-essential ca-certificates
)
# What those packages would run at every boot although nobody here asked for it.
units_of_others='^(ceph|libvirt|virt|tgt|iscsi|open-iscsi|multipath|redis|rbdmap|radosgw|lvm2|blk-availability)'

fail() {
  echo "setup: $*" >&2
  exit 1
}

installed_packages() { dpkg-query -W -f '${db:Status-Status} ${Package}\n' 2>/dev/null | sed -n 's/^installed //p' | sort -u; }

install_debian_packages() {
  local missing
  mapfile -t missing < <(comm -23 <(printf '%s\n' "${debian_packages[@]}" | sort -u) <(installed_packages))
  ((${#missing[@]} > 0)) || return 0
  [[ $EUID -eq 0 ]] || fail "these packages are missing and only root can install them: ${missing[*]}"
  command -v apt-get >/dev/null || fail "this machine has no apt-get; Moorage's development set-up wants Debian 12"
  echo "setup: installing ${#missing[@]} Debian packages"
  (
    # Nothing that is installed here may start: the clusters and hosts of this repository run from its own folder.
    policy=/usr/sbin/policy-rc.d
    kept=
    before=$(mktemp)
    trap 'rm -f "$before"; if [[ -n $kept ]]; then if [[ $kept == none ]]; then rm -f "$policy"; else mv "$kept" "$policy"; fi; fi' EXIT
    trap 'exit 130' INT TERM
    mark='# of the set-up of Moorage; may be removed'
    if grep -qsxF "$mark" "$policy"; then # left by a set-up that was killed
      if [[ -e $policy.before-moorage ]]; then mv "$policy.before-moorage" "$policy"; else rm -f "$policy"; fi
    fi
    answer=0
    if [[ -e $policy ]]; then "$policy" libvirtd start >/dev/null 2>&1 || answer=$?; fi
    if [[ $answer != 101 ]]; then
      if [[ -e $policy ]]; then
        mv "$policy" "$policy.before-moorage"
        kept="$policy.before-moorage"
      else
        kept=none
      fi
      printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$policy"
      chmod 755 "$policy"
    fi
    installed_packages >"$before"
    export DEBIAN_FRONTEND=noninteractive
    log=$(mktemp)
    # A package source that does not answer may be one of somebody else's: whether it was needed is for the installation to say.
    if ! { apt-get update -q; apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=300 "${missing[@]}"; } >"$log" 2>&1; then
      tail -n 30 "$log" >&2
      rm -f "$log"
      fail "apt-get did not install the packages; what it said is above"
    fi
    rm -f "$log"
    disable_units_of_new_packages "$before"
  )
}

# Packages that came just now; what was there before stays as its owner set it.
disable_units_of_new_packages() {
  command -v systemctl >/dev/null || return 0
  local new units
  mapfile -t new < <(comm -13 "$1" <(installed_packages))
  ((${#new[@]} > 0)) || return 0
  mapfile -t units < <(dpkg -L "${new[@]}" 2>/dev/null |
    sed -nE 's#^(/usr)?/lib/systemd/system/([^/]+\.(service|socket|target|timer))$#\2#p' | grep -E "$units_of_others" | grep -v '@\.' | sort -u)
  ((${#units[@]} == 0)) || systemctl disable -q "${units[@]}" >/dev/null 2>&1 ||
    echo "setup: not all of these could be disabled, see to it yourself: ${units[*]}" >&2
}

check_node() {
  command -v node >/dev/null && command -v npm >/dev/null || fail "Node 20.19 or newer with npm is needed and is not on the PATH"
  node -e '
    const [major, minor] = process.versions.node.split(".").map(Number);
    process.exit(major > 20 || (major === 20 && minor >= 19) ? 0 : 1);' ||
    fail "Node 20.19 or newer is needed; this is $(node --version)"
}

install_npm_packages() {
  local stamp=node_modules/.moorage-stamp wanted headers
  wanted="$(sha256sum <package-lock.json | cut -d' ' -f1) $(node --version) $(uname -m)"
  [[ -f $stamp && $(cat "$stamp") == "$wanted" ]] && return 0
  echo "setup: installing npm packages"
  # One package compiles: with Node's own headers, where they are, nothing more has to be downloaded.
  headers=$(dirname "$(dirname "$(readlink -f "$(command -v node)")")")
  if [[ -f $headers/include/node/node_version.h ]]; then export npm_config_nodedir="$headers"; fi
  # Whatever npm or NODE_ENV are set to on this machine: the tools are development dependencies, koffi's library an optional one.
  npm ci --include=dev --include=optional --no-audit --no-fund --no-update-notifier --loglevel=error ||
    fail "npm ci failed; what it said is above"
  node -e 'new (require("better-sqlite3"))(":memory:"); require("koffi")' ||
    fail "a compiled npm package cannot be loaded; if npm is set to ignore-scripts, it was not built"
  printf '%s' "$wanted" >"$stamp"
}

build_project() {
  local stamp=dist/.moorage-stamp
  if [[ -f $stamp ]] && [[ -z $(find src protos package.json tsconfig.json tsconfig.build.json scripts/generate-types.sh \
    -path src/generated -prune -o -newer $stamp -print -quit) ]]; then
    return 0
  fi
  echo "setup: building"
  npm run --silent generate || fail "the generated types could not be made; what it said is above"
  mkdir -p dist
  touch dist/.moorage-stamp.new # before the build: what changes while it runs is built the next time
  npm run --silent build || fail "the build failed; what it said is above"
  mv dist/.moorage-stamp.new $stamp
}

# Two at once would install over each other.
mkdir -p .dev
exec 9>.dev/setup.lock
flock 9
install_debian_packages
[[ ${1:-} == --packages ]] && exit 0
check_node
install_npm_packages
build_project
