#!/usr/bin/env bash
# weft launch without any Slurm: the run file is checked before anybody is contacted, --dry-run prints what would be submitted,
# the documentation of the keys is what --keys prints, and what no Slurm answers is said.
. "$(dirname "$0")/lib.sh"
small_config
cat >>run.yaml <<Y
launch:
  min_sites: 2
  sites:
    north: {nodes: 4, tasks_per_node: 2, time: "1:00:00", dir: $work/north, env: generic-tcp}
    south: {driver: ssh, host: login.south.example, nodes: 2, dir: /lustre/run, weft: /opt/weft/bin/weft, extra: [--exclusive]}
Y
"$weft" launch run.yaml --dry-run >dry.txt || fail "--dry-run"
grep -q '^#SBATCH --nodes=4 --ntasks-per-node=2' dry.txt && grep -q '^#SBATCH --signal=B:USR1@120 --requeue --no-kill' dry.txt || fail "no script of north"
grep -q '^exec /opt/weft/bin/weft supervise /lustre/run/site.yaml' dry.txt && grep -q '^#SBATCH --exclusive' dry.txt || fail "no script of south"
grep -q '^# Environment profile generic-tcp' dry.txt || fail "no environment profile"
[ ! -e north ] && [ ! -e run.launch.json ] || fail "--dry-run has left something"
"$weft" launch run.yaml --dry-run --site south --json | python3 -c 'import json,sys; d=[json.loads(l) for l in sys.stdin]; assert [x["site"] for x in d]==["south"] and "#SBATCH" in d[0]["script"]' || fail "--json"
awk '/^#!/{n++} n==1' dry.txt | sed '/^# ----/,$d' >script.sh
bash -n script.sh || fail "bash does not read the script"
# the last part of docs/run-file.md, two spaces further in
"$weft" launch --keys >keys.txt
sed -n '/^## The section `launch`/,$p' "$top/docs/run-file.md" | sed -n 's/^  \(  .*\)/\1/p' | cmp - keys.txt || fail "docs/run-file.md is not what --keys prints"
"$weft" launch --help | grep -q 'Examples:' || fail "--help has no example"

# the training's own errors, and the launch section's, with the place
expect 78 'model.layers: found .0.' "$weft" launch run.yaml --dry-run --set model.layers=0
expect 78 'launch.sites.north.nodes: found .0.' "$weft" launch run.yaml --dry-run --set launch.sites.north.nodes=0
expect 78 'launch.sites.south.host: may hold' "$weft" launch run.yaml --dry-run --set 'launch.sites.south.host=x;touch canary'
expect 78 'launch.sites.north.dir: may hold' "$weft" launch run.yaml --dry-run --set 'launch.sites.north.dir=/x$(touch canary)'
expect 78 'launch.sites.north.env' "$weft" launch run.yaml --dry-run --set launch.sites.north.env=no-such-profile
expect 78 'unknown key .launch.site.' "$weft" launch run.yaml --dry-run --set launch.site=1
expect 78 'launch.hub.listen: is ADDR:PORT' "$weft" launch run.yaml --dry-run --set launch.hub.listen=nonsense
for bad in 1.2.3.4 1.2.3.4: 1.2.3.4:x 1.2.3.4:99999 1.2.3.4:-1 'a,b:1'; do
  expect 78 'launch.hub.listen' "$weft" launch run.yaml --dry-run --set launch.hub.listen="$bad"
done
expect 0 '' "$weft" launch run.yaml --dry-run --set launch.hub.listen=10.77.1.1:0 --set launch.hub.advertise=hub.north.example
expect 78 'launch.hub.advertise' "$weft" launch run.yaml --dry-run --set launch.hub.advertise=x:y
expect 78 'train.batch: has a line break' "$weft" launch run.yaml --dry-run --set $'train.batch=16\nrun.dir=/elsewhere'
expect 78 "launch.sites.north.conf: '/nowhere/slurm.conf' cannot be read" "$weft" launch run.yaml --dry-run --set launch.sites.north.conf=/nowhere/slurm.conf
[ ! -e canary ] || fail "a shell has looked at a name"
expect 66 'none of the run' "$weft" launch run.yaml --dry-run --site west
expect 66 'nothing.yaml' "$weft" launch nothing.yaml
expect 64 'which run file' "$weft" launch
sed '/^launch:/,$d' run.yaml >plain.yaml
expect 78 'no sites' "$weft" launch plain.yaml
# weft train reads over the section
expect 0 '' "$weft" train -q run.yaml --set train.steps=1
sed -i '/south:/d; s/min_sites: 2/min_sites: 1/' run.yaml
# what a listing and a status say, with a squeue of our own: a request that can never start, one that waits, and a supervisor
# that has fallen silent
mkdir -p shim north
comment=$("$weft" launch run.yaml --dry-run | sed -n 's/^#SBATCH.*--comment=\([^ ]*\).*/\1/p')
[ -n "$comment" ] || fail "no comment in the script"
printf '#!/bin/sh\ncat %q\n' "$work/listing" >shim/squeue
chmod 755 shim/squeue
line() { echo "4711|$1|$2|N/A|50:00|$3|$comment" >listing; }
status() { # SECONDS AGO
  echo '{"v":1,"job":4711,"generation":0,"state":"run","why":"","nodes":["n1"],"bad":[],"now_unix":'$(($(date +%s) - $1))'}' >north/status.json
}
seen() { PATH="$work/shim:$PATH" expect 0 "$1" "$weft" launch run.yaml --status; }
line PENDING PartitionNodeLimit ''
seen 'north .* queued .*never starts: PartitionNodeLimit \(.*the partition allows\)'
line PENDING BadConstraints ''
seen 'never starts: BadConstraints \(no nodes have all'
line PENDING AssocMaxNodePerJobLimit ''
seen 'never starts: AssocMaxNodePerJobLimit \(a limit'
line PENDING Priority ''
seen 'north .* queued .*Priority'
grep -q 'never' out.txt && fail "a job that only waits is said never to start"
line RUNNING None n1
status 5
seen 'north .* training'
grep -q 'status.json' out.txt && fail "a supervisor that writes is said to be silent"
status 300
seen 'north .* training .*its supervisor is silent: status.json is of 20'
rm -r north
# no Slurm: said, and the site has ended
mkdir empty
expect 69 "squeue.* is not there" env PATH="$work/empty" "$weft" launch run.yaml --poll 0.5
echo ok
