#!/usr/bin/env bash
# Faults of a real machine, each named by `weft health`, and its absence not: a memory hog in a control group, a core that
# somebody uses, a full disk, a link that is down, GPUs (a library that stands in for NVIDIA's). What this machine does
# not let us break is said and left out.
# Usage: faults.sh WEFT_BINARY SOURCE_DIR FAKE_NVML
. "$(dirname "$0")/../cli/lib.sh"
nvml=$3
skipped=() tried=0
tried() { tried=$((tried + 1)); echo "tried: $*"; }
skip() { skipped+=("$*"); echo "left out: $*"; }
# until_finds SECONDS CODE REGEX COMMAND...: as expect, but may take a while to become true
until_finds() {
  local end=$((SECONDS + $1)) code=$2 regex=$3 got
  shift 3
  while :; do
    got=0
    "$@" >out.txt 2>&1 || got=$?
    if [ $got = "$code" ] && grep -qE "$regex" out.txt; then return; fi
    [ $SECONDS -lt $end ] || { cat out.txt >&2; fail "exit code $got, expected $code and '$regex': $*"; }
    sleep 0.2
  done
}

# --- no fault of its own: sound numbers in words, exit code 0; nothing at all in the environment
until_finds 60 0 '^ok .*loopback: [0-9]+ us' env -i "$weft" health --only ping
env -i "$weft" health --only clock,nic >out.txt || true # of which machine ever
grep -qE '(ok|DEGRADED|FAIL) .*(interface|no network)' out.txt && grep -qE '(ok|DEGRADED) .*clock: ' out.txt || { cat out.txt >&2; fail "no word of networks and the clock"; }
expect 64 "does not know the check 'wings'" "$weft" health --only wings
expect 64 'takes no arguments' "$weft" health now
expect 66 '' "$weft" health --reference missing.json
echo '{"findings": 3}' >bad.json
expect 65 "no list 'findings'" "$weft" health --reference bad.json
until_finds 60 0 '' "$weft" health --only ping --json
cp out.txt report.json
grep -q '^{"v": *1, "node": ".*"findings": \[{"check": "ping"' report.json || { cat report.json >&2; fail "the report in JSON"; }
"$weft" health --only memory --json >class.json || true
"$weft" health --only memory --reference class.json >out.txt || true
grep -q "100 % of the class's median" out.txt || { cat out.txt >&2; fail "a node that is not its own class"; }

# --- memory: a hog in a control group of our own
group= v=0
if [ -w /sys/fs/cgroup/memory/cgroup.procs ]; then
  group=/sys/fs/cgroup/memory/weft-health-$$ v=1
elif grep -qw memory /sys/fs/cgroup/cgroup.subtree_control 2>/dev/null && [ -w /sys/fs/cgroup/cgroup.procs ]; then
  group=/sys/fs/cgroup/weft-health-$$ v=2
fi
limit=$((512 * 1024 * 1024))
if [ $v != 0 ] && mkdir "$group" 2>/dev/null && { { [ $v = 1 ] && echo $limit >"$group/memory.limit_in_bytes"; } || echo $limit >"$group/memory.max"; } 2>/dev/null; then
  trap 'kill $(jobs -p) 2>/dev/null || true; for p in $(cat "$group/cgroup.procs" 2>/dev/null); do kill -9 $p 2>/dev/null || true; done; wait; rmdir "$group" 2>/dev/null || true; rm -rf "$work"' EXIT
  inside() { bash -c 'echo $$ >"$1/cgroup.procs"; shift; exec "$@"' - "$group" "$@"; }
  roomy=0 # the machine as a whole may be short of memory; then a group can only be worse
  "$weft" health --only memory >out.txt || roomy=$?
  [ $roomy != 0 ] || expect 0 '^ok .*memory: ' inside "$weft" health --only memory
  set +m
  # tail keeps what has no line end
  inside bash -c 'exec 3< <(exec head -c 475M /dev/zero); { cat <&3; exec sleep 120; } | tail >/dev/null' &
  until_finds 100 2 '^FAIL .*memory: .*control group.*the largest program is tail \(pid [0-9]+\)' inside "$weft" health --only memory
  for p in $(cat "$group/cgroup.procs"); do kill -9 "$p" 2>/dev/null || true; done
  wait 2>/dev/null || true
  [ $roomy != 0 ] || until_finds 100 0 '^ok .*memory: ' inside "$weft" health --only memory
  for _ in $(seq 100); do rmdir "$group" 2>/dev/null && break; sleep 0.1; done
  tried "memory hog"
else
  skip "memory hog: no control group with a memory limit can be made here"
fi

# --- a core that somebody else uses: six who never rest, on one core. Load from others only makes it worse. Named is who uses
# most of it: for certain only one who goes before everybody.
cpus=$(taskset -cp $$ | sed 's/.*: //' | tr , '\n' | awk -F- '{ for (i = $1; i <= ($2 == "" ? $1 : $2); i++) print i }')
core=$(tail -n 1 <<<"$cpus")
cp "$(command -v bash)" ./greedy
for _ in 1 2 3 4 5 6; do timeout 120 taskset -c "$core" ./greedy -c 'while :; do :; done' & done
until_finds 100 2 "^FAIL .*core $core: only [0-9]+ % of its time was to be had" "$weft" health --only cores
kill $(jobs -p); wait
if [ "$(wc -l <<<"$cpus")" -gt 1 ] && chrt -f 1 true 2>/dev/null; then
  timeout 120 chrt -f 1 taskset -c "$core" ./greedy -c 'while :; do :; done' &
  until_finds 100 2 "^FAIL .*core $core: .*(greedy \\(pid [0-9]+\\) runs there|the host of this guest takes it)" "$weft" health --only cores
  grep "core $core: only" out.txt
  kill $(jobs -p); wait
fi
tried "core in use"

# --- a full disk: a small tmpfs in a mount namespace of its own
names=(unshare -m)
"${names[@]}" true 2>/dev/null || names=(unshare -rm)
if "${names[@]}" bash -c 'mkdir m && mount -t tmpfs -o size=1m tmpfs m' 2>/dev/null; then
  cat >disk.sh <<'S'
mount -t tmpfs -o size="$2" tmpfs m
if [ "$3" = fill ]; then dd if=/dev/zero of=m/full bs=4k count=1000000 2>/dev/null; fi
exec "$1" health --only disk --dir "$PWD/m"
S
  mkdir -p m
  until_finds 60 0 '^ok .*/m: can be written' "${names[@]}" bash disk.sh "$weft" 64m leave
  until_finds 60 2 '^FAIL .*/m: .*(disk full|free \(0)' "${names[@]}" bash disk.sh "$weft" 1m fill
  tried "full disk"
else
  skip "full disk: no tmpfs can be mounted here"
fi
until_finds 60 2 'missing: opening a file in it failed: No such file' "$weft" health --only disk --dir "$work/missing"

# --- a link whose other end goes down, in a network namespace of its own
names=(unshare -n)
"${names[@]}" true 2>/dev/null || names=(unshare -rn)
if command -v ip >/dev/null && "${names[@]}" ip link add va type veth peer name vb 2>/dev/null; then
  cat >link.sh <<'S'
set -e
weft=$1
ip link add va type veth peer name vb
ip link set lo up
ip link set va up
ip link set vb up
ip address add 192.0.2.1/24 dev va
ip route add default dev va
try() { # CODE REGEX OPTIONS...: news of a link take a moment
  local code=$1 regex=$2 got end=$((SECONDS + 60))
  shift 2
  while :; do
    got=0
    "$weft" health --only nic,ping "$@" >link.txt 2>&1 || got=$?
    if [ $got = $code ] && grep -qE "$regex" link.txt; then return; fi
    [ $SECONDS -lt $end ] || { echo "FAIL: exit code $got, expected $code and '$regex':" >&2; cat link.txt >&2; exit 1; }
    sleep 0.2
  done
}
try 0 'interface va is up' --nic va
ip link set vb down
try 2 '^FAIL .*interface va has no carrier' # it carries the default route: nobody had to name it
ip link set vb up
try 0 'interface va is up'
ip link set va down
try 2 '^FAIL .*interface va is switched off' --nic va
try 2 '^FAIL .*interface vc is not there' --nic vc
ip link set lo down
try 2 '^FAIL .*loopback does not answer'
S
  "${names[@]}" bash link.sh "$weft"
  tried "link down"
else
  skip "link down: no veth pair in a namespace can be made here"
fi
until_finds 60 2 '^FAIL .*peer 127.0.0.1:x does not answer' "$weft" health --only ping --peer 127.0.0.1:x
until_finds 60 0 'peer 127.0.0.1:1: ' "$weft" health --only ping --peer 127.0.0.1:1 # refused: somebody is there

# --- GPUs
mkdir lib
cp "$nvml" lib/libnvidia-ml.so.1
gpu() { local fault=$1; shift; FAKE_GPU_FAULT=$fault FAKE_GPUS=4 LD_LIBRARY_PATH=$work/lib "$weft" health --only gpu "$@"; }
expect 0 '4 GPUs, 4 of them without remark' gpu none
expect 2 'GPU 3: 3 memory errors' gpu ecc
expect 2 'GPU 3: does not answer' gpu bus
expect 1 'GPU 3: rows of its memory wait' gpu rows
expect 1 'GPU 3: its clock is held down by heat \(93 degrees\)' gpu heat
expect 1 'GPU 3: 60.0 of 80.0 GB' gpu taken
expect 2 'its driver does not answer' gpu driver
expect 0 '' gpu heat --prolog # works: a Prolog must not drain it
gpu none --json >class.json
FAKE_GPUS=3 LD_LIBRARY_PATH=$work/lib expect 2 "75 % of the class's median 4" "$weft" health --only gpu --reference class.json
tried "GPUs"

echo "$tried kinds of fault tried, ${#skipped[@]} left out"
