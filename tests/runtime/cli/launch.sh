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
[ ! -e canary ] || fail "a shell has looked at a name"
expect 66 'none of the run' "$weft" launch run.yaml --dry-run --site west
expect 66 'nothing.yaml' "$weft" launch nothing.yaml
expect 64 'which run file' "$weft" launch
sed '/^launch:/,$d' run.yaml >plain.yaml
expect 78 'no sites' "$weft" launch plain.yaml
# weft train reads over the section
expect 0 '' "$weft" train -q run.yaml --set train.steps=1
# no Slurm: said, and the site has ended
mkdir empty
sed -i '/south:/d; s/min_sites: 2/min_sites: 1/' run.yaml
expect 69 "squeue.* is not there" env PATH="$work/empty" "$weft" launch run.yaml --poll 0.5
echo ok
