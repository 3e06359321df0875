#!/usr/bin/env bash
# The options of slurm/spank reach the tasks of srun and of sbatch, wrong values are refused, the meter counts, a site joins a
# run by `srun --weft-join`; a missing plugin does nothing where it is `optional` and stops srun where it is `required`.
# Usage: spank.sh WEFT_BINARY SOURCE_DIR
. "$(dirname "$0")/lib.sh"
printf '#include <slurm/slurm.h>\n#include <slurm/spank.h>\n' | cc -E - >/dev/null 2>&1 || { echo "skipped: no slurm/spank.h here (libslurm-dev)"; exit 77; }
# refuses REGEX COMMAND...: fails, with whatever code srun has for it, and says REGEX
refuses() {
  local regex=$1
  shift
  if "$@" >out.txt 2>&1; then fail "went through: $*"; fi
  grep -qE "$regex" out.txt || { cat out.txt >&2; fail "no message like '$regex': $*"; }
}

cmake -S "$top/slurm/spank" -B plugin >log 2>&1 && cmake --build plugin >log 2>&1 || { cat log >&2; fail "the plugin cannot be built"; }
! grep -qi warning log || { cat log >&2; fail "warnings"; }
bed_up --cluster north:2
stack=$bed/north/plugstack.conf
srun="timeout 600 srun"

# without the plugin the options do not exist
refuses "unrecognized option .--weft-join" $srun -n1 --weft-join=h:1 true
echo "optional $PWD/plugin/spank_weft.so" >"$stack"

# --- srun: on both nodes
$srun --help | grep -q -- '--weft-join=HOST:PORT' || fail "srun --help does not know the options"
$srun -N2 -n2 --weft-join=hub.example:7411 --weft-voucher=v-17 --weft-meter env >env.txt
for v in WEFT_JOIN=hub.example:7411 WEFT_VOUCHER=v-17 WEFT_METER=1; do
  [ "$(grep -cx "$v" env.txt)" = 2 ] || { grep WEFT env.txt >&2 || true; fail "$v is not in two tasks"; }
done
$srun -N2 -n2 env >env.txt
! grep '^WEFT_\(JOIN\|VOUCHER\|METER\)=' env.txt || fail "options that nobody gave"
metered() { grep -hc "weft-meter: .*step=$1 .*voucher=$2" "$bed"/north/log/slurmd.*.log | awk '{ n += $1 } END { exit n < '"$3"' }'; }
until_true 60 metered '[0-9]*' v-17 2
for bad in hub :7411 hub:0 hub:99999 'hub;id:1' 'hub:1 x' ''; do
  refuses 'takes HOST:PORT' $srun -n1 --weft-join="$bad" true
done
refuses 'takes letters, digits' $srun -n1 --weft-voucher='$(id)' true
$srun -n1 --weft-join=@/scratch/run/hub.addr env | grep -qx 'WEFT_JOIN=@/scratch/run/hub.addr' || fail "@FILE"

# --- sbatch: the script, and a step in it
printf '#!/bin/bash\nenv | sed s/^/script:/\nsrun -n2 env | sed s/^/step:/\n' >job.sh
timeout 600 sbatch --wait --output=job.out -N1 -n2 --weft-join=hub.example:7411 --weft-meter job.sh >/dev/null
grep -qx 'script:WEFT_JOIN=hub.example:7411' job.out || { cat job.out >&2; fail "the batch script does not know"; }
[ "$(grep -cx 'step:WEFT_JOIN=hub.example:7411' job.out)" = 2 ] || { cat job.out >&2; fail "the step of the batch script does not know"; }
until_true 60 metered batch - 1

# --- the real thing: a run whose invitations name an address where nobody listens. Only the option brings site b there.
"$weft" data synth text.wtok.h5 --vocab 32 --tokens 60000 >/dev/null
cat >run.yaml <<'Y'
run: {name: far, seed: 3, threads: 1}
model: {family: llama, layers: 2, hidden: 32, heads: 4, kv_heads: 2, ffn: 64, context: 32}
data: {train: text.wtok.h5, valid: text.wtok.h5}
train: {steps: 100000, batch: 4, micro_batch: 2}
optim: {name: adamw, lr: 3e-3, schedule: constant}
eval: {windows: 16}
save: {every: 100000}
sites: {every: 20, chunk: 4096, patience: 300}
Y
"$weft" hub --dir hub --listen 127.0.0.1:0 --advertise 127.0.0.1:1 --run far >hub.log 2>&1 &
until_true 60 test -s hub/address
pid=$! # its port is whichever was free
ss -Hltnp >listening.txt
hub=$(awk -v p="pid=$pid," 'index($0, p) { print $4; exit }' listening.txt)
[ -n "$hub" ] || fail "where does the hub listen? $(cat listening.txt)"
for s in a b; do "$weft" hub invite $s --dir hub >$s.json; done
"$paced" train run.yaml --site a --invite a.json --set run.dir="$work/a" --join "$hub" -q >a.log 2>&1 &
rounds() { cat "$1/metrics.jsonl" 2>/dev/null | grep -c '"ev":"outer"' || true; }
has_rounds() { [ "$(rounds "$1")" -ge "$2" ]; }
until_true 200 has_rounds a 2 || { cat a.log >&2; fail "site a does not train"; }
refuses 'could not join' timeout 300 srun -n1 "$weft" train run.yaml --site b --invite b.json --set run.dir="$work/b0" --set sites.patience=5 -q
srun -n1 --weft-join="$hub" "$paced" train run.yaml --site b --invite b.json --set run.dir="$work/b" -q >b.log 2>&1 &
step=$!
for _ in $(seq 1000); do
  has_rounds b 2 && break
  kill -0 $step 2>/dev/null || { cat b.log >&2; fail "the step of site b ended"; }
  sleep 0.2
done
has_rounds b 2 || { tail -n 5 a.log b.log >&2; fail "site b takes no part"; }
scancel --user="$(id -un)"
wait $step || true

# --- a plugin that is not there
echo "optional $PWD/plugin/missing.so" >"$stack"
[ "$($srun --overlap -n1 echo works)" = works ] || fail "an optional plugin that is missing stops srun"
echo "required $PWD/plugin/missing.so" >"$stack"
refuses 'missing.so' $srun --overlap -n1 echo works
echo ok
