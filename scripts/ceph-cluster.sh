#!/bin/bash
# A Ceph of one's own for development and tests: monitors, a manager and OSDs as ordinary processes. Everything that it
# makes (data, keys, logs, pid files, configuration) lies in .dev/<name>/; nothing of the machine's own Ceph is touched.
set -euo pipefail
umask 077

usage() {
  cat <<'USAGE'
Usage: scripts/ceph-cluster.sh COMMAND NAME [--osds N] [--monitors N] [--address A]

  start   make the cluster if it is not there, start what does not run, wait until it serves; ends at once if all is well
  stop    stop its own processes; the data stays
  status  one line per daemon; exit status 0 if all run, 3 if not
  env     print CEPH_CONF=<its configuration file>
  delete  stop and remove its folder

  --osds N       number of OSDs when it is made (default 1, at most 9)
  --monitors N   number of monitors when it is made (default 1, at most 5)
  --address A    IPv4 address of this machine, or of the network namespace that this runs in, at which its daemons listen;
                 settled when it is made (default 127.0.0.1)
USAGE
}

fail() {
  echo "ceph-cluster: $*" >&2
  exit 1
}

[[ $# -ge 2 ]] || { usage >&2; exit 2; }
command=$1
name=$2
shift 2
[[ $name =~ ^[a-z][a-z0-9-]{0,30}$ ]] || fail "NAME must be a lower-case letter, then at most 30 of a-z, 0-9 and -; got '$name'"
wanted_osds=
wanted_monitors=
wanted_address=
while [[ $# -gt 0 ]]; do
  case $1 in
    --osds) wanted_osds=${2:-}; [[ $wanted_osds =~ ^[1-9]$ ]] || fail "--osds takes a number from 1 to 9"; shift 2 ;;
    --monitors) wanted_monitors=${2:-}; [[ $wanted_monitors =~ ^[1-5]$ ]] || fail "--monitors takes a number from 1 to 5"; shift 2 ;;
    --address)
      wanted_address=${2:-}
      [[ $wanted_address =~ ^([0-9]{1,3}\.){3}[0-9]{1,3}$ ]] || fail "--address takes an IPv4 address, as 10.0.0.1"
      shift 2
      ;;
    *) usage >&2; exit 2 ;;
  esac
done

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Ceph's configuration parser aborts at characters beyond ASCII and takes some others for its own.
[[ -z $(LC_ALL=C tr -d 'A-Za-z0-9 ._/+@-' <<<"$root" | tr -d '\n') ]] ||
  fail "Ceph's configuration cannot hold the path $root; use a folder with ASCII letters, digits, spaces and ._+@- only"
development="$root/.dev"
directory="$development/$name"
configuration="$directory/ceph.conf"
settings="$directory/settings"
# /etc/ceph and the caller's environment must not reach these processes.
unset CEPH_ARGS CEPH_KEYRING
export CEPH_CONF="$configuration"

letters=(a b c d e)

monitor_names() { local i; for ((i = 0; i < MONITORS; i++)); do echo "${letters[i]}"; done; }
osd_ids() { local i; for ((i = 0; i < OSDS; i++)); do echo "$i"; done; }
daemons() {
  local each
  for each in $(monitor_names); do echo "mon.$each"; done
  for each in $(osd_ids); do echo "osd.$each"; done
  echo mgr.x
}

load_settings() { # FSID, OSDS, MONITORS, ADDRESS, PORTS (v2 and v1 of each monitor, in turn)
  ADDRESS=127.0.0.1 # of clusters from before this was a setting
  # shellcheck source=/dev/null
  source "$settings"
}

# Prints the process id of a daemon of this cluster, or fails. A pid file alone proves nothing after a reboot.
pid_of() {
  local pid
  pid=$(cat "$directory/run/$1.pid" 2>/dev/null) || return 1
  [[ $pid =~ ^[0-9]+$ && -r /proc/$pid/cmdline ]] || return 1
  tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF -- "-c $configuration " || return 1
  [[ $(awk '/^State:/ { print $2 }' "/proc/$pid/status" 2>/dev/null) != Z ]] || return 1
  echo "$pid"
}

# Prints as many TCP ports as asked that are free at the address, none of which another cluster under .dev has been given.
free_ports() {
  python3 - "$1" "$development" "$ADDRESS" <<'PYTHON'
import glob, random, re, socket, sys
count, development, address = int(sys.argv[1]), sys.argv[2], sys.argv[3]
taken = set()
for path in glob.glob(development + "/*/settings"):
    with open(path) as handle:
        match = re.search(r'^PORTS="([0-9 ]*)"', handle.read(), re.M)
    taken.update(int(port) for port in (match.group(1).split() if match else []))
found = []
candidates = list(range(13000, 30000))  # below the kernel's range for outgoing connections
random.shuffle(candidates)
for port in candidates:
    if port in taken:
        continue
    with socket.socket() as probe:
        try:
            probe.bind((address, port))
        except OSError:
            continue
    found.append(str(port))
    if len(found) == count:
        break
print(" ".join(found))
PYTHON
}

monitor_addresses() { # the mon host line; --addv form of one monitor with an index
  local ports=($PORTS) i
  if [[ $# -eq 1 ]]; then
    echo "[v2:$ADDRESS:${ports[2 * $1]},v1:$ADDRESS:${ports[2 * $1 + 1]}]"
    return
  fi
  local list=()
  for ((i = 0; i < MONITORS; i++)); do list+=("$(monitor_addresses $i)"); done
  (IFS=,; echo "${list[*]}")
}

# Written at each start, so that a checkout that was moved still works. Relative names are for unix sockets (their paths
# are limited to 107 bytes): daemons run with this folder as their working directory.
write_configuration() {
  cat >"$configuration.new" <<CONFIGURATION
[global]
fsid = $FSID
mon host = $(monitor_addresses)
public addr = $ADDRESS
cluster addr = $ADDRESS
ms bind ipv4 = true
ms bind ipv6 = false
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
crash dir = $directory/crash
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 32
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0

[client.admin]
keyring = $directory/ceph.client.admin.keyring

[mon]
mon data = $directory/\$name
mon allow pool size one = true
mon allow pool delete = true
mon warn on pool no redundancy = false
mon max pg per osd = 1000
mon data avail warn = 2
mon data avail crit = 1
mgr initial modules =

[mgr]
mgr data = $directory/\$name
# A pool's state reaches the monitors once per period; the default of 5 s is most of a start.
mgr stats period = 1
# Loading a module costs start-up time and memory. Those that are left must be there, or the cluster is not healthy.
mgr disabled modules = alerts,cephadm,dashboard,diskprediction_local,hello,influx,insights,iostat,k8sevents,localpool,mds_autoscaler,mirroring,nfs,osd_perf_query,osd_support,prometheus,restful,rook,selftest,snap_schedule,stats,telegraf,test_orchestrator,zabbix

[osd]
osd data = $directory/\$name
osd objectstore = bluestore
bluestore block size = 21474836480
bluestore cache autotune = false
bluestore cache size = 134217728
osd memory target = 939524096
# A file is taken for a slow disk, and 5 s of rest after each trimmed object for a purged image that lingers for minutes.
osd snap trim sleep = 0
osd snap trim sleep hdd = 0
osd delete sleep hdd = 0
osd max pg log entries = 500
osd min pg log entries = 100
# Scrubbing would disturb measurements.
osd scrub begin hour = 0
osd scrub end hour = 0
osd scrub load threshold = 0.01
osd crush initial weight = 1

CONFIGURATION
  local kind
  for kind in mon mgr osd; do
    cat >>"$configuration.new" <<CONFIGURATION
[$kind]
keyring = $directory/\$name/keyring
chdir = $directory
run dir = run
admin socket = run/\$name.asok
pid file = run/\$name.pid
log file = $directory/log/\$name.log
log to stderr = false
err to stderr = true
mon cluster log file = $directory/log/cluster.log

CONFIGURATION
  done
  mv "$configuration.new" "$configuration"
}

# Everything up to the first start: keys, monitor map, data folders. Interrupted, it is begun again from nothing.
create() {
  rm -rf "$directory"
  mkdir -p "$directory"/{run,log,crash}
  FSID=$(cat /proc/sys/kernel/random/uuid)
  OSDS=${wanted_osds:-1}
  MONITORS=${wanted_monitors:-1}
  ADDRESS=${wanted_address:-127.0.0.1}
  PORTS=$(free_ports $((2 * MONITORS)))
  printf 'FSID=%s\nOSDS=%s\nMONITORS=%s\nADDRESS=%s\nPORTS="%s"\n' \
    "$FSID" "$OSDS" "$MONITORS" "$ADDRESS" "$PORTS" >"$settings"
  write_configuration
  cd "$directory"

  # The monitors are born with every daemon's key, so that none has to be imported later.
  local initial=initial.keyring monitor_map=initial.monmap each i=0
  ceph-authtool >>log/create.log $initial --create-keyring --gen-key -n mon. --cap mon 'allow *'
  ceph-authtool >>log/create.log ceph.client.admin.keyring --create-keyring --gen-key -n client.admin \
    --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *' --cap mds 'allow *'
  ceph-authtool >>log/create.log $initial --import-keyring ceph.client.admin.keyring
  mkdir mgr.x
  ceph-authtool >>log/create.log mgr.x/keyring --create-keyring --gen-key -n mgr.x \
    --cap mon 'allow profile mgr' --cap osd 'allow *' --cap mds 'allow *'
  ceph-authtool >>log/create.log $initial --import-keyring mgr.x/keyring
  for each in $(osd_ids); do
    mkdir "osd.$each"
    ceph-authtool >>log/create.log "osd.$each/keyring" --create-keyring --gen-key -n "osd.$each" \
      --cap mon 'allow profile osd' --cap mgr 'allow profile osd' --cap osd 'allow *'
    ceph-authtool >>log/create.log $initial --import-keyring "osd.$each/keyring"
  done
  monmaptool --create --clobber --fsid "$FSID" --set-min-mon-release pacific $monitor_map >>log/create.log
  for each in $(monitor_names); do
    monmaptool --addv "$each" "$(monitor_addresses $i)" $monitor_map >>log/create.log
    i=$((i + 1))
  done
  local pids=()
  for each in $(monitor_names); do
    mkdir "mon.$each"
    ceph-mon -c "$configuration" --mkfs -i "$each" --monmap $monitor_map --keyring $initial >>log/create.log 2>&1 &
    pids+=($!)
  done
  for each in $(osd_ids); do
    cat /proc/sys/kernel/random/uuid >"osd.$each/uuid"
    ceph-osd -c "$configuration" -i "$each" --mkfs --no-mon-config --monmap $monitor_map \
      --osd-uuid "$(cat "osd.$each/uuid")" >>log/create.log 2>&1 &
    pids+=($!)
  done
  for each in "${pids[@]}"; do wait "$each" || fail "could not be made: see $directory/log/create.log"; done
  rm $initial $monitor_map
  touch "$directory/created"
}

# Starts one daemon unless it runs. Ceph's own daemonizing answers when the daemon has come up or failed.
start_daemon() { # the daemon's name; more arguments go to it
  local daemon=$1
  shift
  pid_of "$daemon" >/dev/null && return 0
  rm -f "$directory/run/$daemon.pid" "$directory/run/$daemon.asok"
  # No lock of this script (descriptor 9) may live on in a daemon.
  (cd "$directory" && "ceph-${daemon%%.*}" -c "$configuration" -i "${daemon#*.}" "$@" </dev/null >>log/start.log 2>&1 9>&-) ||
    fail "$daemon does not start: see $directory/log/start.log and $directory/log/$daemon.log"
}

# Runs a Ceph command with a limit, so that a cluster that does not answer gives an error instead of a hang.
ceph_command() { timeout 60 ceph --connect-timeout 30 "$@"; }

# wait_until SECONDS WHAT COMMAND…: polls until the command succeeds.
wait_until() {
  local limit=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    ((SECONDS < limit)) || fail "gave up waiting until $what; logs are in $directory/log"
    sleep 0.1
  done
}

osd_is_active() {
  (cd "$directory" && timeout 10 ceph --admin-daemon "run/osd.$1.asok" status 2>/dev/null | grep -q '"state": "active"')
}

# Asks the running manager: unlike the monitors' summary, its answer cannot be one from before a restart.
placement_groups_are_clean() {
  timeout 10 ceph --connect-timeout 5 pg stat -f json 2>/dev/null | python3 -c '
import json, sys
try:
    summary = json.load(sys.stdin)["pg_summary"]
except (ValueError, KeyError):
    sys.exit(1)
states = {each["name"]: each["num"] for each in summary["num_pg_by_state"]}
sys.exit(0 if summary["num_pgs"] >= 32 and set(states) == {"active+clean"} else 1)'
}

all_run() {
  local each
  for each in $(daemons); do pid_of "$each" >/dev/null || return 1; done
}

start() {
  mkdir -p "$development"
  exec 9>"$development/$name.lock"
  flock -w 120 9 || fail "another start or stop of '$name' has been running for two minutes"
  if [[ -e $directory/created ]]; then
    load_settings
    [[ -z $wanted_osds || $wanted_osds == "$OSDS" ]] || fail "'$name' has $OSDS OSDs, not $wanted_osds; delete it first"
    [[ -z $wanted_monitors || $wanted_monitors == "$MONITORS" ]] ||
      fail "'$name' has $MONITORS monitors, not $wanted_monitors; delete it first"
    [[ -z $wanted_address || $wanted_address == "$ADDRESS" ]] ||
      fail "'$name' is at $ADDRESS, not $wanted_address; delete it first"
    if [[ -e $directory/ready ]] && all_run; then return; fi
    mkdir -p "$directory"/{run,log,crash}
    write_configuration
  else
    create
  fi
  cd "$directory"
  rm -f ready
  local each pids=()
  # A start is a chain of changes that each wait for the monitors' next proposal, up to 1 s away: shorter until it is done.
  for each in $(monitor_names); do start_daemon "mon.$each" --paxos-propose-interval 0.05; done
  if [[ ! -e registered ]]; then
    # Before the manager's first start: its device health module would make a pool. All may be said again.
    ceph_command config set mgr --force mgr/devicehealth/enable_monitoring false
    for each in $(osd_ids); do ceph_command osd new "$(cat "osd.$each/uuid")" "$each" >/dev/null; done
    touch registered
  fi
  for each in mgr.x $(osd_ids | sed 's/^/osd./'); do start_daemon "$each" & pids+=($!); done
  for each in "${pids[@]}"; do wait "$each"; done
  for each in $(osd_ids); do wait_until 60 "osd.$each is active" osd_is_active "$each"; done
  if [[ ! -e pool-made ]]; then
    ceph_command osd pool create moorage 32 32 >>log/create.log 2>&1
    wait_until 60 "all placement groups are active and clean" placement_groups_are_clean
    timeout 60 rbd pool init moorage
    touch pool-made
  else
    wait_until 60 "all placement groups are active and clean" placement_groups_are_clean
  fi
  for each in $(monitor_names); do
    ceph_command tell "mon.$each" config set paxos_propose_interval 1 >/dev/null # Ceph's default
  done
  touch ready
}


# Stops one daemon by its own process id: asked first, then killed. A daemon that a test has frozen is woken to hear it.
stop_daemon() {
  local pid limit
  pid=$(pid_of "$1") || return 0
  kill -TERM "$pid" 2>/dev/null || true
  kill -CONT "$pid" 2>/dev/null || true
  limit=$((SECONDS + 15))
  while pid_of "$1" >/dev/null; do
    if ((SECONDS >= limit)); then
      kill -KILL "$pid" 2>/dev/null || true
      limit=$((SECONDS + 15))
    fi
    sleep 0.05
  done
  rm -f "$directory/run/$1.pid"
}

stop() {
  [[ -e $settings ]] || return 0
  exec 9>"$development/$name.lock"
  flock -w 120 9 || fail "another start or stop of '$name' has been running for two minutes"
  load_settings
  rm -f "$directory/ready"
  local each pids=()
  for each in $(osd_ids); do stop_daemon "osd.$each" & pids+=($!); done
  stop_daemon mgr.x & pids+=($!)
  for each in "${pids[@]}"; do wait "$each"; done
  for each in $(monitor_names); do stop_daemon "mon.$each"; done
}

status() {
  [[ -e $settings ]] || { echo "$name: not made"; exit 3; }
  load_settings
  local each pid result=0
  for each in $(daemons); do
    if pid=$(pid_of "$each"); then echo "$each running $pid"; else echo "$each stopped"; result=3; fi
  done
  exit $result
}

case $command in
  start) start ;;
  stop) stop ;;
  status) status ;;
  env) [[ -e $configuration ]] || fail "'$name' has not been made; start it first"; echo "CEPH_CONF=$configuration" ;;
  delete)
    stop
    rm -rf "$directory" "$development/$name.lock"
    ;;
  *) usage >&2; exit 2 ;;
esac
