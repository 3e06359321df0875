#!/usr/bin/env bash
# Tensor-parallel ranks train the same model: the losses of every step, the gradient norms and the evaluation are one rank's
# to 1e-5, alone and with data parallelism, ZeRO and a pipeline, both families; the checkpoint is that of the whole model, and one rank
# goes on from it; reproducible runs of one tp have the same bits. What cannot be shared is refused with what can.
. "$(dirname "$0")/lib.sh"
small_config
plain=(train -q run.yaml --set train.reproducible=false)
figures() { grep -oE '"(loss/train|loss/valid|bpb/valid|grad_norm)":[^,}]*' "$1/metrics.jsonl"; }
# close A B: the figures of the two runs differ by less than a 1e-5th
close() {
  figures "$1" >a.txt
  figures "$2" >b.txt
  paste -d: a.txt b.txt | awk -F: -v name="$2" '
    { d = $2 / $4 - 1; if (d < 0) d = -d; if ($1 != $3 || d != d) d = 1; if (d > worst) worst = d }
    END { printf "%s: %.1e, %d figures\n", name, worst, NR; exit !(NR >= 13 && worst <= 1e-5) }'
}
compare() { # NAME RANKS SETTINGS... -- LAYOUT...
  local name=$1 n=$2 settings=() run
  shift 2
  while [ "$1" != -- ]; do settings+=("$1"); shift; done
  shift
  run=$(IFS=-; echo "$name-$n-$*")
  [ -e "$name" ] || ranks 1 "$weft" "${plain[@]}" --set run.dir="$name" "${settings[@]}"
  ranks "$n" "$weft" "${plain[@]}" --set run.dir="$run" "${settings[@]}" $(printf -- '--set layout.%s ' "$@")
  close "$name" "$run" || fail "$run is not as $name"
  last=$run
}
compare llama 2 -- tp=2
compare llama 4 -- tp=2 dp=2
compare llama 4 -- tp=2 zero=3
compare llama 4 -- tp=2 pp=2
compare llama 4 -- tp=2 cp=2
compare llama 8 -- tp=2 cp=2 pp=2
compare gpt2 4 --set model.family=gpt2 --set model.kv_heads=0 -- tp=4
gpt2=(--set model.family=gpt2 --set model.kv_heads=0)
close llama gpt2 && fail "any two runs are close: the comparison proves nothing"

# one rank goes on from the shared model's checkpoint as from its own
for run in gpt2 "$last"; do
  ranks 1 "$weft" "${plain[@]}" "${gpt2[@]}" --set run.dir="$run" --set train.steps=9
done
close gpt2 "$last" || fail "one rank goes on differently from the checkpoint of four"

# at one tp, data parallelism changes no bit of a reproducible run
for n in 2 4; do
  ranks $n "$weft" train -q run.yaml --set run.dir=tree$n --set layout.tp=2
  losses tree$n >tree$n.txt
done
cmp tree2.txt tree4.txt && same tree2 tree4 "" || fail "data parallelism changes bits of a reproducible tp run"

# a rank that fails anywhere, also between the passes of an evaluation, ends the run: the other does not wait for it
one=("$weft" "${plain[@]}" --set layout.tp=2 --set train.steps=2)
for n in 400 480 520 540 544 546 548 550; do
  got=0
  timeout 300 mpirun --oversubscribe --bind-to none --mca btl self,vader -n 1 "${one[@]}" --set run.dir=fault$n : \
    -n 1 env WEFT_FAULT=alloc:$n "${one[@]}" --set run.dir=fault$n >out.txt 2>&1 || got=$?
  [ $got = 0 ] || { [ $got = 71 ] && grep -q 'out of memory' out.txt; } || { cat out.txt >&2; fail "allocation $n: code $got"; }
done

expect 78 'muon.*layout.tp 1' ranks 2 "$weft" "${plain[@]}" --set run.dir=refused --set layout.tp=2 --set optim.name=muon
expect 78 'kv_heads .2. cannot be shared so; the nearest that works is 2' \
  ranks 4 "$weft" "${plain[@]}" --set run.dir=refused --set layout.tp=4
[ ! -e refused/metrics.jsonl ] || fail "a refused run wrote metrics"
echo ok
