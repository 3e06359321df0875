#!/usr/bin/env bash
# Pipelines of 2, 3 and 4 stages, plain and interleaved, even and uneven, with one chunk and several, give the losses, the weights,
# the state of the optimiser and the evaluation of one rank, bit for bit; alone and with data parallel ranks, ZeRO and
# context parallel ranks. A checkpoint of any of them goes on in any other. Without `reproducible` a tied model adds its gradients in another order
# (negative control). What makes no pipeline is refused with what would work.
. "$(dirname "$0")/lib.sh"
small_config
sed -i 's/layers: 2/layers: 8/' run.yaml
train() { # NAME RANKS SETTINGS...
  local name=$1 n=$2
  shift 2
  ranks "$n" "$weft" train -q run.yaml --set run.dir="$name" --set eval.every=3 "$@"
  [ "$(losses "$name" | wc -l)" = 6 ] || fail "$name: 6 losses expected"
  grep -o '"\(loss/train\|loss/valid\|grad_norm\)":[^,}]*' "$name/metrics.jsonl" >"$name.txt"
}
as() { # NAME ONE RANKS SETTINGS...: the run equals the run ONE
  local name=$1 one=$2
  shift
  shift
  train "$name" "$@"
  cmp "$name.txt" "$one.txt" || fail "$name: losses, norms or evaluations differ from one rank's"
  same "$name" "$one" "" || fail "$name: the state differs from one rank's"
}
pp2='--set layout.pp=2' pp4='--set layout.pp=4'
train llama 1
as llama2 llama 2 $pp2
as llama4 llama 4 $pp4
as llama42 llama 4 $pp4 --set layout.chunks=2
as uneven22 llama 2 $pp2 --set layout.chunks=2 --set 'layout.stages=[1, 4, 1, 2]' --set train.recompute=layer
as dp llama 4 $pp2
as zero2 llama 4 $pp2 --set layout.zero=2 --set layout.chunks=2
if all; then
  as llama3 llama 3 --set layout.pp=3
  as llama22 llama 2 $pp2 --set layout.chunks=2
  as uneven llama 2 $pp2 --set 'layout.stages=[7, 1]'
fi
gpt='--set model.family=gpt2 --set model.kv_heads=0'
train gpt2 1 $gpt
as gpt22 gpt2 2 $gpt $pp2
as gpt242 gpt2 4 $gpt $pp4 --set layout.chunks=2
zeros=3
! all || zeros='1 3'
for zero in $zeros; do as gpt2zero$zero gpt2 4 $gpt $pp2 --set layout.zero=$zero; done
untied='--set model.tied=false --set train.dtype=bf16 --set train.recompute=selective'
train untied 1 $untied
as untied22 untied 2 $untied $pp2 --set layout.chunks=4
train muon 1 --set optim.name=muon
as muon22 muon 4 --set optim.name=muon $pp2 --set layout.chunks=2
pieces='--set layout.pieces=2'
train pieces 1 $pieces
as cp pieces 8 $pieces $pp2 --set layout.cp=2 --set layout.zero=3 --set layout.chunks=2

# A checkpoint of one layout goes on in another.
train half 2 --set train.steps=6 $pp2 >/dev/null
cp -r half more
ranks 4 "$weft" train -q run.yaml --set run.dir=more --set train.steps=9 $pp4
ranks 1 "$weft" train -q run.yaml --set run.dir=half --set train.steps=9
same more half "" || fail "going on with four stages is not going on with one"

ranks 1 "$weft" train -q run.yaml --set run.dir=plain --set train.reproducible=false
same plain llama &&
  fail "the ordinary sum gave the same bits as the trees: the comparison proves nothing"

ranks 2 "$weft" train run.yaml --set run.dir=shown $pp2 >shown.txt
grep -q 'bubble' shown.txt || fail "the bubble is not shown"
grep -q 'of the busiest stage' shown/run.json || fail "the bubble is not in run.json"

expect 78 'too few for 4 pipeline stages with 3 chunks.*can be 8 at most' \
  ranks 4 "$weft" train -q run.yaml $pp4 --set layout.chunks=3
expect 78 'has 7 layers, the model has 8' ranks 2 "$weft" train -q run.yaml $pp2 --set 'layout.stages=[4, 3]'
expect 78 'has 3 numbers of layers; .* are 2 runs' ranks 2 "$weft" train -q run.yaml $pp2 --set 'layout.stages=[4, 3, 1]'
expect 78 'is not a number of layers' ranks 2 "$weft" train -q run.yaml $pp2 --set 'layout.stages=[4, x]'
echo ok
