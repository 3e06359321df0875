#!/usr/bin/env bash
# Mixtures of experts as a user meets them: data parallel and ZeRO give the bits of one rank; expert parallel its losses, the
# router's figures and the norm within 1e-5; checkpoints move between all of them and to HuggingFace directories and back.
# Negative control: without the router's losses the run is another one.
. "$(dirname "$0")/lib.sh"
small_config
sed -i 's/^model: {/model: {experts: 4, experts_per_token: 2, /' run.yaml
train() { local n=$1 dir=$2; shift 2; ranks "$n" "$weft" train -q run.yaml --set run.dir="$dir" "$@"; }
# figures DIR NAME...: their values in all records, one a line
figures() { local d=$1 n; shift; for n; do grep -o "\"$n\":[^,}]*" "$d/metrics.jsonl"; done; }
every() { figures "$1" loss/train grad_norm router/balance router/z router/load; figures "$1" loss/valid | tail -1; }
# near A B [WITHIN]: the figures of the runs agree, up to relative WITHIN
near() {
  every "$1" | sed 's/.*://' >a.txt
  every "$2" | sed 's/.*://' >b.txt
  [ "$(wc -l <a.txt)" = 31 ] && [ "$(wc -l <b.txt)" = 31 ] || fail "$1, $2: 31 figures expected"
  paste a.txt b.txt | awk -v w="${3:-1e-5}" '{d = $1 - $2; if (d < 0) d = -d; if (!(d <= w * ($1 < 0 ? -$1 : $1))) bad = 1} END {exit bad}'
}
train 1 one
[ "$(figures one router/load | wc -l)" = 6 ] || fail "no figures of the router"
figures one router/load | sed 's/.*://' | awk '!($1 >= 1 && $1 <= 2) {bad = 1} END {exit bad}' || fail "loads are at least 1, at most experts / experts_per_token"

for layout in "2 layout.zero=0" "4 layout.zero=1" "2 layout.zero=2" "4 layout.zero=3"; do
  set -- $layout
  train "$1" "dp$1" --set "$2"
  same "dp$1" one "" || fail "$layout: another state than one rank's"
  rm -rf "dp$1"
done

for layout in "2 2" "4 4" "4 2"; do
  set -- $layout
  train "$1" "ep$1$2" --set layout.ep="$2"
  near one "ep$1$2" || fail "$1 ranks, ep $2: other figures than one rank's"
done
train 2 again --set layout.ep=2 --set train.recompute=layer
near ep22 again 1e-6 || fail "recomputation changes more than nothing"
train 4 ppep --set layout.ep=2 --set layout.pp=2
near one ppep || fail "a pipeline of ep 2: other figures than one rank's"
train 4 cpep --set layout.ep=2 --set layout.cp=2
near one cpep || fail "shared sequences and ep 2: other figures than one rank's"
train 1 control --set model.router_balance=0 --set model.router_z=0
near one control && fail "the router's losses change nothing: the comparison proves nothing"

# on from each other's checkpoints
train 2 moved --set layout.ep=2 --set train.steps=2 --set optim.schedule=constant
train 4 moved --set layout.ep=4 --set train.steps=4 --set optim.schedule=constant
train 1 moved --set optim.schedule=constant
train 1 stayed --set optim.schedule=constant
near moved stayed || fail "a run that changed its layout twice has other figures"

# out and back
"$weft" ckpt convert ep44/checkpoints/latest hf --to hf >/dev/null
grep -q MixtralForCausalLM hf/config.json || fail "no Mixtral"
a=$("$weft" eval ep44/checkpoints/latest synth.wtok.h5 --json | grep -o '"loss":[^,}]*') || true
b=$("$weft" eval hf synth.wtok.h5 --json | grep -o '"loss":[^,}]*') || true
[ -n "$a" ] && [ "$a" = "$b" ] || fail "the exported model has another loss: $a, $b"
train 2 tuned --set layout.ep=2 --set model.from=hf --set train.steps=1

expect 78 'take layout.zero 0' train 2 x --set layout.ep=2 --set layout.zero=1
expect 78 'take a divisor' train 3 x --set layout.ep=3 --set train.batch=12 --set train.reproducible=false
expect 78 'take a divisor' train 4 x --set layout.ep=3
expect 78 'no experts' train 2 x --set layout.ep=2 --set model.experts=0
expect 78 'layout.ep 1' train 2 x --set layout.ep=2 --set optim.name=muon
expect 78 'experts are not shared' train 2 x --set layout.tp=2
expect 78 'more than model.experts' train 1 x --set model.experts_per_token=5
expect 78 'family llama' train 1 x --set model.family=gpt2 --set model.kv_heads=0
echo ok
