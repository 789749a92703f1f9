#!/bin/bash
# Builds the test guest once into .dev/guest/: `vmlinuz`, Debian's cloud kernel, and `initrd.gz`, a small busybox system
# that runs test/guest/disk-agent.c on the second serial port. Ends at once when both are there and current.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
directory="$root/.dev/guest"
source_file=test/guest/disk-agent.c

fail() {
  echo "guest: $*" >&2
  exit 1
}

wanted=$(cat scripts/guest.sh "$source_file" | sha256sum)
is_current() { [[ -s $directory/vmlinuz && -s $directory/initrd.gz && $(cat "$directory/stamp" 2>/dev/null) == "$wanted" ]]; }

is_current && exit 0
mkdir -p "$directory"
exec 9>"$directory/lock"
flock -w 300 9 || fail "another build has been running for five minutes"
is_current && exit 0
rm -f "$directory/stamp"

work=$(mktemp -d "$directory/build.XXXXXX")
trap 'rm -rf "$work"' EXIT

kernel_package() {
  apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -nE 's/^ *Depends: (linux-image-[0-9].*-cloud-amd64)$/\1/p' | head -n 1
}

# Debian's kernel is only unpacked, never installed: no boot loader of this machine learns of it.
fetch_kernel() {
  [[ -d $directory/kernel/boot ]] && return 0
  local package log="$directory/fetch.log"
  package=$(kernel_package)
  if ! (cd "$work" && [[ -n $package ]] && apt-get download -q "$package") >"$log" 2>&1; then
    apt-get update -q >>"$log" 2>&1 || fail "apt-get update failed: see $log"
    package=$(kernel_package)
    [[ -n $package ]] || fail "Debian's linux-image-cloud-amd64 is not to be had from this machine's package sources"
    (cd "$work" && apt-get download -q "$package") >>"$log" 2>&1 || fail "$package cannot be downloaded: see $log"
  fi
  dpkg -x "$work"/linux-image-*.deb "$work/kernel"
  depmod -b "$work/kernel" "$(basename "$work"/kernel/lib/modules/*)"
  rm -rf "$directory/kernel"
  mv "$work/kernel" "$directory/kernel"
}

build_initrd() {
  local version system="$work/initrd" module
  version=$(basename "$directory"/kernel/lib/modules/*)
  mkdir -p "$system"/{bin,dev,proc,sys,modules}
  cp /bin/busybox "$system/bin/busybox"
  gcc -static -O2 -Wall -Wextra -o "$system/disk-agent" "$source_file" -lpthread
  # In the order in which they must be loaded, each once.
  modprobe -d "$directory/kernel" -S "$version" --show-depends -a virtio_pci virtio_blk virtio_scsi sd_mod |
    sed -nE 's/^insmod (.*\.ko[^ ]*).*/\1/p' | awk '!seen[$0]++' | while read -r module; do
    cp "$module" "$system/modules/"
    basename "$module" >>"$system/modules/order"
  done
  cat >"$system/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
while read -r module; do /bin/busybox insmod "/modules/$module"; done </modules/order
exec /disk-agent /dev/ttyS1
INIT
  chmod 755 "$system/init"
  (cd "$system" && find . -print0 | sort -z | cpio --quiet --null -o -H newc -R 0:0) | gzip -1 >"$work/initrd.gz"
  mv "$work/initrd.gz" "$directory/initrd.gz"
  cp "$directory/kernel/boot/vmlinuz-$version" "$work/vmlinuz"
  mv "$work/vmlinuz" "$directory/vmlinuz"
}

fetch_kernel
build_initrd
echo "$wanted" >"$directory/stamp"
