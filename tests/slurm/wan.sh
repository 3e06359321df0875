#!/usr/bin/env bash
# Two clusters, each in a network of its own, joined by the emulated wide-area network: what goes from one to the other takes the
# line's time, a cluster's controller cannot be reached from the other, and one `weft launch` trains on both.
# Usage: wan.sh WEFT_BINARY SOURCE_DIR WANEM
. "$(dirname "$0")/lib.sh"
wanem=$3
[ "$(id -u)" = 0 ] && unshare --uts --net true 2>/dev/null || { echo "not root, or no namespaces" >&2; exit 77; }
command -v python3 >/dev/null || { echo "no python3" >&2; exit 77; }
cat >scenario <<'S'
site north
site south
link north<>south rate=100M delay=25ms
S
bed_up --cluster north:2 --cluster south:2 --wan "$work/scenario" --wanem "$wanem"
PATH=$bed/bin:$PATH
south=$(sed -n 's/.*cluster south.* at //p' up.txt)
[ -n "$south" ] || fail "no address of south"

# 50 ms there and back, at least; nobody listens there, and nobody else answers in its place
took=$(timeout 600 srun -n1 python3 -c '
import socket, sys, time
began = time.time()
try: socket.create_connection((sys.argv[1], 9), 60)
except ConnectionRefusedError: print(int(1000 * (time.time() - began)))
' "$south")
[ "${took:-0}" -ge 45 ] || fail "from north to south and back took ${took:-no} ms"
port=$(sed -n 's/^SlurmctldPort=//p' "$bed/south/slurm.conf")
if timeout 600 srun -n1 python3 -c 'import socket, sys; socket.create_connection(("127.0.0.1", int(sys.argv[1])), 60)' "$port" 2>/dev/null; then
  fail "the controller of south answers in north"
fi

small_config
sed -i -e '/^run:/s/dir: [^,]*, //' -e '/^train:/s/steps: 6/steps: 1000000/' -e '/^train:/s/, reproducible: true//' run.yaml
cat >>run.yaml <<Y
sites: {preset: stream, every: 20, chunk: 16384}
launch:
  hub: {site: north, listen: "$(sed -n 's/.*cluster north.* at //p' up.txt):0"}
  sites:
    north: {driver: local, conf: $bed/north/slurm.conf, nodes: 2, tasks_per_node: 1, cpus_per_task: 1, time: "00:20:00", dir: $work/north, weft: $paced}
    south: {driver: local, conf: $bed/south/slurm.conf, nodes: 2, tasks_per_node: 1, cpus_per_task: 1, time: "00:20:00", dir: $work/south, weft: $paced}
Y
timeout 1200 "$weft" launch run.yaml --poll=2 >launch.txt 2>&1 &
launch=$!
show() { tail -n 20 launch.txt stop.txt north/hub.log north/train.* south/train.* north/slurm-* south/slurm-* >&2 2>/dev/null || true; }
together() { [ "$(cat "$1/run/metrics.jsonl" 2>/dev/null | grep -c '"ev":"outer".*"sites":2')" -ge 3 ]; }
for n in north south; do until_true 600 together $n || { show; fail "no rounds of two sites at $n"; }; done
timeout 600 "$weft" launch run.yaml --poll=2 --stop >stop.txt 2>&1 || { show; fail "--stop"; }
code=0
wait $launch || code=$?
[ $code = 85 ] || { show; fail "weft launch ended with $code"; }
for n in north south; do "$weft" ckpt verify "$n/run/checkpoints/latest" >/dev/null || { show; fail "$n has saved nothing"; }; done
echo ok
