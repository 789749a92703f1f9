#!/bin/bash
# A libvirt host of one's own: a libvirtd in mount and UTS namespaces of its own, with its own host name, host UUID,
# sockets, domains, secrets, logs and /etc/ceph, all in .dev/hosts/<name>/. Several run side by side, and nothing of the
# machine's own libvirt is touched.
set -euo pipefail
umask 077

usage() {
  cat <<'USAGE'
Usage: scripts/libvirt-host.sh COMMAND NAME [PROGRAM...]

  start   start it if it does not run; prints its URI
  stop    destroy its guests and stop it; persistent domains stay defined
  status  one line; exit status 0 if it runs, 3 if not
  uri     print the URI to reach it by
  run     run PROGRAM where this host's files are (its /etc/ceph, /etc/libvirt, host name)
  delete  stop and remove its folder
USAGE
}

fail() {
  echo "libvirt-host: $*" >&2
  exit 1
}

[[ $# -ge 2 ]] || { usage >&2; exit 2; }
command=$1
name=$2
shift 2
[[ $name =~ ^[a-z][a-z0-9-]{0,30}$ ]] || fail "NAME must be a lower-case letter, then at most 30 of a-z, 0-9 and -; got '$name'"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
hosts="$root/.dev/hosts"
directory="$hosts/$name"
socket="$directory/run/libvirt-sock"
# The characters of a path that mean something else in the query of a URI.
encoded=${socket//%/%25}
encoded=${encoded// /%20}
encoded=${encoded//+/%2B}
encoded=${encoded//&/%26}
encoded=${encoded//#/%23}
uri="qemu+unix:///system?socket=$encoded"
# Clients' unix sockets cannot have longer paths.
((${#socket} <= 107)) || fail "the path $socket is longer than the 107 bytes of a unix socket; use a shorter folder or name"
unset CEPH_CONF CEPH_ARGS CEPH_KEYRING LIBVIRT_DEFAULT_URI

# Prints the process id of this host's libvirtd, or fails. The mounts tell it from a process that has the number by chance.
pid_of_libvirtd() { own_process "$directory/run/libvirtd.pid" libvirtd; }

own_process() { # pid file, program
  local pid
  pid=$(cat "$1" 2>/dev/null) || return 1
  [[ $pid =~ ^[0-9]+$ ]] || return 1
  grep -q "^$2" "/proc/$pid/comm" 2>/dev/null || return 1
  grep -qF "/.dev/hosts/$name/run /run/libvirt " "/proc/$pid/mountinfo" 2>/dev/null || return 1
  echo "$pid"
}

answers() { timeout 10 virsh -q -c "$uri" version >/dev/null 2>&1; }

write_configuration() {
  local uuid
  [[ -s $directory/uuid ]] || cat /proc/sys/kernel/random/uuid >"$directory/uuid"
  uuid=$(cat "$directory/uuid")
  cat >"$directory/etc-libvirt/libvirtd.conf" <<CONFIGURATION
host_uuid = "$uuid"
unix_sock_rw_perms = "0700"
unix_sock_ro_perms = "0700"
auth_unix_rw = "none"
auth_unix_ro = "none"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
CONFIGURATION
  cat >"$directory/etc-libvirt/qemu.conf" <<CONFIGURATION
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
# No virtlogd: guests' consoles and logs are plain files.
stdio_handler = "file"
max_core = 0
CONFIGURATION
}

lock() {
  mkdir -p "$hosts"
  exec 9>"$hosts/$name.lock"
  flock -w 120 9 || fail "another start or stop of '$name' has been running for two minutes"
}

start() {
  lock
  if pid_of_libvirtd >/dev/null && answers; then
    echo "$uri"
    return
  fi
  stop_libvirtd
  mkdir -p "$directory"/{run,etc-libvirt,etc-ceph,lib,log} "$hosts/cache"
  # QEMU runs as root here, but its files are checked by name as anybody's.
  chmod 755 "$directory" "$directory"/{etc-ceph,lib,run}
  write_configuration
  rm -f "$directory/run/libvirtd.pid" "$socket"
  # The mount points; their content is never seen by this libvirtd.
  mkdir -p /etc/libvirt /etc/ceph /var/lib/libvirt /var/cache/libvirt /var/log/libvirt /run/libvirt
  # shellcheck disable=SC2016
  setsid unshare --mount --uts --propagation private bash -c '
    set -e
    hostname "$2"
    mount --bind "$1/etc-libvirt" /etc/libvirt
    mount --bind "$1/etc-ceph" /etc/ceph
    mount --bind "$1/lib" /var/lib/libvirt
    mount --bind "$3" /var/cache/libvirt
    mount --bind "$1/log" /var/log/libvirt
    mount --bind "$1/run" /run/libvirt
    umask 022
    exec libvirtd --pid-file /run/libvirt/libvirtd.pid' bash "$directory" "$name" "$hosts/cache" \
    </dev/null >>"$directory/log/start.log" 2>&1 9>&- &
  local child=$! limit=$((SECONDS + 30))
  until answers; do
    kill -0 "$child" 2>/dev/null || fail "libvirtd ended: $(tail -n 3 "$directory/log/start.log"); more may stand in $directory/log"
    ((SECONDS < limit)) || fail "libvirtd does not answer: see $directory/log"
    sleep 0.1
  done
  echo "$uri"
}

# end_process PID: asked first, then killed; waits until it is gone. A process that a test has frozen is woken to hear it.
end_process() {
  local limit=$((SECONDS + 10))
  kill -TERM "$1" 2>/dev/null || return 0
  kill -CONT "$1" 2>/dev/null || true
  while [[ -d /proc/$1 && $(awk '/^State:/ { print $2 }' "/proc/$1/status" 2>/dev/null) != Z ]]; do
    if ((SECONDS >= limit)); then
      kill -KILL "$1" 2>/dev/null || true
      limit=$((SECONDS + 10))
    fi
    sleep 0.05
  done
}

stop_libvirtd() {
  local pid
  pid=$(pid_of_libvirtd) || return 0
  end_process "$pid"
}

stop() {
  [[ -d $directory ]] || return 0
  lock
  # libvirtd first: it would restart nothing, but it would report each guest's end as a crash.
  stop_libvirtd
  local file pid
  for file in "$directory"/run/qemu/*.pid; do
    if pid=$(own_process "$file" qemu-system); then end_process "$pid"; fi
  done
  rm -rf "$directory/run/qemu"
}

case $command in
  start) start ;;
  stop) stop ;;
  status)
    if pid=$(pid_of_libvirtd); then echo "$name running $pid"; else echo "$name stopped"; exit 3; fi
    ;;
  uri) echo "$uri" ;;
  run)
    pid=$(pid_of_libvirtd) || fail "'$name' does not run; start it first"
    [[ $# -gt 0 ]] || { usage >&2; exit 2; }
    exec nsenter --target "$pid" --mount --uts --wd="$PWD" "$@"
    ;;
  delete)
    stop
    rm -rf "$directory" "$hosts/$name.lock"
    ;;
  *) usage >&2; exit 2 ;;
esac
