#!/usr/bin/env bash
# weft info --plan says what a run then plans, part by part; what a run takes is what it planned; layout.auto takes the first
# layout that fits and says why, or what would help.
. "$(dirname "$0")/lib.sh"
"$weft" data synth synth.wtok.h5 --vocab 32 --tokens 60000 >/dev/null
cat >run.yaml <<'Y'
run: {name: plan, dir: run, seed: 3, threads: 1}
model: {family: llama, layers: 4, hidden: 512, heads: 8, kv_heads: 8, ffn: 1408, context: 64}
data: {train: synth.wtok.h5}
train: {steps: 2, batch: 8, micro_batch: 2}
save: {every: -1, async: false}
Y
rows() { tr -d '\n' <"$1/run.json" | grep -o '"Memory of a rank"[^}]*' | grep -o '"[a-z ]*", *"[0-9.]* MiB"' | sed 's/"//g; s/ MiB//; s/, */,/'; }
check() { # RANKS SETTINGS...: the parts of rank 0, as planned beforehand and as planned by the run; then what it took
  local n=$1 name value
  shift
  "$weft" info --plan run.yaml --ranks "$n" --json "$@" >plan.json
  rm -rf run
  ranks "$n" "$weft" train -q run.yaml "$@"
  while IFS=, read -r name value; do
    case $name in batches | scratch | "planned in all" | "checkpoint staging") continue ;; esac
    local bytes
    bytes=$(grep -o "\"$name\": [0-9]*" plan.json | head -1 | grep -o '[0-9]*$') || fail "no $name in the plan: $*"
    [ "$(awk -v b="$bytes" 'BEGIN {printf "%.1f", b / 1048576}')" = "$value" ] ||
      fail "$name: $bytes bytes planned beforehand, $value MiB by the run: $*"
  done < <(rows run)
  [ "$(rows run | wc -l)" -ge 6 ] || fail "no memory table"
  grep -o '[0-9.]* MiB taken for training; [0-9.]* MiB planned' run/run.json >took.txt || fail "nothing measured"
  # a process takes some 12 MiB more, for MPI and the heap; what is planned must be there to 2 %
  awk -v n="$n" '{d = $1 - $6; exit !(d < 0.02 * $6 + 12 * n && d > -0.02 * $6)}' took.txt || fail "$(cat took.txt): $n ranks $*"
}
check 1
check 1 --set train.dtype=bf16 --set train.recompute=selective
for z in 1 2 3; do check 2 --set layout.zero=$z; done
check 2 --set layout.tp=2
check 2 --set layout.pp=2
check 4 --set layout.tp=2 --set layout.zero=3 --set train.dtype=bf16
"$weft" info --plan run.yaml --set layout.pp=2 --set layout.tp=2 | grep -q 'dp 1 x tp 2 x pp 2 on 4 ranks' || fail "ranks from the axes"

# what fits: 190 MiB a rank as it is; less with each kind of sharing
auto() { # MIB REGEX
  rm -rf run
  expect 0 "layout.auto: .*$2" ranks 2 "$weft" train run.yaml --set layout.auto=true --set layout.memory="$1" --set train.steps=1
}
auto 2000 'dp 2: .* is enough'
auto 200 'zero'
auto 120 '(tp|pp) 2'
expect 78 'no layout of 2 ranks fits: the smallest plans [0-9]+ MiB' ranks 2 "$weft" train run.yaml --set layout.auto=true --set layout.memory=10
expect 78 'no layout of 2 ranks works: train.batch is 15' ranks 2 "$weft" train run.yaml --set layout.auto=true --set train.batch=15
expect 78 'tp is 3' ranks 3 "$weft" train run.yaml --set layout.tp=3
expect 78 'nearest that works is 2' ranks 4 "$weft" train run.yaml --set layout.tp=4 --set model.heads=6 --set model.kv_heads=6 --set model.head_dim=64
echo ok
